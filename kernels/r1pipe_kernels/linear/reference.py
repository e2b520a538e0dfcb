"""What the FP8 graph computes, in fp64 on any device: the product of the rounded operands.

`functions` has the formulas; here the operands are rounded by the quantisers' reference and
multiplied exactly, so that what remains of a kernel's error is its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r1pipe_kernels.gemm.reference import wide_blocks, wide_rows
from r1pipe_kernels.quantise import reference


def q1(x: Tensor, power_of_two: bool = False) -> Tensor:
    """x [M, K] rounded in blocks of 1 x 128 of its rows."""
    return wide_rows(*reference.quantise_rows(x, power_of_two), torch.float64)


def q1t(x: Tensor, power_of_two: bool = False) -> Tensor:
    """x [M, K] rounded in blocks of 128 x 1 of its columns; blocks start at row 0."""
    return wide_rows(*reference.quantise_columns(x, power_of_two), torch.float64).t()


def q2(w: Tensor, power_of_two: bool = False) -> Tensor:
    """w [N, K] rounded in blocks of 128 x 128."""
    return wide_blocks(*reference.quantise_weight(w, power_of_two)[:2], torch.float64)


def linear(x: Tensor, w: Tensor, dy: Tensor, power_of_two: bool = False) -> tuple[Tensor, ...]:
    """(y, dx, dw) of x [M, K], w [N, K] and the output's gradient dy [M, N]."""
    p = power_of_two
    wide = q2(w, p)
    return q1(x, p) @ wide.t(), q1(dy, p) @ wide, q1t(dy, p).t() @ q1t(x, p)


def gated_mlp(
    x: Tensor, gate: Tensor, up: Tensor, down: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(y, dx, d_gate, d_up, d_down); inner activations are fp32, as the kernels round them."""
    left, right = ((q1(x) @ q2(w).t()).float() for w in (gate, up))
    h = reference.silu_mul(left, right)
    dh = (q1(dy) @ q2(down)).float()
    inner = reference.silu_mul_backward(dh, left, right)
    f = gate.shape[0]
    dx = q1(inner[:, :f]) @ q2(gate) + q1(inner[:, f:]) @ q2(up)
    d_both = q1t(inner).t() @ q1t(x)
    return q1(h) @ q2(down).t(), dx, d_both[:f], d_both[f:], q1t(dy).t() @ q1t(h)


def experts(
    x: Tensor, gate_up: Tensor, down: Tensor, offsets: list[int], dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, dx, d_gate_up, d_down): an MLP an expert on its own rows; gate and up are one matrix,
    whose blocks may hold rows of both."""
    y, dx = torch.zeros_like(dy, dtype=torch.float64), torch.zeros_like(x, dtype=torch.float64)
    d_first = torch.zeros_like(gate_up, dtype=torch.float64)
    d_second = torch.zeros_like(down, dtype=torch.float64)
    for e in range(gate_up.shape[0]):
        rows = slice(offsets[e], offsets[e + 1])
        if offsets[e] == offsets[e + 1]:
            continue
        both = (q1(x[rows]) @ q2(gate_up[e]).t()).float()
        h = reference.silu_mul(*both.chunk(2, 1))
        dh = (q1(dy[rows]) @ q2(down[e])).float()
        inner = reference.silu_mul_backward(dh, *both.chunk(2, 1))
        y[rows], dx[rows] = q1(h) @ q2(down[e]).t(), q1(inner) @ q2(gate_up[e])
        d_first[e] = q1t(inner).t() @ q1t(x[rows])
        d_second[e] = q1t(dy[rows]).t() @ q1t(h)
    return y, dx, d_first, d_second
