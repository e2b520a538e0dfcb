"""A training model's weights under the names of its checkpoint, one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

Gather = Callable[[Sequence[Tensor]], AbstractContextManager[Any]]
"""Makes the whole of sharded parameters visible (ZeRO-3); a collective over all ranks."""

LAYER = re.compile(r"^(.*?\blayers\.\d+)\.")
WRAPPERS = ("_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_orig_mod.", "module.")


def checkpoint_tensors(model: Any, gather: Gather | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of all that `save_pretrained` would write, adapters merged.

    Names are those that every loader of the checkpoint knows: fused experts come apart, persistent
    buffers (DeepSeek-V3's routing bias) are among them, tied weights come once. Tensors are views
    or references where no arithmetic is needed, on the model's device. With `gather` every rank has
    to iterate to the end.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        for part in _by_layer(_named_tensors(base, gather or _whole)):
            yield from revert_weight_conversion(base, part).items()


def _whole(parameters: Sequence[Tensor]) -> AbstractContextManager[Any]:
    return nullcontext()


def _by_layer(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Collect what belongs to one layer: conversions may join weights of a layer, never more."""
    part: dict[str, Tensor] = {}
    current = None
    for name, tensor in tensors:
        found = LAYER.match(name)
        layer = found[1] if found else None
        if part and layer != current:
            yield part
            part = {}
        current = layer
        part[name] = tensor
    if part:
        yield part


def _named_tensors(base: Any, gather: Gather) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters (adapters added) and persistent buffers, module by module."""
    seen: set[int] = set()
    for prefix, module in _modules(base, ""):
        own = [p for p in module.parameters(recurse=_is_tuner(module)) if id(p) not in seen]
        seen.update(map(id, own))
        with gather(own):
            for name, tensor in _tensors_of(module, own):
                yield _plain(f"{prefix}.{name}" if prefix else name), _full(tensor)


def _modules(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules in order; PEFT's are yielded whole, under the name of what they wrap."""
    yield prefix, module
    if _is_tuner(module):
        return
    for name, child in module.named_children():
        yield from _modules(child, f"{prefix}.{name}" if prefix else name)


def _tensors_of(module: nn.Module, own: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    if _is_tuner(module):
        yield from _merged(module)
        return
    ours = set(map(id, own))
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in ours:
            yield name, parameter.data
    temporary = module._non_persistent_buffers_set
    for name, buffer in module.named_buffers(recurse=False):
        if name not in temporary:
            yield name, buffer


def _is_tuner(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") or hasattr(module, "modules_to_save")


def _merged(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield a PEFT module's weights as the model without adapters would have them.

    The base weights are left alone: merging and unmerging in place would change them by rounding at
    every call.
    """
    if hasattr(module, "modules_to_save"):
        chosen = module.modules_to_save[module.active_adapters[0]]
        yield from ((name, value.data) for name, value in chosen.named_parameters())
        return
    deltas: dict[str, list[Tensor]] = {}
    while hasattr(
        module, "base_layer"
    ):  # an adapter for each of several parameters, in one another
        name = getattr(module, "parameter_name", "weight")
        known = {*getattr(module, "lora_A", ()), *getattr(module, "lora_embedding_A", ())}
        if not module.merged and not module.disable_adapters:
            chosen = [adapter for adapter in module.active_adapters if adapter in known]
            deltas.setdefault(name, []).extend(map(module.get_delta_weight, chosen))
        module = module.base_layer
    for name, value in module.state_dict().items():
        merged = _full(value)
        for delta in deltas.get(name, ()):
            merged = merged + _full(delta)
        yield name, merged.to(value.dtype)


def _full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that FSDP2 keeps in shards."""
    whole = getattr(tensor, "full_tensor", None)
    return tensor if whole is None else whole()


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
