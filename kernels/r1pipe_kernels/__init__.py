"""Block-scaled FP8 kernels for training: quantisers and matrix products, with torch references.

`r1pipe_kernels.quantise`, `.gemm` and `.grouped` hold one operation each, `.layers` those of layers
in 16 bits: `reference` (torch, any device, defines the result), `triton_impl` or `gluon_sm90` (GPU)
and `ops` (what callers use).
Importing the package loads neither torch nor triton.
"""

__version__ = "0.1.0"
