"""Both layouts of 1 x 128 quantisation from one read, in Gluon, bitwise equal to `reference`.

`pipelined_sm90` and `packed_sm90` have faster kernels for bf16 and fp32 without groups; groups,
fp16 and rows that start inside a word of 16 bytes have theirs here.

Triton's compiler spreads the few scales of a tile over all threads, each of which then divides for
itself; dividing costs more than everything else here. With layouts written out, a tile's 128
largest magnitudes go to 128 threads, which divide once, and the factors come back.
"""

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from r1pipe_kernels.formats import (
    blocks,
    empty_codes,
    empty_experts,
    empty_scales,
    empty_whole_codes,
    max_blocks,
    max_columns,
)
from r1pipe_kernels.launching import Launch, launch
from r1pipe_kernels.repeats import Repeats

from . import packed_sm90, pipelined_sm90
from .encoders_sm90 import scale_of
from .packed_sm90 import PLAIN, SILU, SILU_BACKWARD


@gluon.jit
def encode(x, inverse):
    # At most 448 and a rounding: nothing to clamp, and the conversion would saturate.
    return (x * inverse).to(gl.float8e4nv)


@gluon.jit
def add(a, b):
    return a + b


@gluon.jit
def find_block(offsets, E, block, GROUPS: gl.constexpr, WARPS: gl.constexpr):
    """Where a block of 128 tokens of one group lies: (first row, end of the group, first column of
    codes, columns to write, blocks in all, columns in all).

    The columns of a group start at a multiple of 16 and its blocks start anew; see
    `grouped.reference.quantise_columns`.
    """
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    at = gl.arange(0, GROUPS, flat)
    starts = gl.load(offsets + at, mask=at < E, other=0)
    ends = gl.load(offsets + at + 1, mask=at < E, other=0)
    counts = (ends - starts + 127) // 128
    widths = (ends - starts + 15) // 16 * 16
    upto = gl.associative_scan(counts, 0, add)
    lasts = gl.associative_scan(widths, 0, add)
    mine = (block >= upto - counts) & (block < upto) & (at < E)
    inner = gl.sum(gl.where(mine, (block - upto + counts) * 128, 0), axis=0)
    start = gl.sum(gl.where(mine, starts, 0), axis=0) + inner
    end = gl.sum(gl.where(mine, ends, 0), axis=0)
    first = gl.sum(gl.where(mine, lasts - widths, 0), axis=0) + inner
    width = gl.sum(gl.where(mine, widths, 0), axis=0) - inner
    return start, end, first, width, gl.sum(counts, axis=0), gl.sum(widths, axis=0)


@gluon.jit
def silu_gradient(x_ptr, up_ptr, dh_ptr, row, columns, mask, stride, up_stride, dh_stride, half):
    """Gradient of silu(gate) * up: of gate with half 0, of up with half 1."""
    gate = gl.load(x_ptr + row * stride + columns, mask=mask, other=0.0).to(gl.float32)
    sigmoid = 1.0 / (1.0 + gl.exp(-gate))
    up = gl.load(up_ptr + row * up_stride + columns, mask=mask & (half == 0), other=0.0)
    weight = gl.where(half == 0, up.to(gl.float32) * (1.0 + gate * (1.0 - sigmoid)), gate)
    dh = gl.load(dh_ptr + row * dh_stride + columns, mask=mask, other=0.0).to(gl.float32)
    return dh * (sigmoid * weight)


@gluon.jit
def tile_kernel(
    x_ptr, up_ptr, dh_ptr, row_codes, row_scales, col_codes, col_scales, offsets,
    M, K, E, WIDTH, stride_m, up_stride, dh_stride,
    row_stride, row_scale_stride, col_stride, col_scale_stride,
    ROW: gl.constexpr, MODE: gl.constexpr, GROUPS: gl.constexpr, POWER_OF_TWO: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """One tile of 128 x 128 of the result a CTA; num_warps = 8 or 16.

    MODE 0: x. 1: silu(x) * up. 2: the gradients of both for dh, gate's K columns left of up's.
    GROUPS (a power of two, or 0): rows lie in E groups whose blocks of columns start anew.
    """
    # 16 neighbours of a row a thread: one 16-byte store of codes.
    wide: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [num_warps, 1], [1, 0])
    # 16 neighbours of a column a thread, of 2 or 4 columns: words from shared memory.
    tall: gl.constexpr = gl.BlockedLayout([16, 32 // num_warps], [8, 4], [1, num_warps], [0, 1])
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    mb = gl.program_id(0)
    kb = gl.program_id(1)
    # Both gradients of a tile by neighbours: the second finds gate and dh in the cache.
    half = kb % 2 if MODE == 2 else 0
    source = kb // 2 if MODE == 2 else kb
    # Where its columns are written; K is a multiple of 128 when there are two halves.
    shift = half * K
    kb = source + half * gl.cdiv(K, 128)
    row_start = mb * 128
    row_end = M
    first = mb * 128
    width = M - first
    used = True
    if GROUPS:
        row_start, row_end, first, width, count, total = find_block(
            offsets, E, mb, GROUPS, num_warps
        )
        used = mb < count
        # Programs without a block clear what lies beyond the last group; their codes are 0.
        spare = total + (mb - count) * 128
        first = gl.multiple_of(gl.where(used, first, spare), 16)
        width = gl.where(used, width, WIDTH - spare)
    rows = row_start + gl.arange(0, 128, gl.SliceLayout(1, wide))
    columns = source * 128 + gl.arange(0, 128, gl.SliceLayout(0, wide))
    mask = (rows < row_end)[:, None] & (columns < K)[None, :]
    row = rows.to(gl.int64)[:, None]
    if MODE == 2:
        x = silu_gradient(
            x_ptr, up_ptr, dh_ptr, row, columns[None, :], mask, stride_m, up_stride, dh_stride, half
        )
    else:
        x = gl.load(x_ptr + row * stride_m + columns[None, :], mask=mask, other=0.0)
        if MODE == 1:
            gate = x.to(gl.float32)
            up = gl.load(up_ptr + row * up_stride + columns[None, :], mask=mask, other=0.0)
            x = gate / (1.0 + gl.exp(-gate)) * up.to(gl.float32)
    # Both before anything else: the bits need as many registers as the tile.
    bits = x.to(gl.float32).to(gl.int32, bitcast=True) & 0x7FFFFFFF
    amax = gl.convert_layout(gl.max(bits, axis=0), flat)
    if ROW:
        row_amax = gl.convert_layout(gl.max(bits, axis=1), flat)
    at = gl.arange(0, 128, flat)
    scale, inverse = scale_of(amax, POWER_OF_TWO)
    column = source * 128 + at
    keep = column < K
    if GROUPS:
        # Rows of scales that no group reaches are zero: the list is as long as it can get.
        scale = gl.where(used, scale, 0.0)
        keep = keep & (mb + 1 < gl.num_programs(0))
    pointers = col_scales + mb.to(gl.int64) * col_scale_stride + shift + column
    gl.store(pointers, scale, mask=keep)
    inverse = gl.convert_layout(inverse, gl.SliceLayout(0, wide))
    scaled = x.to(gl.float32) * inverse[None, :]
    if GROUPS:
        # A factor that is not a number would make more of the zeros below the group's last row.
        scaled = gl.where(mask, scaled, 0.0)
    codes = gl.convert_layout(scaled.to(gl.float8e4nv), tall)
    at_row = gl.arange(0, 128, gl.SliceLayout(1, tall))
    columns_t = source * 128 + gl.arange(0, 128, gl.SliceLayout(0, tall))
    inside = (columns_t < K)[None, :]
    out = col_codes + (shift + columns_t).to(gl.int64)[None, :] * col_stride
    # In a group the columns up to the next multiple of 16 are zeros, as the rows read there were.
    gl.store(out + (first + at_row)[:, None], codes, mask=(at_row < width)[:, None] & inside)
    if ROW:
        scale, inverse = scale_of(row_amax, POWER_OF_TWO)
        at_scale = row_start + at
        pointers = row_scales + kb.to(gl.int64) * row_scale_stride + at_scale
        gl.store(pointers, scale, mask=at_scale < row_end)
        inverse = gl.convert_layout(inverse, gl.SliceLayout(1, wide))
        out = row_codes + row * row_stride + (shift + columns)[None, :]
        gl.store(out, encode(x.to(gl.float32), inverse[:, None]), mask=mask)


@gluon.jit
def weight_kernel(
    w_ptr, codes, scales, t_codes, t_scales, N, K, w_expert, w_stride, expert, stride,
    t_expert, t_stride, NB, KB,
    POWER_OF_TWO: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """One block of 128 x 128 a CTA, its codes straight and transposed; num_warps = 8."""
    wide: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [8, 1], [1, 0])
    tall: gl.constexpr = gl.BlockedLayout([16, 4], [8, 4], [1, 8], [0, 1])
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [8], [0])
    nb = gl.program_id(0)
    kb = gl.program_id(1)
    e = gl.program_id(2).to(gl.int64)
    w_ptr += e * w_expert
    codes += e * expert
    t_codes += e * t_expert
    scales += e * NB * KB
    t_scales += e * NB * KB
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


def quantise_weights(w: torch.Tensor, power_of_two: bool = False):
    """As in `reference`; w [E, N, K] must have contiguous rows."""
    e, n, k = w.shape
    codes, flat = empty_experts(e, n, k, w), empty_whole_codes(e * k, n, w)
    t_codes = flat.as_strided((e, k, n), (k * flat.stride(0), flat.stride(0), 1))
    scales = w.new_empty(e, blocks(n), blocks(k), dtype=torch.float32)
    t_scales = w.new_empty(e, blocks(k), blocks(n), dtype=torch.float32)
    if w.numel():
        kernel, shape = weight_kernel, {"num_warps": 8, "maxnreg": 128}
        if w.dtype == torch.bfloat16 and packed_sm90.takes((w[0],), PLAIN):
            kernel, shape = packed_sm90.bf16_weight_kernel, packed_sm90.WEIGHTS._asdict()
        launch(
            kernel, (blocks(n), blocks(k), e), (w, codes, scales, t_codes, t_scales),
            w, codes, scales, t_codes, t_scales, n, k, w.stride(0), w.stride(1), codes.stride(0),
            codes.stride(1), t_codes.stride(0), t_codes.stride(1), blocks(n), blocks(k),
            POWER_OF_TWO=power_of_two, **shape,
        )  # fmt: skip
    return codes, scales, t_codes, t_scales


def quantise_weight(w: torch.Tensor, power_of_two: bool = False):
    """As in `reference`; w must have contiguous rows."""
    codes, scales, t_codes, t_scales = quantise_weights(w[None], power_of_two)
    return codes[0], scales[0], t_codes[0], t_scales[0]


_repeats = Repeats()


def columns(
    x: torch.Tensor, row: bool, power_of_two: bool, up: torch.Tensor | None = None,
    dh: torch.Tensor | None = None, offsets: torch.Tensor | None = None,
):  # fmt: skip
    """Codes and scales by columns and, with `row`, by rows, of x, silu(x) * up or, with `dh`, the
    gradients of x and up; with `offsets` by groups. Inputs must have contiguous rows."""
    m, k = x.shape
    mode = PLAIN if up is None else SILU if dh is None else SILU_BACKWARD
    n = 2 * k if mode == SILU_BACKWARD else k
    e = 0 if offsets is None else offsets.shape[0] - 1
    width = max_columns(m, e) if e else m
    strips = max_blocks(m, e) if e else blocks(m)
    t_codes, t_scales = empty_whole_codes(n, width, x), empty_scales(strips, n, x)
    codes, scales = t_codes, t_scales
    if row:
        codes, scales = empty_codes(m, n, x), empty_scales(blocks(n), m, x)
    if k and (m or e):
        up = x if up is None else up
        dh = x if dh is None else dh
        spans = x if offsets is None else offsets
        tensors = (x, up, dh, codes, scales, t_codes, t_scales, spans)
        key = _repeats.key(tensors, row, mode, power_of_two)
        if _repeats.launched(key, tensors):
            return codes, scales, t_codes, t_scales
        inputs, outputs = (x, up, dh), (codes, scales, t_codes, t_scales)
        if not e and row and pipelined_sm90.takes(inputs, mode):
            again = pipelined_sm90.start(tensors, inputs, outputs, mode, power_of_two)
        elif not e and packed_sm90.takes(inputs, mode):
            again = packed_sm90.start(tensors, inputs, outputs, row, mode, power_of_two)
        else:
            again = _start(tensors, row, mode, e, width, power_of_two)
        _repeats.keep(key, again)
    return codes, scales, t_codes, t_scales


def _start(
    tensors: tuple[torch.Tensor, ...], row: bool, mode: int, e: int, width: int, power_of_two: bool
) -> Launch | None:
    """Start `tile_kernel` on its tensors, with columns of `width` tokens in `e` groups."""
    x, up, dh, codes, scales, t_codes, t_scales, _ = tensors
    m, k = x.shape
    # Two CTAs of eight warps a multiprocessor hide one's loads behind the other's arithmetic; that
    # is worth a few words on the stack. Groups, and two tiles of fp32, take too many.
    warps = 16 if e or (mode and x.element_size() > 2) else 8
    # One program more than there can be blocks, so that the columns left over are cleared.
    strips = t_scales.shape[0] + (e > 0)
    return launch(
        tile_kernel, (strips, blocks(k) * (t_scales.shape[1] // k)), tensors, *tensors,
        m, k, e, width, x.stride(0), up.stride(0), dh.stride(0), codes.stride(0),
        scales.stride(0), t_codes.stride(0), t_scales.stride(0), ROW=row, MODE=mode,
        GROUPS=triton.next_power_of_2(e) if e else 0, POWER_OF_TWO=power_of_two,
        num_warps=warps, maxnreg=128,
    )  # fmt: skip
