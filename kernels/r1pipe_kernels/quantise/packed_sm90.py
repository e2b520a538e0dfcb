"""Quantisers of matrices in bf16 and fp32 that keep a tile packed; `gluon_nvidia` calls them.

A CTA has a tile of 128 x 128. Bitwise equal to `reference`, but for the last bits of silu.
"""

from typing import NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from r1pipe_kernels.formats import blocks
from r1pipe_kernels.launching import Launch, launch

from .encoders_sm90 import (
    column_codes,
    column_layout,
    divide,
    factors,
    four,
    gate_gradient,
    larger_halves,
    larger_magnitude,
    load_words,
    row_codes_of,
    scale_of,
    silu_mul,
    split_amax,
    store_columns,
    store_rows,
    tile_layout,
    up_gradient,
    word_amax,
    write_codes,
)

PLAIN, SILU, SILU_BACKWARD = 0, 1, 2


@gluon.jit
def place():
    """(mb, kb) of a program of the grid (band, KB, MB / band): `band` neighbours in time lie one
    below the other, so that lines of column codes are whole before they leave the cache."""
    return gl.program_id(2) * gl.num_programs(0) + gl.program_id(0), gl.program_id(1)


@gluon.jit(do_not_specialize=["M"])
def bf16_kernel(
    x_ptr, up_ptr, dh_ptr, row_codes, row_scales, col_codes, col_scales, M, K,
    stride_m, up_stride, dh_stride, row_stride, row_scale_stride, col_stride, col_scale_stride,
    ROW: gl.constexpr, MODE: gl.constexpr, POWER_OF_TWO: gl.constexpr,
    TR: gl.constexpr, TC: gl.constexpr, LR: gl.constexpr, WARPS_DOWN: gl.constexpr,
    EXCHANGE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """A tile of the result of bf16 inputs, as words [128, 64]; a thread has TR x TC of them.

    MODE 0: x. 1: silu(x) * up. 2: the gradients of both for dh, gate's K columns left of up's; K is
    then a multiple of 128.
    """
    wide: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, False)
    turned: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, True)
    tall: gl.constexpr = column_layout(turned, EXCHANGE, num_warps)
    board = gl.allocate_shared_memory(gl.int32, [256], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    mb, kb = place()
    if mb * 128 >= M:
        return
    N = K
    if MODE == 0:
        even = load_words(x_ptr, mb, kb, stride_m, M, K, wide)
        odd = even
        word_amax(even, board, ROW)
    elif MODE == 1:
        gate = load_words(x_ptr, mb, kb, stride_m, M, K, wide)
        up = load_words(up_ptr, mb, kb, up_stride, M, K, wide)
        even, odd = silu_mul(gate, up)
        split_amax(even, odd, board, ROW)
    else:
        # Both gradients of a tile by neighbours: the second finds gate and dh in the cache.
        half = kb % 2
        kb = kb // 2
        gate = load_words(x_ptr, mb, kb, stride_m, M, K, wide)
        dh = load_words(dh_ptr, mb, kb, dh_stride, M, K, wide)
        if half == 0:
            up = load_words(up_ptr, mb, kb, up_stride, M, K, wide)
            even, odd = gate_gradient(gate, up, dh)
        else:
            even, odd = up_gradient(gate, dh)
        split_amax(even, odd, board, ROW)
        kb += half * (K // 128)
        N = 2 * K
    write_codes(
        even, odd, board, row_codes, row_scales, col_codes, col_scales, mb, kb, M, N,
        row_stride, row_scale_stride, col_stride, col_scale_stride,
        ROW, MODE > 0, POWER_OF_TWO, wide, turned, tall, num_warps,
    )  # fmt: skip


@gluon.jit(do_not_specialize=["M"])
def fp32_kernel(
    x_ptr, row_codes, row_scales, col_codes, col_scales, M, K,
    stride_m, row_stride, row_scale_stride, col_stride, col_scale_stride,
    ROW: gl.constexpr, POWER_OF_TWO: gl.constexpr,
    TR: gl.constexpr, TC: gl.constexpr, LR: gl.constexpr, WARPS_DOWN: gl.constexpr,
    EXCHANGE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """`bf16_kernel` in its mode 0 for x in fp32; a thread has TR x TC elements."""
    wide: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 128, False)
    turned: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 128, True)
    tall: gl.constexpr = column_layout(turned, EXCHANGE, num_warps)
    board = gl.allocate_shared_memory(gl.int32, [256], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    mb, kb = place()
    if mb * 128 >= M:
        return
    rows = gl.arange(0, 128, gl.SliceLayout(1, wide))
    columns = gl.arange(0, 128, gl.SliceLayout(0, wide))[None, :]
    mask = (rows < M - mb * 128)[:, None] & (columns < K - kb * 128)
    corner = x_ptr + (mb * 128).to(gl.int64) * stride_m + kb * 128
    x = gl.load(corner + (rows * stride_m)[:, None] + columns, mask=mask, other=0.0)
    amax = gl.reduce(x, 0, larger_magnitude)
    board.slice(0, 128).store(amax.to(gl.int32, bitcast=True))
    if ROW:
        amax = gl.reduce(x, 1, larger_magnitude)
        board.slice(128, 128).store(amax.to(gl.int32, bitcast=True))
    divide(
        board, row_scales, col_scales, mb, kb, M, K, row_scale_stride, col_scale_stride,
        ROW, False, POWER_OF_TWO, num_warps,
    )  # fmt: skip
    inverse = factors(board, 0, 128, gl.SliceLayout(0, turned))[None, :]
    codes = four(gl.convert_layout(x, turned), inverse)
    store_columns(col_codes, codes, kb * 128, mb, col_stride, M, K, 1, tall)
    if ROW:
        codes = four(x, factors(board, 128, 128, gl.SliceLayout(1, wide))[:, None])
        corner = row_codes.to(gl.pointer_type(gl.int8), bitcast=True)
        corner += (mb * 128).to(gl.int64) * row_stride + kb * 128
        gl.store(corner + (rows * row_stride)[:, None] + columns, codes, mask=mask)


@gluon.jit(do_not_specialize=["N"])
def bf16_weight_kernel(
    w_ptr, codes, scales, t_codes, t_scales, N, K, w_expert, w_stride, expert, stride,
    t_expert, t_stride, NB, KB,
    POWER_OF_TWO: gl.constexpr, TR: gl.constexpr, TC: gl.constexpr, LR: gl.constexpr,
    WARPS_DOWN: gl.constexpr, EXCHANGE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """A block of weights in bf16 with one scale, its codes straight and transposed; the grid is
    (NB, KB, experts)."""
    wide: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, False)
    turned: gl.constexpr = tile_layout(TR, TC, LR, WARPS_DOWN, num_warps, 64, True)
    tall: gl.constexpr = column_layout(turned, EXCHANGE, num_warps)
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    board = gl.allocate_shared_memory(gl.int32, [256], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    nb = gl.program_id(0)
    kb = gl.program_id(1)
    e = gl.program_id(2).to(gl.int64)
    x = load_words(w_ptr + e * w_expert, nb, kb, w_stride, N, K, wide)
    halves = gl.reduce(gl.reduce(x & 0x7FFF7FFF, 1, larger_halves), 0, larger_halves)
    amax = gl.maximum(halves & 0xFFFF, halves >> 16) << 16
    # The same factor for every column and row.
    scale, inverse = scale_of(gl.full([256], 0, gl.int32, flat) + amax, POWER_OF_TWO)
    board.store(inverse.to(gl.int32, bitcast=True))
    at = gl.arange(0, 256, flat)
    gl.store(scales + e * NB * KB + nb * KB + kb + at, scale, mask=at == 0)
    gl.store(t_scales + e * NB * KB + kb * NB + nb + at, scale, mask=at == 0)
    first, second = column_codes(x, x, board, turned, False)
    t_codes += e * t_expert
    store_columns(t_codes, first, kb * 128, nb, t_stride, N, K, 2, tall)
    store_columns(t_codes, second, kb * 128 + 1, nb, t_stride, N, K, 2, tall)
    straight = row_codes_of(x, x, board, wide, False)
    store_rows(codes + e * expert, straight, nb, kb, stride, N, K, wide)


class Geometry(NamedTuple):
    """How the threads of a CTA share a tile."""

    TR: int
    """Rows of a thread."""
    TC: int
    """Words (bf16) or elements (fp32) of each of them."""
    LR: int
    """Threads of a warp one below the other."""
    WARPS_DOWN: int
    """Warps one below the other: TR * LR * WARPS_DOWN rows at most 128, and columns alike."""
    EXCHANGE: bool
    """Whether threads exchange words of columns until a thread has 16 bytes in a row."""
    num_warps: int
    maxnreg: int


# Whole rows are read; four CTAs a multiprocessor.
BOTH = Geometry(16, 4, 2, 4, True, 4, 128)
# Eight threads have a whole line of column codes: nothing to exchange, and five CTAs.
COLUMNS_ONLY = Geometry(16, 4, 8, 1, False, 4, 96)
WEIGHTS = BOTH
# What `pipelined_sm90` does not take. Words of gate and up and two products of each: three CTAs.
SILU_BOTH = Geometry(16, 4, 8, 1, False, 4, 168)
GRADIENTS = Geometry(16, 4, 2, 4, True, 4, 168)
FP32 = Geometry(16, 4, 4, 2, False, 8, 128)
BAND = 8
"""Tiles one below the other that run together."""


def takes(inputs: tuple[torch.Tensor, ...], mode: int) -> bool:
    """Whether a kernel here quantises these matrices, which `ops.by_gluon` let through: in bf16, a
    plain one also in fp32; rows at multiples of 16 bytes, offsets within a tile of 32 bits."""
    dtype = inputs[0].dtype
    if dtype != torch.bfloat16 and (mode != PLAIN or dtype != torch.float32):
        return False
    return all(
        x.dtype == dtype and x.data_ptr() % 16 == 0 and max(*x.shape, x.stride(0)) < 2**23
        for x in inputs
    )


def geometry(dtype: torch.dtype, row: bool, mode: int) -> Geometry:
    """How the kernel for such inputs is started."""
    if dtype == torch.float32:
        return FP32
    return (BOTH if row else COLUMNS_ONLY, SILU_BOTH, GRADIENTS)[mode]


def start(
    tensors: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...],
    outputs: tuple[torch.Tensor, ...], row: bool, mode: int, power_of_two: bool,
) -> Launch | None:  # fmt: skip
    """Write codes and scales of rows (with `row`) and of columns, in this order in `outputs`, of
    x, up and dh, as far as the mode has them (any matrix in place of the others), which `takes`
    lets through; `tensors` and what comes back are those of `launch`."""
    x = inputs[0]
    m, k = x.shape
    fp32 = x.dtype == torch.float32
    kernel, more = (fp32_kernel, {}) if fp32 else (bf16_kernel, {"MODE": mode})
    given = (*(inputs[:1] if fp32 else inputs), *outputs)
    band = min(BAND, blocks(m))
    halves = 2 if mode == SILU_BACKWARD else 1
    return launch(
        kernel, (band, halves * blocks(k), -(-blocks(m) // band)), tensors, *given, m, k,
        *(t.stride(0) for t in given), ROW=row, POWER_OF_TWO=power_of_two, **more,
        **geometry(x.dtype, row, mode)._asdict(),
    )  # fmt: skip
