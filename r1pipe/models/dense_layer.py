"""Decoder layers of Llama's kind in two steps, with backward passes of their own: `load.fused`.

transformers' layer under autocast rounds the norms' float32 output for each projection anew, adds
the projections' gradients up in float32 one by one, and keeps what it could compute again. Here
projections that read the same are one product, norms write what it reads, and the residual stream's
gradient is added up where the norm's is computed. Weights, their names and what is computed stay;
gradients of float32 weights are not rounded to 16 bits on their way.
"""

from __future__ import annotations

import functools
import sys
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.tensor import DTensor

from r1pipe.models.precision import SILU, find_kernels

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families of transformers whose layer adds attention and a gated MLP, each of a norm, to x."""
DEVICES = {"cuda"}
DTYPES = {torch.float32, torch.bfloat16, torch.float16}
MARK = "r1pipe_fused"
"""Attribute of the forwards that fusing puts on modules."""
rotates: ContextVar[bool] = ContextVar("rotates", default=False)
"""True inside the attention of a model whose rotary embedding is fused."""
WIDEST = 8192
"""Hidden size up to which a program holds a row."""


def fuse_layers(model: nn.Module) -> int:
    """Give decoder layers of `model` the forward of this file; returns how many got it.

    A layer whose modules are not exactly what its family has (adapters, FP8 layers, other
    activations) stays as it is.
    """
    found = [module for module in model.modules() if fits(module)]
    for layer in found:
        vars(layer)["forward"] = MethodType(forward, layer)
    return len(found)


def fits(layer: Any) -> bool:
    """Whether a module is a layer that computes what `layer_forward` does."""
    kind = type(layer)
    family = kind.__module__.removeprefix("transformers.models.").partition(".")[0]
    if family not in FAMILIES or not kind.__module__.startswith("transformers.models."):
        return False
    file = sys.modules[kind.__module__]
    prefix = kind.__name__.removesuffix("DecoderLayer")
    if kind is not getattr(file, f"{prefix}DecoderLayer", None) or "forward" in vars(layer):
        return False
    parts = {"Attention": [layer.self_attn], "MLP": [layer.mlp], "RMSNorm": _norms(layer)}
    exact = all(
        type(module) is getattr(file, f"{prefix}{name}", None)
        for name, modules in parts.items()
        for module in modules
    )
    linears = _linears(layer) if exact else []
    return (
        exact
        and all(type(each) is nn.Linear for each in linears)
        and all(each.bias is None for each in linears[3:])
        and len({each.bias is None for each in linears[:3]}) == 1
        and isinstance(layer.mlp.act_fn, SILU)
        and layer.input_layernorm.weight.shape[0] <= WIDEST
    )


def _norms(layer: Any) -> list[Any]:
    return [layer.input_layernorm, layer.post_attention_layernorm]


def _linears(layer: Any) -> list[Any]:
    """Return the linear layers: queries, keys, values, output; gate, up, down."""
    attention, mlp = layer.self_attn, layer.mlp
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    found = [getattr(attention, name) for name in names]
    return [*found, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The forward of fused layers: two steps where this pass can take them, else the class's."""
    if args or kwargs.get("past_key_values") is not None or not _suits(self, hidden_states):
        return type(self).forward(self, hidden_states, *args, **kwargs)
    return layer_forward(self, hidden_states, **kwargs)


setattr(forward, MARK, True)


def is_fused(module: nn.Module) -> bool:
    """True where `module`'s own forward is one of those that compute what its class's does."""
    return hasattr(vars(module).get("forward"), MARK)


def _suits(layer: Any, x: Tensor) -> bool:
    """Whether this pass can go without the modules' own calls."""
    if torch.compiler.is_compiling() or x.device.type not in DEVICES or not x.numel():
        return False
    if x.device.type == "cuda" and x.device.index != torch.cuda.current_device():
        return False  # Triton launches on the current one
    linears = _linears(layer)
    weights = [each.weight for each in [*linears, *_norms(layer)]]
    bypassed = [layer.mlp, layer.self_attn, *linears, *_norms(layer)]
    return (
        x.dtype in DTYPES
        and not any(isinstance(each, DTensor) for each in [x, *weights])
        and all(weight.device == x.device for weight in weights)
        and (torch.is_autocast_enabled(x.device.type) or {w.dtype for w in weights} == {x.dtype})
        and not any(each._forward_hooks or each._forward_pre_hooks for each in bypassed)
        and not any(each._backward_hooks or each._backward_pre_hooks for each in bypassed)
        # Adapters that came later.
        and all(type(each) is nn.Linear for each in linears)
        and all("forward" not in vars(each) or is_fused(each) for each in bypassed)
    )


def layer_forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    past_key_values: None = None,
    **kwargs: Any,
) -> Tensor:
    """What the layer's class computes, hidden_states [B, T, H] to the same."""
    attention, file = self.self_attn, sys.modules[type(self).__module__]
    linears, (norm, second) = _linears(self), _norms(self)
    device = hidden_states.device.type
    dtype = hidden_states.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    lead = hidden_states.shape[:-1]
    # The residual stream goes through the step, where its gradient meets the norm's.
    past, *projected = Project.apply(  # pyright: ignore[reportGeneralTypeIssues]
        *(hidden_states.flatten(0, -2), norm.weight, norm.variance_epsilon, dtype),
        *(each.weight for each in linears[:3]),
        *(each.bias for each in linears[:3]),
    )
    heads = [each.view(*lead, -1, attention.head_dim) for each in projected]
    if hasattr(attention, "q_norm"):
        heads[:2] = attention.q_norm(heads[0]), attention.k_norm(heads[1])
    query, key, value = (each.transpose(1, 2) for each in heads)
    cos, sin = position_embeddings  # pyright: ignore[reportGeneralTypeIssues]
    before = rotates.set(is_fused(attention))
    try:
        query, key = file.apply_rotary_pos_emb(query, key, cos, sin)
    finally:
        rotates.reset(before)
    interface = file.ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, file.eager_attention_forward
    )
    window = getattr(attention, "sliding_window", None)
    if "mistral" in file.__name__:
        window = getattr(attention.config, "sliding_window", None)
    mixed, _ = interface(
        *(attention, query, key, value, attention_mask),
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        sliding_window=window,
        **kwargs,
    )
    found: Any = Finish.apply(
        *(past, mixed.reshape(len(past), -1), second.weight, second.variance_epsilon, dtype),
        *(each.weight for each in linears[3:]),
    )
    return found.view(*lead, -1)


@functools.cache
def ops() -> Any:
    """Return the kernels, or their twins in torch, by where their operands are."""
    find_kernels()
    from r1pipe_kernels.layers import ops

    return ops


class Project(Function):
    """x [N, H] to itself and to queries, keys and values [N, ...] of its norm."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, norm: Tensor, eps: float, dtype: torch.dtype, *linear: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights, biases = linear[:3], linear[3:]
        with torch.autocast(x.device.type, enabled=False):
            y, scale = ops().norm_forward(x, norm, eps, dtype)
            bias = None if biases[0] is None else _stacked(biases, dtype)
            found = nn.functional.linear(y, _stacked(weights, dtype), bias)
        ctx.save_for_backward(x, scale, norm, *weights)
        ctx.has_bias = bias is not None
        ctx.sizes = [len(each) for each in weights if each is not None]
        # Not views of one tensor for autograd: rotation may write where they lie.
        return x, *found.split(ctx.sizes, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, past: Tensor, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, norm, *weights = ctx.saved_tensors
        grad = torch.cat(grads, dim=1)
        with torch.autocast(x.device.type, enabled=False):
            inner = grad @ _stacked(weights, grad.dtype)
            total, _, y, of_norm = ops().norm_backward(inner, x, scale, norm, past)
            of_weights = _parted(ctx.needs_input_grad[4:7], grad, y, weights)
            of_biases: list[Any] = [None] * 3
            if ctx.has_bias and any(ctx.needs_input_grad[7:]):
                of_biases = list(grad.sum(0, dtype=torch.float32).split(ctx.sizes))
        return total, of_norm, None, None, *of_weights, *of_biases


class Finish(Function):
    """x + a @ output, and the gated MLP of its norm added to that: x [N, H], a [N, A]."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, a: Tensor, norm: Tensor, eps: float, dtype: torch.dtype,
        output: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.given = a.dtype
        with torch.autocast(x.device.type, enabled=False):
            a = a.to(dtype)
            middle = _added(x, a, output.to(dtype).t())
            y, scale = ops().norm_forward(middle, norm, eps, dtype)
            both = y @ _stacked((gate, up), dtype).t()
            found = _added(middle, ops().gate_forward(both), down.to(dtype).t())
        ctx.save_for_backward(a, middle, scale, both, norm, output, gate, up, down)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, middle, scale, both, norm, output, gate, up, down = ctx.saved_tensors
        needs, dtype = ctx.needs_input_grad[5:], a.dtype
        with torch.autocast(middle.device.type, enabled=False):
            rounded = grad.to(dtype)
            of_both, active = ops().gate_backward(rounded @ down.to(dtype), both)
            (of_down,) = _parted(needs[3:], rounded, active, (down,))
            inner = of_both @ _stacked((gate, up), dtype)
            total, rounded, y, of_norm = ops().norm_backward(inner, middle, scale, norm, grad)
            of_gates = _parted(needs[1:3], of_both, y, (gate, up))
            (of_output,) = _parted(needs[:1], rounded, a, (output,))
            of_a = rounded @ output.to(dtype)
        return total, of_a.to(ctx.given), of_norm, None, None, of_output, *of_gates, of_down


def _stacked(parts: Any, dtype: torch.dtype) -> Tensor:
    return torch.cat([each.to(dtype) for each in parts])


def _parted(
    needed: tuple[bool, ...], grad: Tensor, read: Tensor, weights: Any
) -> list[Tensor | None]:
    """Return the gradients of weights [., K] whose product, stacked, with `read` had `grad`."""
    if not any(needed):
        return [None] * len(weights)
    whole = _product(grad.t(), read, weights[0].dtype)
    parts = whole.split([len(each) for each in weights])
    return [part if asked else None for part, asked in zip(parts, needed, strict=True)]


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a @ b in `dtype`, which may be wider than theirs: no rounding in between on a GPU."""
    if a.dtype == dtype:
        return a @ b
    if a.device.type == "cuda" and dtype == torch.float32:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def _added(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return x + a @ b in x's dtype, rounded as by `_product`."""
    if a.dtype == x.dtype:
        return torch.addmm(x, a, b)
    if a.device.type == "cuda" and x.dtype == torch.float32:
        wide: Any = torch.addmm
        return wide(x, a, b, out_dtype=x.dtype)
    return x + (a @ b).to(x.dtype)
