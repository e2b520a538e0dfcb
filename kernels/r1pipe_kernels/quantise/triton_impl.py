"""Block quantisation to E4M3 in Triton, bitwise equal to `reference`.

One kernel, rows. Columns are the rows of a transposed copy: transposing E4M3 codes inside a kernel
gave wrong codes for fp32 inputs with Triton 3.6.0 on an H200. `gluon_nvidia` transposes on Hopper.
"""

import torch
import triton
import triton.language as tl

from r1pipe_kernels.formats import AMAX_FLOOR, E4M3, E4M3_MAX, blocks, empty_codes, empty_scales

FLOOR = tl.constexpr(AMAX_FLOOR)
MAX = tl.constexpr(E4M3_MAX)


@triton.jit
def scale_of(bits, POWER_OF_TWO: tl.constexpr):
    """(scale, inverse) from the bits of the largest magnitude."""
    amax = bits.to(tl.float32, bitcast=True)
    floored = tl.where(amax < FLOOR, FLOOR, amax)
    top = tl.full(amax.shape, MAX, tl.float32)
    scale = tl.div_rn(floored, top)
    inverse = tl.div_rn(top, floored)
    if POWER_OF_TWO:
        raw = scale.to(tl.int32, bitcast=True)
        exponent = (raw >> 23) + ((raw & 0x7FFFFF) != 0).to(tl.int32)
        finite = (raw >> 23) != 255
        scale = tl.where(finite, (exponent << 23).to(tl.float32, bitcast=True), scale)
        inverse = tl.where(finite, ((254 - exponent) << 23).to(tl.float32, bitcast=True), inverse)
    zero = bits == 0
    return tl.where(zero, 1.0, scale), tl.where(zero, 1.0, inverse)


@triton.jit
def encode(x, inverse):
    # At most 448 and a rounding: nothing to clamp, and the conversion would saturate.
    return (x * inverse).to(tl.float8e4nv)


@triton.jit
def magnitude(x):
    """Bits of |x|: as integers they order like the numbers, and NaN comes above inf."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def load_tile(x_ptr, rows, columns, M, K, stride_m, stride_k, SILU: tl.constexpr):
    mask = (rows < M)[:, None] & (columns < K)[None, :]
    pointers = (
        x_ptr + rows.to(tl.int64)[:, None] * stride_m + columns.to(tl.int64)[None, :] * stride_k
    )
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    if SILU:
        up = tl.load(pointers + K * stride_k, mask=mask, other=0.0).to(tl.float32)
        x = x / (1.0 + tl.exp(-x)) * up
    return x, mask


@triton.jit
def rows_kernel(
    x_ptr, codes, scales, M, K, stride_m, stride_k, stride, scale_stride,
    ROWS: tl.constexpr, SILU: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kb = tl.program_id(1)
    columns = kb * 128 + tl.arange(0, 128)
    x, mask = load_tile(x_ptr, rows, columns, M, K, stride_m, stride_k, SILU)
    scale, inverse = scale_of(tl.max(magnitude(x), axis=1), POWER_OF_TWO)
    pointers = codes + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(pointers, encode(x, inverse[:, None]), mask=mask)
    tl.store(scales + kb.to(tl.int64) * scale_stride + rows, scale, mask=rows < M)


@triton.jit
def silu_mul_kernel(x_ptr, out, M, K, stride_m, stride_k, ROWS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * 128 + tl.arange(0, 128)
    x, mask = load_tile(x_ptr, rows, columns, M, K, stride_m, stride_k, True)
    tl.store(out + rows.to(tl.int64)[:, None] * K + columns[None, :], x, mask=mask)


@triton.jit
def weight_kernel(
    w_ptr, codes, scales, N, K, stride_n, stride_k, stride, KB, POWER_OF_TWO: tl.constexpr
):
    nb, kb = tl.program_id(0), tl.program_id(1)
    rows = nb * 128 + tl.arange(0, 128)
    columns = kb * 128 + tl.arange(0, 128)
    x, mask = load_tile(w_ptr, rows, columns, N, K, stride_n, stride_k, False)
    scale, inverse = scale_of(tl.max(tl.max(magnitude(x), axis=1), axis=0), POWER_OF_TWO)
    tl.store(scales + nb * KB + kb, scale)
    pointers = codes + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(pointers, encode(x, inverse), mask=mask)


@triton.jit
def dequantise_kernel(
    codes, scales, out, R, C, stride, scale_r, scale_c, out_stride,
    BLOCK_R, BLOCK_C, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (rows < R)[:, None] & (columns < C)[None, :]
    at = rows.to(tl.int64)[:, None]
    x = tl.load(codes + at * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    grid = (rows // BLOCK_R).to(tl.int64)[:, None] * scale_r + (columns // BLOCK_C)[
        None, :
    ] * scale_c
    x *= tl.load(scales + grid, mask=mask, other=0.0)
    tl.store(out + at * out_stride + columns[None, :], x.to(out.dtype.element_ty), mask=mask)


def quantise_rows(x: torch.Tensor, power_of_two: bool = False):
    rows, columns = x.shape
    codes, scales = empty_codes(rows, columns, x), empty_scales(blocks(columns), rows, x)
    if rows and columns:
        rows_kernel[(triton.cdiv(rows, 32), blocks(columns))](
            x, codes, scales, rows, columns, x.stride(0), x.stride(1), codes.stride(0),
            scales.stride(0), ROWS=32, SILU=False, POWER_OF_TWO=power_of_two,
        )  # fmt: skip
    return codes, scales


def quantise_columns(x: torch.Tensor, power_of_two: bool = False):
    return quantise_rows(x.t().contiguous(), power_of_two)


def quantise_both(x: torch.Tensor, power_of_two: bool = False):
    return *quantise_rows(x, power_of_two), *quantise_columns(x, power_of_two)


def silu_mul_quantise(gate_up: torch.Tensor, power_of_two: bool = False):
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, columns, dtype=torch.float32)
    if rows and columns:
        silu_mul_kernel[(triton.cdiv(rows, 32), blocks(columns))](
            gate_up, out, rows, columns, gate_up.stride(0), gate_up.stride(1), ROWS=32
        )
    return quantise_both(out, power_of_two)


def _weight(w: torch.Tensor, power_of_two: bool):
    n, k = w.shape
    codes = empty_codes(n, k, w)
    scales = w.new_empty(blocks(n), blocks(k), dtype=torch.float32)
    if n and k:
        weight_kernel[(blocks(n), blocks(k))](
            w, codes, scales, n, k, w.stride(0), w.stride(1), codes.stride(0), blocks(k),
            power_of_two, num_warps=8,
        )  # fmt: skip
    return codes, scales


def quantise_weight(w: torch.Tensor, power_of_two: bool = False):
    return *_weight(w, power_of_two), *_weight(w.t().contiguous(), power_of_two)


def dequantise(
    codes: torch.Tensor,
    scales: torch.Tensor,
    block: tuple[int, int],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    assert codes.dtype == E4M3 and codes.stride(1) == 1
    rows, columns = codes.shape
    out = torch.empty(rows, columns, device=codes.device, dtype=dtype)
    if rows and columns:
        dequantise_kernel[(triton.cdiv(rows, 32), triton.cdiv(columns, 128))](
            codes, scales, out, rows, columns, codes.stride(0), scales.stride(0), scales.stride(1),
            out.stride(0), block[0], block[1], ROWS=32, COLUMNS=128,
        )  # fmt: skip
    return out
