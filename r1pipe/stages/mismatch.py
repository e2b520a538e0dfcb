"""Logs at every step how far the policy that wrote is from the one that is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.rollout.agreement import agreement_of, sums_of

# Shape legend: B completions of this rank, C columns of the longest.

NAMES = ("exp_abs_diff", "kl_k1", "kl_k3", "ess", "ess_sequences")


class MismatchTelemetry(GRPOTrainer):
    """Mix in before a TRL trainer: `mismatch/*` of all tokens of a batch, from all ranks.

    Compared are the log-probabilities that tokens were drawn with and those of the old policy, as
    the trainer computes them; both are there where TRL's off-policy correction is on. Beside the
    difference itself and the clipped ratios, which TRL logs (`sampling/sampling_logp_difference/*`,
    `sampling/importance_sampling_ratio/*`), it adds the mean of exp|Δ|, the KL of the engine to the
    trainer by its estimators k1 and k3, and the effective sample size of the importance weights
    before any clipping, of tokens (what `token_*` corrections use) and of whole sequences.
    """

    model: Any

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        drawn, old = output.get("sampling_per_token_logps"), output.get("old_per_token_logps")
        if drawn is not None and old is not None:
            mask = output["completion_mask"]
            mask = mask * output["tool_mask"] if "tool_mask" in output else mask
            self.log_mismatch(drawn, old, mask.bool())
        return output

    def log_mismatch(self, drawn_BC: Tensor, old_BC: Tensor, mask_BC: Tensor) -> None:
        """Log the figures of some completions; a collective of all ranks."""
        sums = torch.stack(sums_of_batch(drawn_BC, old_BC, mask_BC))
        gathered: Any = self.accelerator.gather(sums[None])
        tokens, sequences = gathered.cpu().unbind(1)
        by_token = agreement_of(tokens)
        values = (by_token.ratio, by_token.kl_k1, by_token.kl, by_token.ess)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in zip(NAMES, (*values, agreement_of(sequences).ess), strict=True):
            metrics[f"mismatch/{name}"].append(value)


def sums_of_batch(drawn_BC: Tensor, old_BC: Tensor, mask_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Return `sums_of` the tokens, and of the sequences, whose figures are those of their tokens.

    A token without a figure of the engine (NaN) is left out of both; a sequence without any is too.
    """
    known = mask_BC & ~torch.isnan(drawn_BC)
    tokens = sums_of(drawn_BC[known], old_BC[known])
    zero = torch.zeros((), device=drawn_BC.device, dtype=torch.float64)
    whole = known.any(dim=1)
    drawn_B, old_B = (
        torch.where(known, values.double(), zero).sum(dim=1)[whole] for values in (drawn_BC, old_BC)
    )
    return tokens, sums_of(drawn_B, old_B)
