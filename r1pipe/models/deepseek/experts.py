"""DeepSeekMoE: the router with its fp32 bias, the routed experts, and what they chose.

Shapes: T tokens of the batch, E routed experts, K experts per token, I features inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Experts,
    DeepseekV3MLP,
    DeepseekV3MoE,
    DeepseekV3TopkRouter,
)

from r1pipe.models.deepseek.configuration import DeepseekConfig


class Choice(NamedTuple):
    """What one layer's router decided for the tokens of one forward pass."""

    router: Router
    logits_TE: Tensor
    """float32, before the sigmoid; carries the gradient."""
    experts_TK: Tensor
    """The experts that were used, chosen on biased scores."""


class Router(DeepseekV3TopkRouter):
    """Sigmoid scores, group-limited top-K on scores plus bias, gates from scores alone."""

    e_score_correction_bias: Tensor

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        # Not a buffer: DDP overwrites buffers with rank 0's before every forward pass, and
        # `from_pretrained` leaves buffers that no checkpoint holds uninitialised.
        self.load_E: Tensor | None = None
        self.record: list[Choice] | None = None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (T, E), gates (T, K) and the chosen experts (T, K)."""
        # Autocast would turn the float32 product of logits into a bfloat16 one.
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits_TE, gates_TK, experts_TK = super().forward(hidden_states)
        if self.record is not None:
            self.record.append(Choice(self, logits_TE, experts_TK))
        return logits_TE, gates_TK, experts_TK

    def count(self, load_E: Tensor) -> None:
        """Add one micro-batch's tokens per expert to what the next bias update sees."""
        self.load_E = load_E if self.load_E is None else self.load_E.to(load_E.device) + load_E

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Move with the module, but keep the bias float32: steps of 0.001 vanish in bfloat16."""
        exact = self.e_score_correction_bias.detach()
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if moved.dtype != torch.float32:
            self.e_score_correction_bias = exact.to(device=moved.device, dtype=torch.float32)
        return self


class Experts(DeepseekV3Experts):
    """Routed experts as two fused tensors: grouped products, or one expert after the other.

    `model.set_experts_implementation` chooses "grouped_mm" (default) or "eager", its naive twin.
    """

    gate_up_proj: Any
    down_proj: Any
    num_experts: int
    intermediate_dim: int

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Also read the public layout, one matrix per expert, as `save_pretrained` writes it.

        `Trainer` resumes with a plain `load_state_dict(strict=False)`, which would otherwise leave
        every expert as it is and say nothing.
        """
        rows = self.intermediate_dim
        found = False
        with torch.no_grad():
            for e in range(self.num_experts):
                for name, place in (
                    ("gate_proj", self.gate_up_proj[e, :rows]),
                    ("up_proj", self.gate_up_proj[e, rows:]),
                    ("down_proj", self.down_proj[e]),
                ):
                    matrix = state_dict.pop(f"{prefix}{e}.{name}.weight", None)
                    if matrix is not None:
                        place.copy_(matrix)
                        found = True
        if found:  # a shard may hold only some of them; the others are in another
            state_dict[f"{prefix}gate_up_proj"] = self.gate_up_proj.detach()
            state_dict[f"{prefix}down_proj"] = self.down_proj.detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MixtureOfExperts(DeepseekV3MoE):
    """Shared experts for every token, and K routed ones (V3 report, eq. 12-16)."""

    def __init__(self, config: DeepseekConfig) -> None:
        nn.Module.__init__(self)  # the parent's would build stock parts, to be thrown away
        self.config = config
        self.experts = Experts(config)
        self.gate = Router(config)
        inner = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = DeepseekV3MLP(config=config, intermediate_size=inner)


@contextmanager
def recorded(routers: list[Router]) -> Iterator[list[Choice]]:
    """Collect what the routers choose inside the block.

    Gradient checkpointing runs layers again in the backward pass, after the block: not counted.
    """
    choices: list[Choice] = []
    for router in routers:
        router.record = choices
    try:
        yield choices
    finally:
        for router in routers:
            router.record = None


def routers_of(model: nn.Module) -> list[Router]:
    """Return the routers inside `model`, wrapped or not, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, Router)]
