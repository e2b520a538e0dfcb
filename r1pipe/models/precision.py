"""What a model's layers compute in: `load.precision`, applied to a model that was just made."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.integrations.moe import (
    ALL_EXPERTS_FUNCTIONS,
    _default_apply_gate,  # pyright: ignore[reportPrivateUsage]
)

from r1pipe.errors import Problem, UserError
from r1pipe.schema import Fp8, Load

if TYPE_CHECKING:
    from r1pipe_kernels.linear import Report, Selection

FP8_BLOCK = "fp8_block"
"""The name of the precision, and of the experts function registered with transformers."""
GATED_MLP = "self.down_proj(self.act_fn(self.gate_proj(x))*self.up_proj(x))"
"""The line by which transformers' MLPs of Llama's kind are known, without its spaces."""
SILU = (nn.SiLU, SiLUActivation)


def apply_precision(model: Any, load: Load) -> Any:
    """Return `model`, its layers swapped in place for those of `load.precision`.

    Parameters keep their objects, names and types: they are the master weights. What was converted
    and what was not stands in `model.fp8_report` and, in one line, on stderr. A GPU without FP8
    units leaves the model as it is, unless `fp8.strict`. Raises UserError for that, and when
    no layer can be converted.
    """
    if load.precision is None:
        return model
    kernels = kernels_package()
    options = load.fp8 or default_options()
    if reason := kernels.why_no_fp8():
        if options.strict:
            hint = "fp8.strict=false trains in the higher precision instead"
            raise UserError(Problem("model.load.precision", f"{FP8_BLOCK}: {reason}", hint))
        _say(f"precision {FP8_BLOCK}: {reason}; layers keep their precision")
        return model
    selection = kernels.Selection(
        tuple(options.include),
        tuple(options.exclude),
        options.min_features,
        options.power_of_two_scales,
    )
    report = kernels.convert_to_fp8(model, selection, is_gated_mlp)
    convert_experts(model, selection, report)
    if not report.converted:
        what = f"no layer can compute in {FP8_BLOCK}\n{report}"
        raise UserError(
            Problem("model.load.precision", what, "see `model.load.fp8`: min_features, exclude")
        )
    model.fp8_report = report
    emulated = "" if torch.cuda.is_available() else " (no GPU: emulated, exact and slow)"
    _say(f"precision {FP8_BLOCK}{emulated}: {summary(report)}")
    return model


def summary(report: Report) -> str:
    """One line: how many modules were converted, and how many were kept for each reason."""
    reasons: dict[str, int] = {}
    for why in report.kept.values():
        reasons[why] = reasons.get(why, 0) + 1
    kept = ", ".join(f"{count} {why}" for why, count in reasons.items()) or "none"
    return f"{len(report.converted)} modules converted; kept: {kept}"


def default_options() -> Fp8:
    """Return conf/model/hf.yaml's, for a `load` that was written without them."""
    from r1pipe.models.loading import hf_defaults

    return Fp8.model_validate(hf_defaults()["fp8"])


def kernels_package() -> Any:
    """Return `r1pipe_kernels.linear`."""
    find_kernels()
    from r1pipe_kernels import linear

    return linear


def find_kernels() -> None:
    """Make `r1pipe_kernels` importable from the checkout where the package is not installed."""
    try:
        import r1pipe_kernels
    except ModuleNotFoundError as error:
        if error.name != "r1pipe_kernels":
            raise
        sys.path.append(str(Path(__file__).resolve().parents[2] / "kernels"))
        import r1pipe_kernels  # noqa: F401  # pyright: ignore[reportUnusedImport]


def is_gated_mlp(module: nn.Module) -> bool:
    """True for down_proj(silu(gate_proj(x)) * up_proj(x)), told by the source of its forward."""
    return isinstance(getattr(module, "act_fn", None), SILU) and _computes_gated(type(module))


@cache
def _computes_gated(kind: type[nn.Module]) -> bool:
    try:
        source = inspect.getsource(kind.forward)
    except (OSError, TypeError):
        return False
    takes = list(inspect.signature(kind.forward).parameters)
    return takes == ["self", "x"] and GATED_MLP in "".join(source.split())


def convert_experts(model: nn.Module, selection: Selection, report: Report) -> None:
    """Let fused experts of `model` run through `fp8_block_experts`; adds to `report`.

    The choice of an experts function is the configuration's, shared by all layers: layers that
    stay as they are are marked, and the registered function hands them to the one they had.
    """
    found: dict[str, Any] = {n: m for n, m in model.named_modules() if is_experts(m)}
    chosen: dict[str, Any] = {}
    for name, module in found.items():
        why = selection.why_not(name, _features(module)) or _unlike(module)
        why = why or kernels_package().why_no_grouped()
        if why:
            report.kept[name] = why
            module.fp8_block_instead = _implementation(module)
        else:
            chosen[name] = module
    for name, module in chosen.items():
        module.fp8_power_of_two = selection.power_of_two
        module.fp8_block_instead = None
        module.config._experts_implementation = FP8_BLOCK
        report.converted.append(name)


def is_experts(module: Any) -> bool:
    """True for experts that transformers' interface of experts functions runs."""
    marks = ("has_gate", "has_bias", "is_transposed", "is_concatenated", "num_experts", "config")
    first = getattr(module, "gate_up_proj", getattr(module, "up_proj", None))
    pair = (first, getattr(module, "down_proj", None))
    return all(hasattr(module, mark) for mark in marks) and all(
        isinstance(weight, Tensor) and weight.dim() == 3 for weight in pair
    )


def _first(experts: Any) -> Tensor:
    return experts.gate_up_proj if experts.has_gate else experts.up_proj


def _features(experts: Any) -> list[int]:
    return [*_first(experts).shape[1:], *experts.down_proj.shape[1:]]


def _unlike(experts: Any) -> str | None:
    return None if _one_by_one(experts) else "experts outside transformers' interface"


def _one_by_one(experts: Any) -> Any:
    """The forward that transformers' decorator wrapped, a loop over experts; None without one."""
    own: list[Any] = [vars(kind).get("forward") for kind in type(experts).__mro__]
    return next((run.__wrapped__ for run in own if hasattr(run, "__wrapped__")), None)


def _implementation(experts: Any) -> str:
    """The experts function that runs now, never this one."""
    name = experts.config._experts_implementation or "eager"
    return "grouped_mm" if name == FP8_BLOCK else name


def fp8_block_experts(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Routed experts with products in block-scaled FP8, for any class of transformers' interface.

    hidden_states (T, H), top_k_index and top_k_weights (T, K) -> (T, H). Rows are sorted by expert
    and never padded; no count reaches the host. Slots of experts that live on other ranks carry
    weight 0 in transformers, and are computed with the last expert.
    """
    if other := getattr(self, "fp8_block_instead", None):
        run = ALL_EXPERTS_FUNCTIONS.get_interface(other, _one_by_one(self))
        return run(self, hidden_states, top_k_index, top_k_weights)
    kernels = kernels_package()
    options = {"power_of_two": getattr(self, "fp8_power_of_two", False)}
    slots = top_k_index.shape[-1]
    count = self.down_proj.shape[0]
    experts, order = torch.sort(top_k_index.reshape(-1).clamp(0, count - 1))
    offsets = kernels.offsets_of(experts, count)
    x = hidden_states[order // slots]
    if gates_silu(self):
        y = kernels.fp8_experts(x, self.gate_up_proj, self.down_proj, offsets, **options)
    else:
        options["transposed"] = self.is_transposed
        y = kernels.fp8_grouped_linear(x, _first(self), offsets, **options)
        if self.has_bias:
            bias = self.gate_up_proj_bias if self.has_gate else self.up_proj_bias
            y = y + bias[experts]
        y = self._apply_gate(y) if self.has_gate else self.act_fn(y)
        y = kernels.fp8_grouped_linear(y, self.down_proj, offsets, **options)
        if self.has_bias:
            y = y + self.down_proj_bias[experts]
    y = y * top_k_weights.reshape(-1)[order, None]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # A sum over slots, not an addition by index, whose order would change from run to run.
    return y[back].view(*top_k_index.shape, y.shape[-1]).sum(dim=1).to(hidden_states.dtype)


def gates_silu(experts: Any) -> bool:
    """True where gate and up lie one after the other and silu(gate) * up is all there is."""
    return (
        experts.has_gate
        and experts.is_concatenated
        and not (experts.has_bias or experts.is_transposed)
        and type(experts)._apply_gate is _default_apply_gate
        and isinstance(experts.act_fn, SILU)
    )


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


register: Callable[..., None] = ALL_EXPERTS_FUNCTIONS.register
register(FP8_BLOCK, fp8_block_experts)
