"""Block quantisation to E4M3 in torch: the definition that every other implementation equals.

Per block, in fp32, with amax the largest magnitude:

    scale = amax / 448        inverse = 448 / amax        code = e4m3(x * inverse)

- a block of zeros has scale 1 and codes 0, so a zero gradient stays zero;
- amax below `AMAX_FLOOR` counts as that floor;
- a block with NaN or inf has a scale of NaN or inf and dequantises to NaN;
- `power_of_two`: the scale is rounded up to a power of two (UE8M0), the inverse is exact.
"""

import torch
import torch.nn.functional as F

from r1pipe_kernels.formats import (
    AMAX_FLOOR,
    BLOCK,
    E4M3,
    E4M3_MAX,
    blocks,
    empty_codes,
    empty_experts,
    empty_scales,
)


def scale_of(amax: torch.Tensor, power_of_two: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, inverse) of blocks with largest magnitude `amax` (fp32)."""
    floored = torch.where(amax < AMAX_FLOOR, AMAX_FLOOR, amax)
    # A number over a tensor is a reciprocal and a product in torch, which rounds twice.
    scale, inverse = floored / E4M3_MAX, torch.full_like(floored, E4M3_MAX) / floored
    if power_of_two:
        bits = scale.view(torch.int32)
        exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).int()
        finite = scale.isfinite()
        scale = torch.where(finite, (exponent << 23).view(torch.float32), scale)
        inverse = torch.where(finite, ((254 - exponent) << 23).view(torch.float32), inverse)
    zero = amax == 0
    return torch.where(zero, 1.0, scale), torch.where(zero, 1.0, inverse)


def _encode(x: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    # At most 448 and a rounding, which the conversion rounds off: nothing to clamp.
    return (x * inverse).to(E4M3)


def quantise_rows(x: torch.Tensor, power_of_two: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] -> codes [M, K], scales [KB, M], blocks of 1 x 128."""
    rows, columns = x.shape
    padded = F.pad(x.float(), (0, blocks(columns) * BLOCK - columns))
    tiles = padded.view(rows, blocks(columns), BLOCK)
    scale, inverse = scale_of(tiles.abs().amax(-1), power_of_two)
    codes = empty_codes(rows, columns, x)
    codes.copy_(_encode(tiles, inverse[..., None]).view(padded.shape)[:, :columns])
    scales = empty_scales(blocks(columns), rows, x)
    return codes, scales.copy_(scale.t())


def quantise_columns(
    x: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] -> codes [K, M], scales [MB, K]: the transposed matrix, blocks of 1 x 128."""
    return quantise_rows(x.t(), power_of_two)


def quantise_both(
    x: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, then columns: what the forward product needs and what the weight gradient needs."""
    return *quantise_rows(x, power_of_two), *quantise_columns(x, power_of_two)


def quantise_weight(
    w: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """w [N, K] -> codes [N, K], scales [NB, KB], and of the transpose; 128 x 128 blocks."""
    n, k = w.shape
    padded = F.pad(w.float(), (0, blocks(k) * BLOCK - k, 0, blocks(n) * BLOCK - n))
    tiles = padded.view(blocks(n), BLOCK, blocks(k), BLOCK)
    scale, inverse = scale_of(tiles.abs().amax((1, 3)), power_of_two)
    encoded = _encode(tiles, inverse[:, None, :, None]).view(padded.shape)[:n, :k]
    codes, transposed = empty_codes(n, k, w), empty_codes(k, n, w)
    codes.copy_(encoded)
    transposed.copy_(encoded.t())
    # A contiguous transpose of one block would be the same tensor.
    return codes, scale, transposed, scale.t().clone(memory_format=torch.contiguous_format)


def quantise_weights(
    w: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """w [E, N, K]: `quantise_weight` of every matrix -> codes [E, N, K], scales [E, NB, KB], and of
    the transposes [E, K, N], [E, KB, NB]."""
    experts, n, k = w.shape
    codes, transposed = empty_experts(experts, n, k, w), empty_experts(experts, k, n, w)
    scales = w.new_empty(experts, blocks(n), blocks(k), dtype=torch.float32)
    t_scales = w.new_empty(experts, blocks(k), blocks(n), dtype=torch.float32)
    out = codes, scales, transposed, t_scales
    for e in range(experts):
        for whole, part in zip(out, quantise_weight(w[e], power_of_two), strict=True):
            whole[e].copy_(part)
    return out


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up in fp32, both [M, F]."""
    gate, up = gate.float(), up.float()
    return gate / (1 + torch.exp(-gate)) * up


def silu_mul_backward(dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Gradients of `silu_mul` for dh [M, F]: fp32 [M, 2F], gate's left of up's."""
    dh, gate, up = dh.float(), gate.float(), up.float()
    sigmoid = 1 / (1 + torch.exp(-gate))
    left = dh * (sigmoid * (up * (1 + gate * (1 - sigmoid))))
    return torch.cat([left, dh * (sigmoid * gate)], dim=1)


def silu_mul_quantise(
    gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`quantise_both` of `silu_mul`, which is not rounded to bf16 in between."""
    return quantise_both(silu_mul(gate, up), power_of_two)


def silu_mul_quantise_rows(
    gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of `silu_mul_quantise` alone: what inference needs."""
    return quantise_rows(silu_mul(gate, up), power_of_two)


def silu_mul_backward_quantise(
    dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`quantise_both` of `silu_mul_backward`."""
    return quantise_both(silu_mul_backward(dh, gate, up), power_of_two)


def dequantise(
    codes: torch.Tensor,
    scales: torch.Tensor,
    block: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """codes [R, C] times scales [ceil(R / block[0]), ceil(C / block[1])], any block, any layout.

    A matrix whose rows are no multiple of the block (576 rows of `kv_a_proj_with_mqa` under 128)
    has a last row of blocks that is cut off. The product is exact in fp32, then rounded once.
    """
    rows, columns = codes.shape
    wide = scales.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return (codes.float() * wide).to(dtype)
