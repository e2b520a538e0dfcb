"""DeepSeekMoE: the router with its fp32 bias, the routed experts, and what they chose.

Shapes: T tokens of the batch, E routed experts, K experts per token, I features inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Experts,
    DeepseekV3MoE,
    DeepseekV3TopkRouter,
)

from r1pipe.models.deepseek.configuration import DeepseekConfig
from r1pipe.models.deepseek.layers import FeedForward, grouped_experts


class Choice(NamedTuple):
    """What one layer's router decided for the tokens of one forward pass."""

    router: Router
    logits_TE: Tensor
    """float32, before the sigmoid; carries the gradient."""
    experts_TK: Tensor
    """The experts that were used: chosen on biased scores, or replayed."""
    live_TK: Tensor
    """What the router chose itself; differs from `experts_TK` only where a route was replayed."""


class Router(DeepseekV3TopkRouter):
    """Sigmoid scores, group-limited top-K on scores plus bias, gates from scores alone."""

    e_score_correction_bias: Tensor

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        # `from_config` makes it in the dtype of the weights.
        self.e_score_correction_bias = self.e_score_correction_bias.float()
        # Not a buffer: DDP overwrites buffers with rank 0's before every forward pass, and
        # `from_pretrained` leaves buffers that no checkpoint holds uninitialised.
        self.load_E: Tensor | None = None
        self.records: list[list[Choice]] = []
        self.replay_TK: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (T, E), gates (T, K) and the experts to use (T, K)."""
        # Autocast would turn the float32 product of logits into a bfloat16 one.
        with torch.autocast(hidden_states.device.type, enabled=False):
            logits_TE, gates_TK, live_TK = super().forward(hidden_states)
            experts_TK = live_TK
            if self.replay_TK is not None:
                experts_TK = _known_routes(self.replay_TK, live_TK)
                gates_TK = self._gates(logits_TE, experts_TK)
        for record in self.records:
            record.append(Choice(self, logits_TE, experts_TK, live_TK))
        return logits_TE, gates_TK, experts_TK

    @contextmanager
    def replaying(self, routes_TK: Tensor) -> Iterator[None]:
        """Use these experts inside the block; a token whose row holds a -1 keeps the live choice.

        Gates stay live: scores of the present router over the given experts, with gradient
        (Rollout Routing Replay, arXiv 2510.11370).
        """
        self.replay_TK = routes_TK
        try:
            yield
        finally:
            self.replay_TK = None

    def _gates(self, logits_TE: Tensor, experts_TK: Tensor) -> Tensor:
        """Return the gates (T, K) of given experts by the parent's arithmetic, bit for bit."""
        gates_TK = logits_TE.sigmoid().gather(1, experts_TK)
        if self.norm_topk_prob:
            gates_TK = gates_TK / (gates_TK.sum(dim=-1, keepdim=True) + 1e-20)
        return gates_TK * self.routed_scaling_factor

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

    config: Any
    act_fn: Any
    gate_up_proj: Any
    down_proj: Any
    num_experts: int
    intermediate_dim: int

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the chosen experts' outputs, weighted and summed (T, D)."""
        weights = self.gate_up_proj, self.down_proj
        whole = len(weights[0]) == self.config.n_routed_experts
        grouped = self.config._experts_implementation == "grouped_mm"
        if hidden_states.is_cuda and grouped and whole and not isinstance(weights[0], DTensor):
            return grouped_experts(hidden_states, top_k_index, top_k_weights, *weights, self.act_fn)
        return super().forward(hidden_states, top_k_index, top_k_weights)

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
        self.shared_experts = FeedForward(config=config, intermediate_size=inner)


@contextmanager
def recorded(routers: list[Router]) -> Iterator[list[Choice]]:
    """Collect what the routers choose inside the block.

    Gradient checkpointing runs layers again in the backward pass, after the block: not counted.
    Blocks may stand inside each other.
    """
    choices: list[Choice] = []
    for router in routers:
        router.records.append(choices)
    try:
        yield choices
    finally:
        for router in routers:
            router.records = [record for record in router.records if record is not choices]


def _known_routes(routes_TK: Tensor, live_TK: Tensor) -> Tensor:
    """Return the given routes, with the live choice in rows that hold a -1."""
    routes_TK = routes_TK.to(live_TK)
    return torch.where((routes_TK >= 0).all(dim=-1, keepdim=True), routes_TK, live_TK)


def routers_of(model: nn.Module) -> list[Router]:
    """Return the routers inside `model`, wrapped or not, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, Router)]
