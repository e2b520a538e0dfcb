"""Rollouts in FP8: what has to be there for them, and how vLLM is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.rollout.vllm_support import installed_version, on_gpu
from r1pipe.schema import Rollout

METHOD = "fp8_per_tensor"
"""vLLM's name of quantisation while weights are loaded: a scale for each weight, one for each token
of what it is multiplied with."""
OLD_METHOD = "fp8"
CAPABILITY = (8, 9)
"""Least compute capability with FP8 units (Ada, Hopper); vLLM itself would fall back to 16 bits."""
GRAIN = 16
"""Both sides of a weight must be multiples of it: the kernels' requirement."""
_WHERE = "rollout.precision"


def is_fp8(rollout: Rollout) -> bool:
    return rollout.precision == "fp8"


def quantisation() -> str:
    """Return the argument `quantization` of the vLLM that is installed."""
    try:
        from vllm.model_executor.layers.quantization import (  # pyright: ignore[reportMissingImports]
            QUANTIZATION_METHODS,
        )
    except ImportError:
        return METHOD
    return METHOD if METHOD in QUANTIZATION_METHODS else OLD_METHOD


def require_fp8(config: Any) -> None:
    """Raise UserError where this machine, or a model of this configuration, has no FP8 rollouts."""
    if not on_gpu():
        what = "there is no GPU here, and vLLM's FP8 kernels run on nothing else"
        raise UserError(Problem(_WHERE, what, "`auto`"))
    has = torch.cuda.get_device_capability()
    if has < CAPABILITY:
        need, have = (".".join(map(str, each)) for each in (CAPABILITY, has))
        what = f"{torch.cuda.get_device_name()} has no FP8 units (compute capability {have}, "
        raise UserError(Problem(_WHERE, f"{what}{need} needed)", "`auto`"))
    if problem := model_problem(config):
        raise UserError(Problem(_WHERE, problem, "`auto`"))


def model_problem(config: Any) -> str | None:
    """Return what in a model's configuration speaks against FP8 rollouts, None if nothing does."""
    if getattr(config, "kv_lora_rank", None):
        return (
            "latent attention (MLA) keeps products of its weights, which vLLM does not make again "
            "from weights that are quantised as they arrive"
        )
    if getattr(config, "quantization_config", None) is not None:
        return "the checkpoint is quantised already"
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    size = getattr(config, "head_dim", None) or (hidden // heads if hidden and heads else None)
    sides = {
        "hidden_size": hidden,
        "intermediate_size": getattr(config, "intermediate_size", None),
        "moe_intermediate_size": getattr(config, "moe_intermediate_size", None),
        "num_attention_heads x head_dim": size and heads and size * heads,
    }
    odd = [f"{name} {side}" for name, side in sides.items() if side and side % GRAIN]
    return f"{GRAIN} does not divide {', '.join(odd)}" if odd else None


class SentBiases:
    """Remembers whether any bias that was sent is other than zero."""

    def __init__(self) -> None:
        self.any = False

    def watch(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            if not self.any and name.endswith("_proj.bias"):
                self.any = bool(tensor.any())
            yield name, tensor

    def require(self, arrived: bool | None) -> None:
        """Raise StageFailed where none arrived; `arrived` is what `has_biases` says."""
        if self.any and arrived is False:
            what = f"vLLM {installed_version()} loses the biases of layers it quantises to FP8"
            raise StageFailed(f"{what}; set `rollout.precision: auto`, or use a newer vLLM")


def has_biases(model: nn.Module) -> bool | None:
    """Return whether a bias of the linear layers is other than zero; None if none has any."""
    named = [getattr(module, "bias", None) for module in model.modules() if _is_quantised(module)]
    found = [bias for bias in named if isinstance(bias, Tensor)]
    return any(bool(bias.any()) for bias in found) if found else None


def _is_quantised(module: nn.Module) -> bool:
    return hasattr(module, "quant_method")
