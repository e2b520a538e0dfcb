"""The grouped quantiser in Triton: transposed codes whose blocks start anew with every group."""

import torch
import triton
import triton.language as tl

from r1pipe_kernels.formats import blocks, empty_codes, max_blocks, max_columns
from r1pipe_kernels.quantise import triton_impl as plain
from r1pipe_kernels.quantise.triton_impl import magnitude, scale_of


@triton.jit
def columns_kernel(
    x_ptr, offsets, codes, scales, E, K, WIDTH, stride_m, stride_k, stride, scale_stride,
    GROUPS: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """One program a block of 128 tokens of one group and 128 columns."""
    block = tl.program_id(0)
    at = tl.arange(0, GROUPS)
    starts = tl.load(offsets + at, mask=at < E, other=0)
    ends = tl.load(offsets + at + 1, mask=at < E, other=0)
    counts = (ends - starts + 127) // 128
    upto = tl.cumsum(counts, axis=0)
    widths = (ends - starts + 15) // 16 * 16
    lasts = tl.cumsum(widths, axis=0)
    mine = (block >= upto - counts) & (block < upto) & (at < E)
    start = tl.sum(tl.where(mine, starts + (block - upto + counts) * 128, 0), axis=0)
    end = tl.sum(tl.where(mine, ends, 0), axis=0)
    inner = (block - tl.sum(tl.where(mine, upto - counts, 0), axis=0)) * 128
    first = tl.sum(tl.where(mine, lasts - widths, 0), axis=0) + inner
    width = tl.sum(tl.where(mine, widths, 0), axis=0) - inner
    at_row = tl.arange(0, 128)
    rows = start + at_row
    columns = tl.program_id(1) * 128 + tl.arange(0, 128)
    inside = (columns < K)[:, None] & (rows < end)[None, :]
    pointers = (
        x_ptr + columns.to(tl.int64)[:, None] * stride_k + rows.to(tl.int64)[None, :] * stride_m
    )
    x = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    used = block < tl.sum(counts, axis=0)
    scale, inverse = scale_of(tl.max(magnitude(x), axis=1), POWER_OF_TWO)
    out = codes + columns.to(tl.int64)[:, None] * stride + (first + at_row)[None, :]
    # Up to the next multiple of 16 the columns are zeros, also where the factor is not a number.
    written = (columns < K)[:, None] & (at_row < width)[None, :]
    tl.store(out, tl.where(inside, x * inverse[:, None], 0.0).to(tl.float8e4nv), mask=written)
    # Programs without a block clear what lies beyond the last group.
    end_of_all = tl.sum(widths, axis=0)
    spare = end_of_all + (block - tl.sum(counts, axis=0)) * 128 + at_row
    clear = (block >= tl.sum(counts, axis=0)) & (columns < K)[:, None] & (spare < WIDTH)[None, :]
    zero = tl.zeros((128, 128), tl.float32).to(tl.float8e4nv)
    tl.store(codes + columns.to(tl.int64)[:, None] * stride + spare[None, :], zero, mask=clear)
    # Rows of scales that no group reaches are zero: the list is as long as it can get.
    scale = tl.where(used, scale, 0.0)
    keep = (columns < K) & (block + 1 < tl.num_programs(0))
    tl.store(scales + block.to(tl.int64) * scale_stride + columns, scale, mask=keep)


def quantise_columns(x: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False):
    (tokens, k), groups = x.shape, offsets.numel() - 1
    width = max_columns(tokens, groups)
    codes = empty_codes(k, width, x)
    rows = max_blocks(tokens, groups)
    scales = x.new_empty_strided((rows, k), (-(-k // 4) * 4, 1), dtype=torch.float32)
    # Loads along the tokens, so that no codes are transposed inside the kernel (see
    # `quantise.triton_impl`).
    x = x.t().contiguous().t()
    if rows and k:
        # One program more than there can be blocks, so that the columns left over are cleared.
        columns_kernel[(rows + 1, blocks(k))](
            x, offsets, codes, scales, groups, k, width, x.stride(0), x.stride(1), codes.stride(0),
            scales.stride(0), GROUPS=triton.next_power_of_2(groups), POWER_OF_TWO=power_of_two,
            num_warps=8,
        )  # fmt: skip
    return codes, scales


def quantise_both(x: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False):
    return *plain.quantise_rows(x, power_of_two), *quantise_columns(x, offsets, power_of_two)


def silu_mul_quantise(
    gate: torch.Tensor, up: torch.Tensor, offsets: torch.Tensor, power_of_two: bool = False
):
    return quantise_both(plain.silu_mul(gate, up), offsets, power_of_two)


def silu_mul_backward_quantise(
    dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, offsets: torch.Tensor,
    power_of_two: bool = False,
):  # fmt: skip
    return quantise_both(plain.silu_mul_backward(dh, gate, up), offsets, power_of_two)
