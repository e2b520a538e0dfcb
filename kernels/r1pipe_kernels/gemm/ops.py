"""The block-scaled FP8 product as torch operators.

    forward            gemm(x [M, K], w [N, K])                    -> y [M, N]
    gradient of x      gemm(dy [M, N], transposed w [K, N])        -> dx [M, K]
    gradient of w      gemm_rows(transposed dy [N, M], transposed x [K, M]) -> dw [N, K]

`gemm` takes 128 x 128 scales of b, `gemm_rows` 1 x 128 ones. Both write a new matrix or, as
`gemm_into` and `gemm_rows_into`, add to an fp32 one (a main gradient).
"""

import torch
from torch import Tensor

from r1pipe_kernels import backend
from r1pipe_kernels.formats import E4M3, blocks, require
from r1pipe_kernels.repeats import Repeats

from . import reference

OUTPUTS = (torch.bfloat16, torch.float32)


def _fits(a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, rows: bool) -> bool:
    """Whether `_explain` has nothing to say; messages cost more than what they are about."""
    (m, k), n, kb = a.shape, b.shape[0], blocks(a.shape[1])
    return (
        (a.dtype == E4M3 and b.dtype == E4M3 and b.shape[1] == k)
        and (a.stride(1) == 1 and a.stride(0) % 16 == 0)
        and (b.stride(1) == 1 and b.stride(0) % 16 == 0)
        and (a_s.dtype == torch.float32 and b_s.dtype == torch.float32)
        and (a_s.shape == (kb, m) and b_s.shape == ((kb, n) if rows else (blocks(n), kb)))
        and (a_s.stride(1) == 1 and b_s.stride(1) == 1)
        and (a_s.stride(0) % 4 == 0 and not (rows and b_s.stride(0) % 4))
    )


def _explain(name: str, a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, rows: bool) -> None:
    """ValueError saying what of the operands does not fit."""
    for label, codes in (("a", a), ("b", b)):
        require(codes.dtype == E4M3, f"{name}: {label} must hold E4M3 codes, got {codes.dtype}")
        require(codes.dim() == 2, f"{name}: {label} must be a matrix, got {tuple(codes.shape)}")
        require(
            codes.stride(1) == 1 and codes.stride(0) % 16 == 0,
            f"{name}: {label} has strides {codes.stride()}; rows must be contiguous and start at "
            "multiples of 16 bytes (the quantisers' outputs do; else formats.empty_codes)",
        )
    (m, k), n = a.shape, b.shape[0]
    require(b.shape[1] == k, f"{name}: a has {k} columns, b {b.shape[1]}")
    want = {"a": (blocks(k), m), "b": (blocks(k), n) if rows else (blocks(n), blocks(k))}
    for label, scales in (("a", a_s), ("b", b_s)):
        require(
            scales.dtype == torch.float32 and tuple(scales.shape) == want[label],
            f"{name}: the scales of {label} must be fp32 {want[label]}, "
            f"got {scales.dtype} {tuple(scales.shape)}",
        )
        require(scales.stride(1) == 1, f"{name}: rows of the scales of {label} must be contiguous")
    for label, scales in (("a", a_s), *((("b", b_s),) if rows else ())):
        require(
            scales.stride(0) % 4 == 0,
            f"{name}: rows of the scales of {label} must start at multiples of 16 bytes "
            "(formats.empty_scales)",
        )


_repeats = Repeats()


def _run(name: str, a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, c: Tensor, *, rows: bool,
         add: bool) -> None:  # fmt: skip
    tensors, key = (a, a_s, b, b_s, c), None
    if backend.choose(a) == "gluon":
        key = _repeats.key(tensors, rows, add)
        if _repeats.launched(key, tensors):
            return
    if not (a.dim() == 2 == b.dim() and _fits(a, a_s, b, b_s, rows)):
        _explain(name, a, a_s, b, b_s, rows)
    if c.dtype not in OUTPUTS:
        raise ValueError(f"{name}: output must be bf16 or fp32, got {c.dtype}")
    require(c.stride(1) == 1, "rows of the output must be contiguous")
    if 0 in c.shape:
        return
    if a.shape[1] == 0:
        if not add:
            c.zero_()
        return
    kind = backend.choose(a)
    if kind == "reference":
        product = reference.gemm(a, a_s, b, b_s, rows)
        c.copy_(c + product if add else product)
    elif kind == "gluon":
        from . import launch

        _repeats.keep(key, launch.gemm(*tensors, rows, add))
    else:
        from . import triton_impl

        triton_impl.gemm(a, a_s, b, b_s, c, rows, add)


def _new(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    # Rows padded to 16 bytes, so that the copy engine can write them whatever N is.
    n = b.shape[0]
    stride = -(-n // 8) * 8
    return a.new_empty_strided((a.shape[0], n), (stride, 1), dtype=dtype)


@torch.library.custom_op("r1pipe::gemm", mutates_args=())
def gemm(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, dtype: torch.dtype) -> Tensor:
    """a [M, K], scales [KB, M]; b [N, K], scales [NB, KB] -> [M, N] in bf16 or fp32."""
    c = _new(a, b, dtype)
    _run("gemm", a, a_scales, b, b_scales, c, rows=False, add=False)
    return c


@torch.library.custom_op("r1pipe::gemm_rows", mutates_args=())
def gemm_rows(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, dtype: torch.dtype
) -> Tensor:
    """a [M, K], scales [KB, M]; b [N, K], scales [KB, N] -> [M, N] in bf16 or fp32."""
    c = _new(a, b, dtype)
    _run("gemm_rows", a, a_scales, b, b_scales, c, rows=True, add=False)
    return c


@torch.library.custom_op("r1pipe::gemm_into", mutates_args=("c",))
def gemm_into(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> None:
    """Add `gemm` to c [M, N] in fp32; results below 2^-126 count as zero."""
    require(c.dtype == torch.float32, f"gemm_into: c must be fp32, got {c.dtype}")
    _run("gemm_into", a, a_scales, b, b_scales, c, rows=False, add=True)


@torch.library.custom_op("r1pipe::gemm_rows_into", mutates_args=("c",))
def gemm_rows_into(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> None:
    """Add `gemm_rows` to c [M, N] in fp32; results below 2^-126 count as zero."""
    require(c.dtype == torch.float32, f"gemm_rows_into: c must be fp32, got {c.dtype}")
    _run("gemm_rows_into", a, a_scales, b, b_scales, c, rows=True, add=True)


@gemm.register_fake
def _(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, dtype: torch.dtype) -> Tensor:
    return _new(a, b, dtype)


@gemm_rows.register_fake
def _(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, dtype: torch.dtype) -> Tensor:
    return _new(a, b, dtype)


@gemm_into.register_fake
def _(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> None:
    return None


@gemm_rows_into.register_fake
def _(c: Tensor, a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> None:
    return None
