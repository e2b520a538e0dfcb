"""Routed experts whose grouped products run in block-scaled FP8.

Shapes: T tokens sorted by expert, E experts, K inputs, F inner features, N outputs. Expert e owns
rows `offsets[e] : offsets[e + 1]` (int32 [E + 1] on the device, from 0 to T), any number of them;
no count reaches the host. Numerics as in `functions`; blocks of 128 tokens start anew with every
expert, so that a gradient of a weight sums over its own tokens only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1pipe_kernels.backend import run
from r1pipe_kernels.formats import require
from r1pipe_kernels.gemm import ops as gemm
from r1pipe_kernels.grouped import ops as grouped
from r1pipe_kernels.quantise import ops as quantisers

from . import weights
from .functions import _recording, check, output_dtype


def product(
    a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """`grouped_gemm` in any type of output."""
    if dtype in gemm.OUTPUTS:
        return run(grouped.grouped_gemm, a, a_s, b, b_s, offsets, dtype)
    return run(grouped.grouped_gemm, a, a_s, b, b_s, offsets, torch.float32).to(dtype)


def weight_gradient(
    dyt: Tensor, dyt_s: Tensor, xt: Tensor, xt_s: Tensor, offsets: Tensor, dtype: torch.dtype
) -> Tensor:
    """[E, N, K] in `dtype`; zeros for an expert without tokens."""
    if dtype in gemm.OUTPUTS:
        return run(grouped.grouped_gemm_reduce, dyt, dyt_s, xt, xt_s, offsets, dtype)
    return run(grouped.grouped_gemm_reduce, dyt, dyt_s, xt, xt_s, offsets, torch.float32).to(dtype)


def offsets_of(experts: Tensor, count: int) -> Tensor:
    """int32 [count + 1] for a sorted list of expert numbers."""
    edges = torch.arange(count + 1, device=experts.device, dtype=experts.dtype)
    return torch.searchsorted(experts, edges, out_int32=True)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, codes: Tensor, scales: Tensor, t_codes: Tensor,
        t_scales: Tensor, offsets: Tensor, dtype: torch.dtype, power_of_two: bool,
        transposed: bool, again: bool,
    ) -> Tensor:  # fmt: skip
        if weight.requires_grad:
            a, a_s, at, at_s = run(grouped.quantise_both, x, offsets, power_of_two)
        else:
            (a, a_s), at, at_s = run(quantisers.quantise_rows, x, power_of_two), None, None
        kept = (weight, None) if again else (t_codes, t_scales)
        ctx.save_for_backward(*kept, at, at_s, offsets)
        ctx.weight_dtype, ctx.x_dtype = weight.dtype, x.dtype
        ctx.power_of_two, ctx.transposed, ctx.again = power_of_two, transposed, again
        return product(a, a_s, codes, scales, offsets, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        t_codes, t_scales, at, at_s, offsets = ctx.saved_tensors
        if ctx.again:
            made = weights.quantise(t_codes, ctx.power_of_two)
            t_codes, t_scales = (made if ctx.transposed else made.transposed())[:2]
        for_x, for_weight = ctx.needs_input_grad[:2]
        dx = dw = None
        if for_weight:
            d, d_s, dt, dt_s = run(grouped.quantise_both, dy, offsets, ctx.power_of_two)
            dw = weight_gradient(dt, dt_s, at, at_s, offsets, ctx.weight_dtype)
            dw = dw.transpose(1, 2) if ctx.transposed else dw
        else:
            d, d_s = run(quantisers.quantise_rows, dy, ctx.power_of_two)
        if for_x:
            dx = product(d, d_s, t_codes, t_scales, offsets, ctx.x_dtype)
        return dx, dw, *[None] * 9


def _check(name: str, x: Tensor, weight: Tensor, inputs: int, offsets: Tensor) -> None:
    check(name, x, weight if weight.shape[-1] == inputs else weight.transpose(1, 2))
    require(x.dim() == 2, f"{name}: expected tokens [T, K], got {tuple(x.shape)}")
    require(
        offsets.dtype == torch.int32 and tuple(offsets.shape) == (weight.shape[0] + 1,),
        f"{name}: offsets must be int32 [{weight.shape[0] + 1}], "
        f"got {offsets.dtype} {tuple(offsets.shape)}",
    )


def fp8_grouped_linear(
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    *,
    transposed: bool = False,
    power_of_two: bool = False,
) -> Tensor:
    """Each token times its expert's matrix: x [T, K], weight [E, N, K] -> [T, N].

    `transposed`: the weight is [E, K, N], as some models store it.

    Raises:
        ValueError: shapes or types do not fit, or the weight is a DTensor.
    """
    name = "fp8_grouped_linear"
    require(weight.dim() == 3, f"{name}: expected weights [E, N, K], got {tuple(weight.shape)}")
    _check(name, x, weight, weight.shape[1 if transposed else 2], offsets)
    dtype = output_dtype(x)
    codes = weights.codes_of(weight, power_of_two)
    codes = codes.transposed() if transposed else codes
    if not _recording(x, weight):
        a, a_s = run(quantisers.quantise_rows, x, power_of_two)
        return product(a, a_s, codes.codes, codes.scales, offsets, dtype)
    again = not weights.in_graph(x) and weights.passing(weight)
    return _Grouped.apply(x, weight, *codes, offsets, dtype, power_of_two, transposed, again)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_up_w: Tensor, down_w: Tensor, codes: Tensor, scales: Tensor,
        t_codes: Tensor, t_scales: Tensor, down_c: Tensor, down_s: Tensor, down_tc: Tensor,
        down_ts: Tensor, offsets: Tensor, dtype: torch.dtype, power_of_two: bool, again: bool,
    ) -> Tensor:  # fmt: skip
        if gate_up_w.requires_grad:
            a, a_s, at, at_s = run(grouped.quantise_both, x, offsets, power_of_two)
        else:
            (a, a_s), at, at_s = run(quantisers.quantise_rows, x, power_of_two), None, None
        both = product(a, a_s, codes, scales, offsets, dtype)
        gate, up = both.chunk(2, dim=-1)
        if down_w.requires_grad:
            h, h_s, ht, ht_s = run(grouped.silu_mul_quantise, gate, up, offsets, power_of_two)
        else:
            (h, h_s), ht, ht_s = (
                run(quantisers.silu_mul_quantise_rows, gate, up, power_of_two),
                None,
                None,
            )
        kept = (gate_up_w, None, down_w, None) if again else (t_codes, t_scales, down_tc, down_ts)
        ctx.save_for_backward(*kept, at, at_s, both, ht, ht_s, offsets)
        ctx.weight_dtypes, ctx.dtype, ctx.x_dtype = (gate_up_w.dtype, down_w.dtype), dtype, x.dtype
        ctx.power_of_two, ctx.again = power_of_two, again
        return product(h, h_s, down_c, down_s, offsets, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        codes, scales, down_c, down_s, at, at_s, both, ht, ht_s, offsets = ctx.saved_tensors
        if ctx.again:
            codes, scales = weights.quantise(codes, ctx.power_of_two)[2:]
            down_c, down_s = weights.quantise(down_c, ctx.power_of_two)[2:]
        for_x, for_gate_up, for_down = ctx.needs_input_grad[:3]
        dx = d_gate_up = d_down = None
        if for_down:
            d, d_s, dt, dt_s = run(grouped.quantise_both, dy, offsets, ctx.power_of_two)
            d_down = weight_gradient(dt, dt_s, ht, ht_s, offsets, ctx.weight_dtypes[1])
        else:
            d, d_s = run(quantisers.quantise_rows, dy, ctx.power_of_two)
        if for_x or for_gate_up:
            dh = product(d, d_s, down_c, down_s, offsets, ctx.dtype)
            gate, up = both.chunk(2, dim=-1)
            g, g_s, gt, gt_s = run(
                grouped.silu_mul_backward_quantise, dh, gate, up, offsets, ctx.power_of_two
            )
            if for_x:
                dx = product(g, g_s, codes, scales, offsets, ctx.x_dtype)
            if for_gate_up:
                dtype = ctx.weight_dtypes[0]
                d_gate_up = weight_gradient(gt, gt_s, at, at_s, offsets, dtype)
        return dx, d_gate_up, d_down, *[None] * 12


def fp8_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, offsets: Tensor, *, power_of_two: bool = False
) -> Tensor:
    """down[e] @ (silu(gate[e] @ x) * (up[e] @ x)) for each token's expert e, products in FP8.

    x [T, K], gate_up [E, 2F, K] (gate's rows first), down [E, N, F] -> [T, N]. What the backward
    pass keeps: x.T and the inner activations as codes, the outputs of gate and up.

    Raises:
        ValueError: shapes or types do not fit, or a weight is a DTensor.
    """
    name = "fp8_experts"
    require(
        gate_up.dim() == 3 and down.dim() == 3 and gate_up.shape[1] == 2 * down.shape[2]
        and gate_up.shape[0] == down.shape[0],
        f"{name}: expected gate_up [E, 2F, K] and down [E, N, F], got {tuple(gate_up.shape)} and "
        f"{tuple(down.shape)}",
    )  # fmt: skip
    _check(name, x, gate_up, gate_up.shape[2], offsets)
    dtype = output_dtype(x)
    first, second = (weights.codes_of(w, power_of_two) for w in (gate_up, down))
    if not _recording(x, gate_up, down):
        a, a_s = run(quantisers.quantise_rows, x, power_of_two)
        both = product(a, a_s, first.codes, first.scales, offsets, dtype)
        h, h_s = run(quantisers.silu_mul_quantise_rows, *both.chunk(2, dim=-1), power_of_two)
        return product(h, h_s, second.codes, second.scales, offsets, dtype)
    again = not weights.in_graph(x) and any(weights.passing(w) for w in (gate_up, down))
    return _Experts.apply(x, gate_up, down, *first, *second, offsets, dtype, power_of_two, again)
