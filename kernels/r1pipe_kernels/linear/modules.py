"""Swaps linear layers of a model for FP8 ones, in place: parameters, names and types stay.

A swap changes a module's class and nothing else, so checkpoints, optimizers, adapters (which look
for `nn.Linear`), hooks and weight transfer see the model they knew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .functions import fp8_gated_mlp, fp8_linear, fuses
from .weights import forget

ALWAYS_KEPT = (
    "*embed*", "*lm_head*", "*.score", "*.classifier", "*.v_head*", "*gate", "*router*", "*norm*",
    "*.eh_proj", "*.shared_head*", "*.lora_*",
)  # fmt: skip
"""Names of modules that stay as they are: embedding, output head, gating and normalisation, as in
DeepSeek-V3's report (arXiv 2412.19437, section 3.3.1); the small projection of multi-token
prediction, which its published checkpoint holds in bf16; heads of values and adapters."""

MULTIPLE = 16
"""Rows of codes start at multiples of 16 bytes for the copy engine; other sizes would be padded."""


class FP8Linear(nn.Linear):
    """An `nn.Linear` whose forward and backward products run in block-scaled FP8."""

    power_of_two: bool = False

    def forward(self, x: Tensor) -> Tensor:
        weight = _weight(self)
        # Megatron's name: an fp32 tensor on a parameter that gradients are added to.
        main = getattr(weight, "main_grad", None)
        return fp8_linear(x, weight, self.bias, power_of_two=self.power_of_two, main_grad=main)

    def __getattr__(self, name: str) -> Any:
        # Who asks the layer for its weight may write through `.data`, as PEFT's merge does, which
        # raises no version: the next pass quantises anew.
        if name == "weight":
            forget(vars(self).get("_parameters", {}).get(name))
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, fp8_block"


def _weight(module: nn.Module) -> Tensor:
    """The weight, without asking the layer for it; wrappers may hold it outside its parameters."""
    found = module._parameters.get("weight")
    return found if found is not None else module.weight  # pyright: ignore[reportReturnType]


@cache
def gated(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a gated MLP whose three FP8 projections run as one function."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        parts = [getattr(self, name) for name in ("gate_proj", "up_proj", "down_proj")]
        if not all(_bare(part) for part in parts):
            return kind.forward(self, x)  # adapters or hooks have to see their layer's call
        weights = [_weight(part) for part in parts]
        return fp8_gated_mlp(x, *weights, power_of_two=parts[0].power_of_two)

    return type(f"FP8{kind.__name__}", (kind,), {"forward": forward, "__module__": __name__})


def _bare(module: nn.Module) -> bool:
    return (
        type(module) is FP8Linear
        and module.bias is None
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        and not hasattr(_weight(module), "main_grad")
        # Offloading and device maps of accelerate replace `forward` on the instance.
        and "forward" not in vars(module)
    )


@dataclass
class Report:
    """Which modules run in FP8, and why the others do not."""

    converted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons: dict[str, list[str]] = {}
        for name, why in self.kept.items():
            reasons.setdefault(why, []).append(name)
        lines = [f"FP8: {len(self.converted)} modules converted, {len(self.kept)} kept"]
        for why, names in reasons.items():
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            lines.append(f"  {why}: {len(names)} ({shown})")
        return "\n".join(lines)


@dataclass(frozen=True)
class Selection:
    """Which layers are converted.

    A name that `exclude` or `ALWAYS_KEPT` matches is kept, unless `include` matches it by a pattern
    of its own; an empty `include` takes all others. Both sides of a layer need `min_features`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_features: int = 256
    power_of_two: bool = False

    def why_not(self, name: str, sizes: Iterable[int]) -> str | None:
        """The reason to keep a layer, or None."""
        named = _match(name, self.include)
        if by := _match(name, self.exclude):
            return f"excluded by `{by}`"
        if self.include and not named:
            return "matched by no include"
        if not named and (by := _match(name, ALWAYS_KEPT)):
            return f"always kept (`{by}`)"
        sizes = list(sizes)
        if min(sizes) < self.min_features:
            return f"fewer than {self.min_features} features"
        if any(size % MULTIPLE for size in sizes):
            return f"a side that is no multiple of {MULTIPLE}"
        return None


def _match(name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that the dotted name matches, as it is or with a dot before it."""
    return next((p for p in patterns if fnmatchcase(name, p) or fnmatchcase(f".{name}", p)), None)


def convert_to_fp8(
    model: nn.Module,
    selection: Selection | None = None,
    is_gated_mlp: Callable[[nn.Module], bool] = lambda module: False,
) -> Report:
    """Swap the selected `nn.Linear` layers of `model` in place; returns what became of each.

    Only modules that are exactly `nn.Linear` are swapped, and never the output head, whatever its
    name. `is_gated_mlp` says which modules compute down_proj(silu(gate_proj(x)) * up_proj(x)); with
    all three layers swapped they run as one function.
    """
    selection = selection or Selection()
    report = Report()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if type(module) is not nn.Linear:
            continue
        if module is head:
            report.kept[name] = "the output head"
        elif "forward" in vars(module):
            report.kept[name] = "a forward of its own"  # a hook of accelerate's, made before
        elif why := selection.why_not(name, module.weight.shape):
            report.kept[name] = why
        else:
            module.__class__ = FP8Linear
            assert isinstance(module, FP8Linear)
            module.power_of_two = selection.power_of_two
            report.converted.append(name)
    for module in model.modules():
        if is_gated_mlp(module):
            parts = [getattr(module, n, None) for n in ("gate_proj", "up_proj", "down_proj")]
            swapped = [p for p in parts if isinstance(p, FP8Linear)]
            if len(swapped) == 3 and fuses(swapped[0].out_features):
                module.__class__ = gated(type(module))
    return report


def why_no_fp8(device: torch.device | None = None) -> str | None:
    """Why a GPU cannot run the kernels: no FP8 units, or no Triton; None when it can.

    A machine without a GPU runs the reference, which is exact and slow.
    """
    if not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"{name} (compute capability {capability[0]}.{capability[1]}) has no FP8 units"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    return None


def why_no_grouped(device: torch.device | None = None) -> str | None:
    """Why experts stay as they are on a GPU that runs the other kernels; None on Hopper."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] != 9:
        return "no grouped products but for Hopper"
    return None
