"""Weighs tokens against the engine that wrote them in the update's own pass, not in one more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

RATIO, SAMPLED = "importance_sampling_ratio", "sampling_per_token_logps"


class OnePassCorrection(Trainer):
    """Mix in before GRPOTrainer: no scoring pass where the update itself starts from that policy.

    TRL scores a batch with the policy before the updates to weigh its tokens by p(trainer) /
    p(engine). Where all updates on the batch belong to one optimizer step, their own forward passes
    give the same log-probabilities, and a quarter of the step's arithmetic is saved.
    """

    model: Any
    _awaiting: dict[str, Any] | None = None
    """The batch at hand, for as long as its ratios are not known."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        score = super()._generate_and_score_completions  # pyright: ignore[reportAttributeAccessIssue]
        if not self._scores_itself():
            return score(inputs)
        trainer: Any = self
        trainer.vllm_importance_sampling_correction = False
        try:
            return score(inputs)
        finally:
            trainer.vllm_importance_sampling_correction = True

    def _scores_itself(self) -> bool:
        """Whether the correction is on and the update's passes are those of the old policy."""
        trainer: Any = self
        corrected = trainer.use_vllm and trainer.vllm_importance_sampling_correction
        if not corrected or not trainer.model.training:
            return False
        every = trainer.args.steps_per_generation * trainer.num_iterations
        if trainer.args.gradient_accumulation_steps % every:
            return False
        # What keeps groups or routes from that pass needs it.
        replays = getattr(getattr(trainer, "sampling", None), "replay", None) is not None
        return not replays and getattr(trainer, "router_replay", "none") == "none"

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        trainer: Any = self
        if trainer.use_vllm and trainer.vllm_importance_sampling_correction and SAMPLED in inputs:
            self._awaiting = inputs if RATIO not in inputs else None
        try:
            return super()._compute_loss(model, inputs)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            if self._awaiting is not None:
                self._awaiting = None
                inputs.pop(RATIO, None)  # of this pass; another iteration has its own old policy

    def _get_per_token_logps_and_entropies(self, *given: Any, **options: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*given, **options)  # pyright: ignore[reportAttributeAccessIssue]
        inputs = self._awaiting
        if inputs is not None and RATIO not in inputs:
            mask = inputs["completion_mask"]
            mask = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
            old = found[0].detach()
            inputs[RATIO] = ratio(old, inputs[SAMPLED], mask, self.args)
            self._log_ratio(old, inputs, mask.bool())
        return found

    def _log_ratio(self, old: Tensor, inputs: dict[str, Any], mask: Tensor) -> None:
        """Log what TRL logs of the two sides, by TRL's names."""
        trainer: Any = self
        apart = (old - inputs[SAMPLED]).abs()
        apart = apart[mask & ~apart.isnan()]
        found = inputs[RATIO]
        found = found[mask] if found.shape == mask.shape else found.flatten()
        metrics = trainer._metrics["train" if trainer.model.training else "eval"]
        gathered = trainer.accelerator.gather(torch.stack([*reach(apart), *reach(found)])[None])
        low, mean, high = gathered[:, 3].min(), gathered.mean(0), gathered.max(0).values
        metrics["sampling/sampling_logp_difference/mean"].append(mean[1].item())
        metrics["sampling/sampling_logp_difference/max"].append(high[2].item())
        metrics["sampling/importance_sampling_ratio/min"].append(low.item())
        metrics["sampling/importance_sampling_ratio/mean"].append(mean[4].item())
        metrics["sampling/importance_sampling_ratio/max"].append(high[5].item())
        if log_mismatch := getattr(self, "log_mismatch", None):
            log_mismatch(inputs[SAMPLED], old, mask)


def reach(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return least, mean and largest value; 0 where there is none."""
    if values.numel() == 0:
        nothing = values.new_zeros(())
        return nothing, nothing, nothing
    return values.min(), values.mean(), values.max()


def ratio(old: Tensor, sampled: Tensor, mask: Tensor, args: Any) -> Tensor:
    """Return p(trainer) / p(engine) as TRL's `vllm_importance_sampling_*` settings treat it.

    All [B, C]; the ratio is [B, C] of tokens, [B, 1] of sequences. NaN in `sampled` is unknown and
    counts as agreement.
    """
    apart = torch.nan_to_num((old - sampled) * mask, nan=0.0)
    mode = args.vllm_importance_sampling_mode
    if mode.startswith("sequence"):
        apart = apart.sum(-1, keepdim=True)
    found = apart.exp()
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    if mode.endswith("truncate"):
        return found.clamp(min=low, max=high)
    outside = torch.zeros_like(found, dtype=torch.bool)
    if low is not None:
        outside |= found < low
    if high is not None:
        outside |= found > high
    return found.masked_fill(outside, 0.0)
