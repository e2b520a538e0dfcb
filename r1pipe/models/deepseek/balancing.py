"""Balancing experts: the bias update without a loss, the sequence-wise loss, and load metrics.

Shapes: T tokens of the batch, E experts, K experts per token, L layers with experts, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback

from r1pipe.models.deepseek.experts import routers_of

LOSSES = ("balance_loss", "mtp_loss")
"""Parts of the auxiliary loss, as `auxiliary_losses` of the model names them."""


def balance_loss(
    logits_LTE: Tensor, segments_T: Tensor, top_k: int, sequences: int | None = None
) -> Tensor:
    """Return the sequence-wise balance loss over alpha (V3 report, eq. 17-20), mean of sequences.

    Of one layer (T, E), or the sum over several of the same tokens. `segments_T` numbers each
    token's sequence, -1 for padding. Scores are the sigmoid's, without bias: f_i counts their own
    top K, P_i is their share summed to one over the experts. Balanced scores give 1. With
    `sequences`, more than the highest number, nothing waits for a GPU.
    """
    if sequences is None:
        sequences = int(segments_T.max()) + 1 if len(segments_T) else 0
    if sequences <= 0:
        return logits_LTE.sum() * 0.0
    real_T1 = (segments_T >= 0)[:, None]
    # Masked before and after: what attention leaves in padding may be undefined.
    scores_LTE = torch.where(real_T1, logits_LTE, 0.0).sigmoid()
    experts = scores_LTE.shape[-1]
    with torch.no_grad():
        chosen_LTE = torch.zeros_like(scores_LTE)
        chosen_LTE.scatter_(-1, scores_LTE.topk(top_k, dim=-1).indices, 1.0)
        chosen_LTE = torch.where(real_T1, chosen_LTE, 0.0)
    share_LTE = scores_LTE / (scores_LTE.sum(dim=-1, keepdim=True) + 1e-20)
    share_LTE = torch.where(real_T1, share_LTE, 0.0)
    zeros_LSE = scores_LTE.new_zeros(*scores_LTE.shape[:-2], sequences, experts)
    sequence_T = segments_T.clamp(min=0)
    length_S = scores_LTE.new_zeros(sequences).index_add(0, sequence_T, real_T1[:, 0].to(share_LTE))
    tokens_S1 = length_S.clamp(min=1)[:, None]
    f_LSE = zeros_LSE.index_add(-2, sequence_T, chosen_LTE) * experts / (top_k * tokens_S1)
    p_LSE = zeros_LSE.index_add(-2, sequence_T, share_LTE) / tokens_S1
    return (f_LSE * p_LSE).sum() / (length_S > 0).sum().clamp(min=1)


def expert_load(experts_LTK: Tensor, segments_T: Tensor, experts: int) -> Tensor:
    """Return how many tokens each expert got (L, E, float32), padding not counted."""
    layers = experts_LTK.shape[0]
    real_LTK = (segments_T >= 0).float()[:, None].expand(experts_LTK.shape)
    first_L = torch.arange(0, layers * experts, experts, device=experts_LTK.device)
    zeros = torch.zeros(layers * experts, device=experts_LTK.device)
    place_LTK = experts_LTK + first_L[:, None, None]
    return zeros.index_add(0, place_LTK.flatten(), real_LTK.flatten()).view(layers, experts)


def sum_over_ranks(load_LE: Tensor) -> Tensor:
    """Add up the load of all data-parallel ranks; one process is already done."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(load_LE)
    return load_LE


@torch.no_grad()
def update_biases(
    model: nn.Module, speed: float, reduce: Callable[[Tensor], Tensor] = sum_over_ranks
) -> Tensor | None:
    """Move each router's bias by `speed`·sign(mean load - load); call it once per optimizer step.

    The load is that of every micro-batch and rank since the last call, and starts anew. Returns it
    (L, E), layers in order, or None for a model without routers (V3 report, 2.1.2). The bias of a
    router whose weights are frozen stays: an adapter's checkpoint would not hold it.
    """
    routers = routers_of(model)
    if not routers:
        return None
    device = routers[0].weight.device
    load_LE = torch.stack(
        [
            torch.zeros(r.num_experts, device=device) if r.load_E is None else r.load_E.to(device)
            for r in routers
        ]
    )
    load_LE = reduce(load_LE)
    move_LE = speed * torch.sign(load_LE.mean(dim=1, keepdim=True) - load_LE)
    for router, move_E in zip(routers, move_LE, strict=True):
        router.load_E = None
        bias_E = router.e_score_correction_bias
        if bias_E.dtype != torch.float32:
            raise TypeError(f"a router's bias is {bias_E.dtype}: its updates would be rounded away")
        if speed > 0 and router.weight.requires_grad:
            bias_E += move_E.to(bias_E.device)
    return load_LE


def load_metrics(load_LE: Tensor) -> dict[str, float]:
    """Return what to log of the load (L, E).

    `max_violation` is (max - mean) / mean of one layer (arXiv 2408.15664, MaxVio): the mean and the
    worst over layers. `dead_experts` got no token at all. Layers that saw no token do not count.
    """
    load_LE = load_LE[load_LE.sum(dim=1) > 0]
    if load_LE.shape[0] == 0:
        return {}
    violation_L = load_LE.amax(dim=1) / load_LE.mean(dim=1) - 1
    return {
        "experts/max_violation": float(violation_L.mean()),
        "experts/max_violation_worst_layer": float(violation_L.max()),
        "experts/dead": float((load_LE == 0).sum()),
    }


class ExpertBalancing(TrainerCallback):
    """Updates the biases once per optimizer step, and logs the load; for any Hugging Face trainer.

    `speed` is gamma (None: `bias_update_speed` of the model's config); from optimizer step
    `freeze_from_step` on (below 1: a share of all steps) it is 0, as in the end of V3's
    pre-training (4.2). The parts of the auxiliary loss are logged as means over the micro-batches
    of all ranks since the last log. Put it before the trackers' callbacks for its metrics to reach
    them.
    """

    def __init__(self, speed: float | None = None, freeze_from_step: float | None = None) -> None:
        self.speed = speed
        self.freeze_from_step = freeze_from_step
        self._load_LE: Tensor | None = None
        self._losses = torch.zeros(len(LOSSES), 2)  # sum and number of micro-batches of each
        self._noted: list[tuple[int, Tensor]] = []  # (number, value) in this step and rank

    def on_substep_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Note the losses of a micro-batch that is not the last of its step."""
        self._note_losses(model)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Move the biases; gradients of all micro-batches are there, weights have not moved."""
        speed = model.config.bias_update_speed if self.speed is None else self.speed
        first = self.freeze_from_step
        if first is not None and first < 1:
            first = first * state.max_steps
        if first is not None and state.global_step >= first:
            speed = 0.0
        load_LE = update_biases(model, speed)
        self._note_losses(model)
        noted, self._noted = self._noted, []
        if load_LE is None:
            return
        # All of it stays on the device until it is logged: nothing waits for a GPU here.
        before = self._load_LE
        self._load_LE = load_LE if before is None else before.to(load_LE.device) + load_LE
        losses = load_LE.new_zeros(len(LOSSES), 2)
        for number, value in noted:
            losses[number, 0] += value.to(losses.device)
            losses[number, 1] += 1
        self._losses = self._losses.to(losses.device) + sum_over_ranks(losses)

    def _note_losses(self, model: Any) -> None:
        for module in model.modules() if isinstance(model, nn.Module) else ():
            parts: Any = getattr(module, "auxiliary_losses", None)
            if not parts:
                continue
            for number, name in enumerate(LOSSES):
                if name in parts:
                    self._noted.append((number, parts[name].float()))
            parts.clear()  # the next micro-batch may have none

    @property
    def unlogged(self) -> dict[str, Any] | None:
        """What was counted since the last log; a checkpoint has to hold it for the next one."""
        if self._load_LE is None:
            return None
        return {"load": self._load_LE.tolist(), "losses": self._losses.tolist()}

    @unlogged.setter
    def unlogged(self, counted: dict[str, Any] | None) -> None:
        self._load_LE = None if counted is None else torch.tensor(counted["load"])
        self._losses = torch.zeros(len(LOSSES), 2)
        if counted is not None:
            self._losses = torch.tensor(counted["losses"])

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Any = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the load since the last log, and the parts of the auxiliary loss."""
        if self._load_LE is None:
            return
        metrics = load_metrics(self._load_LE)
        for name, (total, count) in zip(LOSSES, self._losses.tolist(), strict=True):
            if count:
                metrics[name] = total / count
        self.unlogged = None
        if logs is not None:
            logs.update(metrics)
        if state.log_history:
            state.log_history[-1].update(metrics)
