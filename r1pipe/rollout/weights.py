"""Weights of a model's modules as plain matrices, adapters added, for steps that join them."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from r1pipe.models.dense_layer import is_fused

STATIC_ANGLES = ("default", "linear", "yarn", "llama3")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is."""


def base_of(model: Any) -> Any:
    """Return the transformers model inside PEFT's wrapper, adapters still in its modules."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_prompt_learning(model: Any) -> bool:
    """Whether an adapter puts virtual tokens before the text."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def is_readable(model: Any, known: tuple[str, ...], hooks: tuple[Any, ...] = ()) -> bool:
    """Whether the modules compute what their weights say, so that another may do it for them.

    `known`: the files whose own classes are expected. Hooks (but for `hooks`, on the model itself),
    a replaced `forward`, an adapter other than plain LoRA and modules of another class speak
    against it, as do sharded, quantised and mixed weights.
    """
    own = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    if any(hook not in hooks for hook in own):
        return False
    waiting = list(model.children())
    while waiting:
        module = waiting.pop()
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        if "forward" in module.__dict__ and not is_fused(module):
            return False
        if isinstance(module, (nn.Linear, LoraLinear)):
            if not _is_plain(module):
                return False
            continue
        if isinstance(module, ParamWrapper):
            if not _is_plain_adapter(module):
                return False
            waiting.append(module.base_layer)
            continue
        expected = type(module).__module__ in known
        if not expected and type(module) not in (nn.Embedding, nn.ModuleList, nn.SiLU):
            return False
        waiting += module.children()
    return all(
        type(p) is nn.Parameter and type(p.data) is Tensor and not p.is_meta
        for p in model.parameters()
    )


def _is_plain(module: Any) -> bool:
    if type(module) is nn.Linear:
        return tuple(module.weight.shape) == (module.out_features, module.in_features)
    base = getattr(module, "base_layer", None)
    return type(module) is LoraLinear and type(base) is nn.Linear and _is_plain_adapter(module)


def _is_plain_adapter(module: Any) -> bool:
    """Whether the sum of weight and deltas is what the adapter computes, and known."""
    if module.disable_adapters:
        return not module.merged
    return not any(
        module.lora_bias.get(name) or name in module.lora_variant for name in _active(module)
    )


def _active(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def weight_of(module: Any) -> Tensor:
    """Return the weight (out, in) that `module` applies, its active adapters added."""
    if type(module) is nn.Linear:
        return module.weight.detach()
    return _adapted(module.base_layer.weight.detach(), [module])


def core_of(module: Any) -> Any:
    """Return the module whose parameters PEFT's wrappers around it adapt."""
    return module.get_base_layer() if isinstance(module, ParamWrapper) else module


def parameter_of(module: Any, name: str) -> Tensor:
    """Return the parameter that `module` uses under this name, its active adapters added."""
    wrappers = []
    while isinstance(module, ParamWrapper):
        if module.parameter_name == name:
            wrappers.append(module)
        module = module.base_layer
    return _adapted(getattr(module, name).detach(), wrappers)


def _adapted(weight: Tensor, adapters: list[Any]) -> Tensor:
    deltas = [
        adapter.get_delta_weight(name).detach().float()
        for adapter in adapters
        if not (adapter.disable_adapters or adapter.merged)
        for name in _active(adapter)
    ]
    return sum(deltas, weight.float()).to(weight.dtype) if deltas else weight


def bias_of(module: Any) -> Tensor | None:
    """Return the bias (out) that `module` adds, if any."""
    bias = module.bias if type(module) is nn.Linear else module.base_layer.bias
    return None if bias is None else bias.detach()


def joined_bias(modules: list[Any]) -> Tensor | None:
    """Return the biases of all modules one after the other, zero where one has none."""
    biases = [bias_of(module) for module in modules]
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            weight_of(module).new_zeros(weight_of(module).shape[0]) if bias is None else bias
            for module, bias in zip(modules, biases, strict=True)
        ]
    )


def rotary_tables(rotary: Any, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines (positions, D) of a rotary embedding's first positions.

    Turned x is `x * cos + swap(x) * sin`, where swap exchanges the two halves: the minus sign of
    the rotation is in the sines.
    """
    places = torch.arange(positions, device=like.device)[None]
    cos, sin = rotary(like, places)
    width = cos.shape[-1]
    signs = torch.ones(width, device=like.device, dtype=sin.dtype)
    signs[: width // 2] = -1
    return cos[0].contiguous(), (sin[0] * signs).contiguous()


def has_static_angles(config: Any) -> bool:
    """Whether one table of angles serves texts of every length."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return parameters.get("rope_type", "default") in STATIC_ANGLES
