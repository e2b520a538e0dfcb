"""Block quantisation to E4M3 in Triton, bitwise equal to `reference`.

One kernel, rows. Columns are the rows of a transposed copy: transposing E4M3 codes inside a kernel
gave wrong codes for fp32 inputs with Triton 3.6.0 on an H200. `gluon_nvidia` transposes on Hopper.
"""

import torch
import triton
import triton.language as tl

from r1pipe_kernels.formats import (
    AMAX_FLOOR,
    E4M3,
    E4M3_MAX,
    blocks,
    empty_codes,
    empty_experts,
    empty_scales,
)
from r1pipe_kernels.launching import launch
from r1pipe_kernels.repeats import Repeats

_repeats = Repeats()
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
def load_tile(x_ptr, rows, columns, M, K, stride_m, stride_k):
    mask = (rows < M)[:, None] & (columns < K)[None, :]
    pointers = (
        x_ptr + rows.to(tl.int64)[:, None] * stride_m + columns.to(tl.int64)[None, :] * stride_k
    )
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32), mask


@triton.jit
def rows_kernel(
    x_ptr, up_ptr, codes, scales, M, K, stride_m, stride_k, up_m, up_k, stride, scale_stride,
    ROWS: tl.constexpr, SILU: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kb = tl.program_id(1)
    columns = kb * 128 + tl.arange(0, 128)
    x, mask = load_tile(x_ptr, rows, columns, M, K, stride_m, stride_k)
    if SILU:
        up, _ = load_tile(up_ptr, rows, columns, M, K, up_m, up_k)
        x = x / (1.0 + tl.exp(-x)) * up
    scale, inverse = scale_of(tl.max(magnitude(x), axis=1), POWER_OF_TWO)
    pointers = codes + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(pointers, encode(x, inverse[:, None]), mask=mask)
    tl.store(scales + kb.to(tl.int64) * scale_stride + rows, scale, mask=rows < M)


@triton.jit
def silu_mul_kernel(
    gate_ptr, up_ptr, out, M, K, gate_stride, up_stride, gate_step, up_step, ROWS: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * 128 + tl.arange(0, 128)
    gate, mask = load_tile(gate_ptr, rows, columns, M, K, gate_stride, gate_step)
    up, _ = load_tile(up_ptr, rows, columns, M, K, up_stride, up_step)
    x = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + rows.to(tl.int64)[:, None] * K + columns[None, :], x, mask=mask)


@triton.jit
def silu_mul_backward_kernel(
    dh_ptr, gate_ptr, up_ptr, out, M, K, dh_stride, gate_stride, up_stride, dh_step, gate_step,
    up_step, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * 128 + tl.arange(0, 128)
    dh, mask = load_tile(dh_ptr, rows, columns, M, K, dh_stride, dh_step)
    gate, _ = load_tile(gate_ptr, rows, columns, M, K, gate_stride, gate_step)
    up, _ = load_tile(up_ptr, rows, columns, M, K, up_stride, up_step)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    left = dh * (sigmoid * (up * (1.0 + gate * (1.0 - sigmoid))))
    pointers = out + rows.to(tl.int64)[:, None] * (2 * K) + columns[None, :]
    tl.store(pointers, left, mask=mask)
    tl.store(pointers + K, dh * (sigmoid * gate), mask=mask)


@triton.jit
def weight_kernel(
    w_ptr, codes, scales, N, K, stride_e, stride_n, stride_k, codes_e, stride, NB, KB,
    POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    nb, kb, e = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows = nb * 128 + tl.arange(0, 128)
    columns = kb * 128 + tl.arange(0, 128)
    x, mask = load_tile(w_ptr + e * stride_e, rows, columns, N, K, stride_n, stride_k)
    scale, inverse = scale_of(tl.max(tl.max(magnitude(x), axis=1), axis=0), POWER_OF_TWO)
    tl.store(scales + (e * NB + nb) * KB + kb, scale)
    pointers = codes + e * codes_e + rows.to(tl.int64)[:, None] * stride + columns[None, :]
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


def _rows(x: torch.Tensor, up: torch.Tensor | None, power_of_two: bool):
    rows, columns = x.shape
    codes, scales = empty_codes(rows, columns, x), empty_scales(blocks(columns), rows, x)
    silu, up = up is not None, x if up is None else up
    if rows and columns:
        tensors = (x, up, codes, scales)
        key = _repeats.key(tensors, silu, power_of_two)
        if _repeats.launched(key, tensors):
            return codes, scales
        again = launch(
            rows_kernel, (triton.cdiv(rows, 32), blocks(columns)), tensors,
            *tensors, rows, columns, x.stride(0), x.stride(1), up.stride(0),
            up.stride(1), codes.stride(0), scales.stride(0), ROWS=32, SILU=silu,
            POWER_OF_TWO=power_of_two,
        )  # fmt: skip
        _repeats.keep(key, again)
    return codes, scales


def quantise_rows(x: torch.Tensor, power_of_two: bool = False):
    return _rows(x, None, power_of_two)


def quantise_columns(x: torch.Tensor, power_of_two: bool = False):
    return quantise_rows(x.t().contiguous(), power_of_two)


def quantise_both(x: torch.Tensor, power_of_two: bool = False):
    return *quantise_rows(x, power_of_two), *quantise_columns(x, power_of_two)


def silu_mul(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    rows, columns = gate.shape
    out = gate.new_empty(rows, columns, dtype=torch.float32)
    if rows and columns:
        silu_mul_kernel[(triton.cdiv(rows, 32), blocks(columns))](
            gate, up, out, rows, columns, gate.stride(0), up.stride(0), gate.stride(1),
            up.stride(1), ROWS=32,
        )  # fmt: skip
    return out


def silu_mul_backward(dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    rows, columns = gate.shape
    out = gate.new_empty(rows, 2 * columns, dtype=torch.float32)
    if rows and columns:
        silu_mul_backward_kernel[(triton.cdiv(rows, 32), blocks(columns))](
            dh, gate, up, out, rows, columns, dh.stride(0), gate.stride(0), up.stride(0),
            dh.stride(1), gate.stride(1), up.stride(1), ROWS=32,
        )  # fmt: skip
    return out


def silu_mul_quantise(gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False):
    return quantise_both(silu_mul(gate, up), power_of_two)


def silu_mul_quantise_rows(gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False):
    return _rows(gate, up, power_of_two)


def silu_mul_backward_quantise(
    dh: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, power_of_two: bool = False
):
    return quantise_both(silu_mul_backward(dh, gate, up), power_of_two)


def _weights(w: torch.Tensor, power_of_two: bool):
    experts, n, k = w.shape
    codes = empty_experts(experts, n, k, w)
    scales = w.new_empty(experts, blocks(n), blocks(k), dtype=torch.float32)
    if w.numel():
        weight_kernel[(blocks(n), blocks(k), experts)](
            w, codes, scales, n, k, *w.stride(), codes.stride(0), codes.stride(1), blocks(n),
            blocks(k), power_of_two, num_warps=8,
        )  # fmt: skip
    return codes, scales


def quantise_weights(w: torch.Tensor, power_of_two: bool = False):
    return *_weights(w, power_of_two), *_weights(w.transpose(1, 2).contiguous(), power_of_two)


def quantise_weight(w: torch.Tensor, power_of_two: bool = False):
    codes, scales, t_codes, t_scales = quantise_weights(w[None], power_of_two)
    return codes[0], scales[0], t_codes[0], t_scales[0]


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
