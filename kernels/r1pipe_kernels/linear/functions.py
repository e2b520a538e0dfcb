"""Linear layers and gated MLPs whose three products run in block-scaled FP8.

Shapes: M rows of the input, K inputs, N outputs, F inner features of an MLP. With q1 rounding in
blocks of 1 x 128 along the axis that is summed over, and q2 in blocks of 128 x 128,

    y = q1(x) @ q2(w).T          dx = q1(dy) @ q2(w)          dw = q1(dy.T) @ q1(x.T).T

as in DeepSeek-V3's training (arXiv 2412.19437, section 3.3). Blocks of 128 x 128 transpose into
themselves, so dx rounds the weight no second time. What the backward pass keeps of x are the codes
of x.T, made in the same read as those of x: half the bytes of bf16.

Autograd's part is a `torch.autograd.Function` around `torch.library` operators, not an operator
with registered autograd: what an operator saves must be its output, so x.T would leave it even when
no gradient of the weight is asked for; and torch.compile sees through a Function, merges the
quantisers of query, key and value, drops those that nothing reads and chooses what to save.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r1pipe_kernels.backend import run
from r1pipe_kernels.formats import BLOCK, require
from r1pipe_kernels.gemm import ops as gemm
from r1pipe_kernels.quantise import ops as quantisers

from . import activations, weights
from .weights import Codes


def output_dtype(x: Tensor) -> torch.dtype:
    """The type of a linear layer's output: autocast's, else the input's."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def product(a: Tensor, a_s: Tensor, b: Tensor, b_s: Tensor, dtype: torch.dtype) -> Tensor:
    """`gemm` in any type of output."""
    if dtype in gemm.OUTPUTS:
        return run(gemm.gemm, a, a_s, b, b_s, dtype)
    return run(gemm.gemm, a, a_s, b, b_s, torch.float32).to(dtype)


def weight_gradient(
    dyt: Tensor, dyt_s: Tensor, xt: Tensor, xt_s: Tensor, dtype: torch.dtype, main: Tensor | None
) -> Tensor | None:
    """[N, K] in `dtype`; with `main` (fp32) added to that instead, and None."""
    if main is not None:
        gemm.gemm_rows_into(main, dyt, dyt_s, xt, xt_s)
        return None
    if dtype in gemm.OUTPUTS:
        return run(gemm.gemm_rows, dyt, dyt_s, xt, xt_s, dtype)
    return run(gemm.gemm_rows, dyt, dyt_s, xt, xt_s, torch.float32).to(dtype)


def check(name: str, x: Tensor, weight: Tensor) -> None:
    if type(weight).__name__ == "DTensor":
        raise ValueError(f"{name}: the weight is a DTensor; FP8 layers take whole local weights")
    if x.dim() == 0 or x.shape[-1] != weight.shape[-1]:
        takes = f"the weight takes {weight.shape[-1]} features"
        raise ValueError(f"{name}: the input is {tuple(x.shape)}, {takes}")
    if x.dtype not in quantisers.FLOATS:
        raise ValueError(f"{name}: expected a bf16, fp16 or fp32 input, got {x.dtype}")


class _Linear(torch.autograd.Function):
    """Inputs beside x, weight and bias are constants; `again`: quantise the weight in backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, codes: Tensor, scales: Tensor,
        t_codes: Tensor, t_scales: Tensor, a: Tensor, a_s: Tensor, at: Tensor | None,
        at_s: Tensor | None, main: Tensor | None, dtype: torch.dtype, power_of_two: bool,
        again: bool,
    ) -> Tensor:  # fmt: skip
        kept = (weight, None) if again else (t_codes, t_scales)
        ctx.save_for_backward(*kept, at, at_s, main)
        ctx.weight_dtype, ctx.x_dtype = weight.dtype, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.x_shape, ctx.power_of_two, ctx.again = x.shape, power_of_two, again
        y = product(a, a_s, codes, scales, dtype)
        if bias is not None:
            y = y + bias.to(dtype)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], codes.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        t_codes, t_scales, at, at_s, main = ctx.saved_tensors
        if ctx.again:
            t_codes, t_scales = weights.quantise(t_codes, ctx.power_of_two)[2:]
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        flat = dy if dy.dim() == 2 else dy.reshape(-1, dy.shape[-1])
        dx = dw = db = None
        if for_x or for_weight:
            d = activations.quantise(flat, for_weight, ctx.power_of_two)
            if for_x:
                dx = product(d.codes, d.scales, t_codes, t_scales, ctx.x_dtype)
                dx = dx if dy.dim() == 2 else dx.reshape(ctx.x_shape)
            if for_weight:
                assert d.t_codes is not None and d.t_scales is not None
                dw = weight_gradient(d.t_codes, d.t_scales, at, at_s, ctx.weight_dtype, main)
        if for_bias:
            db = flat.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return dx, dw, db, *[None] * 12


def _recording(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def fp8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    power_of_two: bool = False,
    main_grad: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.linear` with its three products in FP8.

    x [..., K], weight [N, K] in bf16, fp16 or fp32; -> [..., N] in autocast's type, else x's.
    `main_grad` (fp32 [N, K]): the gradient of the weight is added to it and `weight.grad` stays as
    it is. `power_of_two`: scales are powers of two.

    Raises:
        ValueError: shapes or types do not fit, or the weight is a DTensor.
    """
    check("fp8_linear", x, weight)
    if main_grad is not None:
        require(
            main_grad.dtype == torch.float32 and main_grad.shape == weight.shape,
            f"fp8_linear: main_grad must be fp32 {tuple(weight.shape)}, "
            f"got {main_grad.dtype} {tuple(main_grad.shape)}",
        )
    dtype = output_dtype(x)
    codes = weights.codes_of(weight, power_of_two)
    recording = _recording(x, weight, bias)
    a = activations.rows_of(x, recording and weight.requires_grad, power_of_two)
    if not recording:
        y = product(a.codes, a.scales, codes.codes, codes.scales, dtype)
        y = y if bias is None else y + bias.to(dtype)
        return y.reshape(*x.shape[:-1], weight.shape[0])
    again = not weights.in_graph(x) and weights.passing(weight)
    return _Linear.apply(
        x, weight, bias, *codes, a.codes, a.scales, a.t_codes, a.t_scales, main_grad, dtype,
        power_of_two, again,
    )  # fmt: skip


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_w: Tensor, up_w: Tensor, down_w: Tensor, gate_c: Tensor,
        gate_s: Tensor, gate_tc: Tensor, gate_ts: Tensor, up_c: Tensor, up_s: Tensor,
        up_tc: Tensor, up_ts: Tensor, down_c: Tensor, down_s: Tensor, down_tc: Tensor,
        down_ts: Tensor, a: Tensor, a_s: Tensor, at: Tensor | None, at_s: Tensor | None,
        dtype: torch.dtype, power_of_two: bool, again: bool,
    ) -> Tensor:  # fmt: skip
        gate, up = (product(a, a_s, gate_c, gate_s, dtype), product(a, a_s, up_c, up_s, dtype))
        h, h_s, ht, ht_s = run(quantisers.silu_mul_quantise, gate, up, power_of_two)
        kept = (gate_tc, gate_ts, up_tc, up_ts, down_tc, down_ts)
        if again:
            kept = (gate_w, None, up_w, None, down_w, None)
        if not down_w.requires_grad:
            ht = ht_s = None
        ctx.save_for_backward(*kept, at, at_s, gate, up, ht, ht_s)
        ctx.weight_dtypes = (gate_w.dtype, up_w.dtype, down_w.dtype)
        ctx.dtype, ctx.x_dtype, ctx.x_shape = dtype, x.dtype, x.shape
        ctx.power_of_two, ctx.again = power_of_two, again
        y = product(h, h_s, down_c, down_s, dtype)
        return y.reshape(*x.shape[:-1], down_c.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        *kept, at, at_s, gate, up, ht, ht_s = ctx.saved_tensors
        if ctx.again:
            for i in (0, 2, 4):
                kept[i : i + 2] = weights.quantise(kept[i], ctx.power_of_two)[2:]
        gate_c, gate_s, up_c, up_s, down_c, down_s = kept
        for_x, for_gate, for_up, for_down = ctx.needs_input_grad[:4]
        dx = d_gate = d_up = d_down = None
        flat = dy.reshape(-1, dy.shape[-1])
        d = activations.quantise(flat, for_down, ctx.power_of_two)
        if for_down:
            assert d.t_codes is not None and d.t_scales is not None
            d_down = weight_gradient(d.t_codes, d.t_scales, ht, ht_s, ctx.weight_dtypes[2], None)
        if for_x or for_gate or for_up:
            dh = product(d.codes, d.scales, down_c, down_s, ctx.dtype)
            g, g_s, gt, gt_s = run(
                quantisers.silu_mul_backward_quantise, dh, gate, up, ctx.power_of_two
            )
            f, fb = gate.shape[1], gate.shape[1] // BLOCK
            if for_x:
                dx = product(g[:, :f], g_s[:fb], gate_c, gate_s, ctx.x_dtype)
                dx = dx + product(g[:, f:], g_s[fb:], up_c, up_s, ctx.x_dtype)
                dx = dx.reshape(ctx.x_shape)
            if for_gate:
                parts = (gt[:f], gt_s[:, :f], at, at_s)
                d_gate = weight_gradient(*parts, ctx.weight_dtypes[0], None)
            if for_up:
                parts = (gt[f:], gt_s[:, f:], at, at_s)
                d_up = weight_gradient(*parts, ctx.weight_dtypes[1], None)
        return dx, d_gate, d_up, d_down, *[None] * 19


def fuses(inner: int) -> bool:
    """Whether a gated MLP of `inner` features can be one function: no block holds gate and up."""
    return inner % BLOCK == 0


def fp8_gated_mlp(
    x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, power_of_two: bool = False
) -> Tensor:
    """down @ (silu(gate @ x) * (up @ x)) with all products in FP8, x quantised once.

    x [..., K], gate and up [F, K], down [N, F], F a multiple of 128. The product of the two halves
    goes to FP8 without a rounding to bf16 in between, forward and backward. The backward pass keeps
    x.T and the inner activations as codes, gate's and up's outputs in the type of the output.

    Raises:
        ValueError: shapes or types do not fit.
    """
    for name, weight in (("gate", gate), ("up", up)):
        check(f"fp8_gated_mlp, {name}", x, weight)
    inner = gate.shape[0]
    require(
        up.shape == gate.shape and down.shape[1] == inner and fuses(inner),
        f"fp8_gated_mlp: {inner} inner features with up {tuple(up.shape)} and down "
        f"{tuple(down.shape)}; expected equal ones, a multiple of {BLOCK}",
    )
    dtype = output_dtype(x)
    trained = (gate, up, down)
    of_gate, of_up, of_down = (weights.codes_of(w, power_of_two) for w in trained)
    recording = _recording(x, *trained)
    columns = recording and (gate.requires_grad or up.requires_grad)
    a = activations.rows_of(x, columns, power_of_two)
    if not recording:
        left, right = (
            product(a.codes, a.scales, c.codes, c.scales, dtype) for c in (of_gate, of_up)
        )
        h, h_s = run(quantisers.silu_mul_quantise_rows, left, right, power_of_two)
        y = product(h, h_s, of_down.codes, of_down.scales, dtype)
        return y.reshape(*x.shape[:-1], down.shape[0])
    again = not weights.in_graph(x) and any(weights.passing(w) for w in trained)
    return _GatedMlp.apply(x, *trained, *of_gate, *of_up, *of_down, *a, dtype, power_of_two, again)


__all__ = ["Codes", "fp8_gated_mlp", "fp8_linear", "fuses"]
