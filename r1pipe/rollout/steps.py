"""Which models have a decoding step of their own, and what such a step offers the loops."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from r1pipe.rollout.weights import base_of, is_prompt_learning

MOST_PARAMETERS = {"cpu": 20_000_000, "cuda": 2_000_000_000}
"""Above this the products take the time, and a second copy of the weights is not worth it."""


class Step(Protocol):
    """The forward of one new token per row, over weights joined once."""

    layers: list[Any]
    embedding: Tensor
    token_features: int
    """Numbers kept per token, all layers together."""
    routes_shape: tuple[int, int]
    """Layers with experts, and experts per token."""

    @staticmethod
    def adopt(keys: Tensor, values: Tensor) -> list[Tensor]:
        """Return a layer's states from what transformers cached."""
        ...

    def __call__(
        self, chosen: Tensor, position: Tensor, states: list[Any], mask: Tensor | None
    ) -> Tensor:
        """Feed tokens [B] at `position` [B], one `LayerStates` per layer; logits [B, V]."""
        ...

    def routes(self) -> Tensor:
        """Return the experts that the last call's tokens were given [B, *routes_shape]."""
        ...


def precision_of(step: Step | None, model: Any) -> Any:
    """Return a block in which `model` reads prompts as `step` goes on with them.

    A step in 16 bits over float32 weights is mixed precision, as in training.
    """
    if step is None or step.embedding.dtype in (torch.float32, model.dtype):
        return nullcontext()
    return torch.autocast(step.embedding.device.type, step.embedding.dtype)


def make_step(
    model: Any, positions: int, dtype: torch.dtype | None = None, experts: Any = None
) -> Step | None:
    """Return the step of `model`, its adapters included, or None where its modules must run.

    `positions`: the most tokens a row will have. `dtype`: the precision of the products, the
    model's own when None. `experts`: how a mixture is computed, chosen by its size when None.
    """
    base = base_of(model)
    # PEFT keeps adapters in float32 over bfloat16 weights; they are added in float32.
    parameters = [p for name, p in base.named_parameters() if ".lora_" not in name]
    most = MOST_PARAMETERS.get(parameters[0].device.type, 0)
    if is_prompt_learning(model) or sum(p.numel() for p in parameters) > most:
        return None
    if len({(p.device, p.dtype) for p in parameters}) > 1 and dtype is None:
        return None
    dtype = dtype or parameters[0].dtype
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    from r1pipe.rollout import llama_step

    if llama_step.fits(base):
        return llama_step.LlamaStep(base, positions, dtype)
    if getattr(base.config, "kv_lora_rank", None) is not None:
        from r1pipe.rollout import mla_step

        if mla_step.fits(base):
            return mla_step.MlaStep(base, positions, dtype, experts)
    return None
