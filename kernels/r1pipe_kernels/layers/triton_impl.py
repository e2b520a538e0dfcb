"""The kernels of a layer in Triton; `ops` says what each computes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024
"""Programs of the norm's backward kernel at most; each sums the weight's gradient over its rows."""
BLOCK = 1024
"""Columns of a program of the gate's kernels."""


@triton.jit
def norm_forward_kernel(x, weight, y, scales, width, eps, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, SIZE)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(scales + row, scale)
    found = values * scale * w
    tl.store(y + row * width + columns, found.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward_kernel(
    grad, x, scales, weight, passing, total, rounded, again, parts, rows, width,
    SIZE: tl.constexpr,
):  # fmt: skip
    first, step = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, SIZE)
    inside = columns < width
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    part = tl.zeros((SIZE,), tl.float32)
    place = first.to(tl.int64) * width + columns
    for row in range(first, rows, step):
        scale = tl.load(scales + row)
        g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        unit = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * scale
        past = tl.load(passing + place, mask=inside, other=0.0).to(tl.float32)
        part += g * unit
        wide = g * w
        inner = tl.sum(wide * unit, axis=0) / width
        found = past + scale * (wide - unit * inner)
        tl.store(total + place, found.to(total.dtype.element_ty), mask=inside)
        tl.store(rounded + place, found.to(rounded.dtype.element_ty), mask=inside)
        tl.store(again + place, (unit * w).to(again.dtype.element_ty), mask=inside)
        place += step.to(tl.int64) * width
    tl.store(parts + first * width + columns, part, mask=inside)


@triton.jit
def gate_forward_kernel(both, out, width, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = columns < width
    a = tl.load(both + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(both + (row * 2 + 1) * width + columns, mask=inside, other=0.0).to(tl.float32)
    found = a / (1.0 + tl.exp(-a)) * b
    tl.store(out + row * width + columns, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_backward_kernel(grad, both, out, again, width, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = columns < width
    near, far = row * 2 * width + columns, (row * 2 + 1) * width + columns
    a = tl.load(both + near, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(both + far, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-a))
    slope = sigmoid * (1.0 + a * (1.0 - sigmoid))
    tl.store(out + near, (g * b * slope).to(out.dtype.element_ty), mask=inside)
    tl.store(out + far, (g * a * sigmoid).to(out.dtype.element_ty), mask=inside)
    found = a * sigmoid * b
    tl.store(again + row * width + columns, found.to(again.dtype.element_ty), mask=inside)


def norm_forward(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x, (rows, width) = x.contiguous(), x.shape
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    size, warps = _whole(width)
    norm_forward_kernel[(rows,)](x, weight, y, scales, width, eps, SIZE=size, num_warps=warps)
    return y, scales


def norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, passing: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, x, passing = grad.contiguous(), x.contiguous(), passing.contiguous()
    rows, width = x.shape
    total, rounded, again = torch.empty_like(x), torch.empty_like(grad), torch.empty_like(grad)
    programs = min(rows, PROGRAMS)
    parts = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    size, warps = _whole(width)
    norm_backward_kernel[(programs,)](
        grad, x, scale, weight, passing, total, rounded, again, parts, rows, width,
        SIZE=size, num_warps=warps,
    )  # fmt: skip
    return total, rounded, again, parts.sum(0)


def gate_forward(both: Tensor) -> Tensor:
    both, (rows, width) = both.contiguous(), (len(both), both.shape[1] // 2)
    out = both.new_empty(rows, width)
    gate_forward_kernel[(rows, triton.cdiv(width, BLOCK))](both, out, width, SIZE=BLOCK)
    return out


def gate_backward(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    grad, both, (rows, width) = grad.contiguous(), both.contiguous(), grad.shape
    out, again = torch.empty_like(both), torch.empty_like(grad)
    grid = (rows, triton.cdiv(width, BLOCK))
    gate_backward_kernel[grid](grad, both, out, again, width, SIZE=BLOCK)
    return out, again


def _whole(width: int) -> tuple[int, int]:
    """Return columns and warps of a program that holds a whole row."""
    size = triton.next_power_of_2(width)
    return size, min(max(size // 256, 1), 32)
