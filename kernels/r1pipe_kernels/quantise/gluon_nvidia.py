"""Both layouts of 1 x 128 quantisation from one read, in Gluon, bitwise equal to `reference`.

Triton's compiler spreads the few scales of a tile over all threads, each of which then divides for
itself; dividing costs more than everything else here. With layouts written out, a tile's 128
largest magnitudes go to 128 threads, which divide once, and the factors come back.
"""

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from r1pipe_kernels.formats import AMAX_FLOOR, E4M3_MAX, blocks, empty_codes, empty_scales

FLOOR = gl.constexpr(AMAX_FLOOR)
MAX = gl.constexpr(E4M3_MAX)


@gluon.jit
def scale_of(bits, POWER_OF_TWO: gl.constexpr):
    """(scale, inverse) from the bits of the largest magnitude."""
    amax = bits.to(gl.float32, bitcast=True)
    floored = gl.where(amax < FLOOR, FLOOR, amax)
    top = gl.full([128], MAX, gl.float32, bits.type.layout)
    scale = gl.div_rn(floored, top)
    inverse = gl.div_rn(top, floored)
    if POWER_OF_TWO:
        raw = scale.to(gl.int32, bitcast=True)
        exponent = (raw >> 23) + ((raw & 0x7FFFFF) != 0).to(gl.int32)
        finite = (raw >> 23) != 255
        scale = gl.where(finite, (exponent << 23).to(gl.float32, bitcast=True), scale)
        inverse = gl.where(finite, ((254 - exponent) << 23).to(gl.float32, bitcast=True), inverse)
    zero = bits == 0
    return gl.where(zero, 1.0, scale), gl.where(zero, 1.0, inverse)


@gluon.jit
def encode(x, inverse):
    # At most 448 and a rounding: nothing to clamp, and the conversion would saturate.
    return (x * inverse).to(gl.float8e4nv)


@gluon.jit
def tile_kernel(
    x_ptr, row_codes, row_scales, col_codes, col_scales,
    M, K, stride_m, row_stride, row_scale_stride, col_stride, col_scale_stride,
    ROW: gl.constexpr, SILU: gl.constexpr, POWER_OF_TWO: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """One tile of 128 x 128 a CTA; num_warps = 8."""
    # 16 neighbours of a row a thread: one 16-byte store of codes.
    wide: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [8, 1], [1, 0])
    # 16 neighbours of a column a thread, of 4 columns: they come as words from shared memory.
    tall: gl.constexpr = gl.BlockedLayout([16, 4], [8, 4], [1, 8], [0, 1])
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [8], [0])
    mb = gl.program_id(0)
    kb = gl.program_id(1)
    rows = mb * 128 + gl.arange(0, 128, gl.SliceLayout(1, wide))
    columns = kb * 128 + gl.arange(0, 128, gl.SliceLayout(0, wide))
    mask = (rows < M)[:, None] & (columns < K)[None, :]
    pointers = x_ptr + rows.to(gl.int64)[:, None] * stride_m + columns[None, :]
    x = gl.load(pointers, mask=mask, other=0.0)
    if SILU:
        gate = x.to(gl.float32)
        up = gl.load(pointers + K, mask=mask, other=0.0).to(gl.float32)
        x = gate / (1.0 + gl.exp(-gate)) * up
    # Both before anything else: the bits need as many registers as the tile.
    bits = x.to(gl.float32).to(gl.int32, bitcast=True) & 0x7FFFFFFF
    amax = gl.convert_layout(gl.max(bits, axis=0), flat)
    if ROW:
        row_amax = gl.convert_layout(gl.max(bits, axis=1), flat)
    at = gl.arange(0, 128, flat)
    scale, inverse = scale_of(amax, POWER_OF_TWO)
    column = kb * 128 + at
    gl.store(col_scales + mb.to(gl.int64) * col_scale_stride + column, scale, mask=column < K)
    inverse = gl.convert_layout(inverse, gl.SliceLayout(0, wide))
    codes = gl.convert_layout(encode(x.to(gl.float32), inverse[None, :]), tall)
    rows_t = mb * 128 + gl.arange(0, 128, gl.SliceLayout(1, tall))
    columns_t = kb * 128 + gl.arange(0, 128, gl.SliceLayout(0, tall))
    out = col_codes + columns_t.to(gl.int64)[None, :] * col_stride + rows_t[:, None]
    gl.store(out, codes, mask=(rows_t < M)[:, None] & (columns_t < K)[None, :])
    if ROW:
        scale, inverse = scale_of(row_amax, POWER_OF_TWO)
        row = mb * 128 + at
        gl.store(row_scales + kb.to(gl.int64) * row_scale_stride + row, scale, mask=row < M)
        inverse = gl.convert_layout(inverse, gl.SliceLayout(1, wide))
        out = row_codes + rows.to(gl.int64)[:, None] * row_stride + columns[None, :]
        gl.store(out, encode(x.to(gl.float32), inverse[:, None]), mask=mask)


@gluon.jit
def weight_kernel(
    w_ptr, codes, scales, t_codes, t_scales, N, K, w_stride, stride, t_stride, NB, KB,
    POWER_OF_TWO: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """One block of 128 x 128 a CTA, its codes straight and transposed; num_warps = 8."""
    wide: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [8, 1], [1, 0])
    tall: gl.constexpr = gl.BlockedLayout([16, 4], [8, 4], [1, 8], [0, 1])
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [8], [0])
    nb = gl.program_id(0)
    kb = gl.program_id(1)
    rows = nb * 128 + gl.arange(0, 128, gl.SliceLayout(1, wide))
    columns = kb * 128 + gl.arange(0, 128, gl.SliceLayout(0, wide))
    mask = (rows < N)[:, None] & (columns < K)[None, :]
    pointers = w_ptr + rows.to(gl.int64)[:, None] * w_stride + columns[None, :]
    x = gl.load(pointers, mask=mask, other=0.0).to(gl.float32)
    bits = x.to(gl.int32, bitcast=True) & 0x7FFFFFFF
    amax = gl.max(gl.max(bits, axis=1), axis=0)
    scale, inverse = scale_of(gl.full([128], 0, gl.int32, flat) + amax, POWER_OF_TWO)
    at = gl.arange(0, 128, flat)
    gl.store(scales + nb * KB + kb + at, scale, mask=at == 0)
    gl.store(t_scales + kb * NB + nb + at, scale, mask=at == 0)
    inverse = gl.convert_layout(inverse, gl.SliceLayout(0, wide))
    encoded = encode(x, inverse[None, :])
    out = codes + rows.to(gl.int64)[:, None] * stride + columns[None, :]
    gl.store(out, encoded, mask=mask)
    rows_t = nb * 128 + gl.arange(0, 128, gl.SliceLayout(1, tall))
    columns_t = kb * 128 + gl.arange(0, 128, gl.SliceLayout(0, tall))
    out = t_codes + columns_t.to(gl.int64)[None, :] * t_stride + rows_t[:, None]
    turned = gl.convert_layout(encoded, tall)
    gl.store(out, turned, mask=(rows_t < N)[:, None] & (columns_t < K)[None, :])


def quantise_weight(w: torch.Tensor, power_of_two: bool = False):
    """As in `reference`; w must have contiguous rows."""
    n, k = w.shape
    codes, t_codes = empty_codes(n, k, w), empty_codes(k, n, w)
    scales = w.new_empty(blocks(n), blocks(k), dtype=torch.float32)
    t_scales = w.new_empty(blocks(k), blocks(n), dtype=torch.float32)
    if n and k:
        weight_kernel[(blocks(n), blocks(k))](
            w, codes, scales, t_codes, t_scales, n, k, w.stride(0), codes.stride(0),
            t_codes.stride(0), blocks(n), blocks(k), POWER_OF_TWO=power_of_two, num_warps=8,
            maxnreg=128,
        )  # fmt: skip
    return codes, scales, t_codes, t_scales


def columns(x: torch.Tensor, row: bool, silu: bool, power_of_two: bool):
    """Codes and scales by columns and, with `row`, by rows; x must have contiguous rows."""
    m, k = x.shape[0], x.shape[1] // 2 if silu else x.shape[1]
    t_codes, t_scales = empty_codes(k, m, x), empty_scales(blocks(m), k, x)
    codes, scales = t_codes, t_scales
    if row:
        codes, scales = empty_codes(m, k, x), empty_scales(blocks(k), m, x)
    if m and k:
        tile_kernel[(triton.cdiv(m, 128), blocks(k))](
            x, codes, scales, t_codes, t_scales, m, k, x.stride(0), codes.stride(0),
            scales.stride(0), t_codes.stride(0), t_scales.stride(0), ROW=row, SILU=silu,
            POWER_OF_TWO=power_of_two, num_warps=8, maxnreg=128,
        )  # fmt: skip
    return codes, scales, t_codes, t_scales
