"""Whether two models give the same tokens the same probabilities: an engine and its trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Shape legend: N tokens.


@dataclass(frozen=True)
class Agreement:
    """How far an engine's log-probabilities of sampled tokens are from the trainer's (nats)."""

    tokens: int
    """Tokens compared; those without a figure on either side are left out."""
    mean: float
    """Mean |Δ| over tokens."""
    max: float
    """Largest |Δ|."""
    ratio: float
    """Mean exp|Δ|: the likelihood ratio of a token, whichever way it leans; 1 is perfect."""
    kl: float
    """KL of the engine to the trainer, nats a token (the k3 estimator: r - 1 - log r, r the
    trainer's probability over the engine's; Schulman, "Approximating KL divergence", 2020)."""
    ess: float
    """Effective sample size of the importance weights, as a share: (Σw)² / (N Σw²)."""
    kl_k1: float = 0.0
    """The same KL by the k1 estimator, the mean of -log r: without bias, and below 0 by chance."""

    def logged(self) -> dict[str, float]:
        """Return the figures under the names of the metrics file."""
        return {
            "rollout/logp_diff_mean": self.mean,
            "rollout/logp_diff_max": self.max,
            "rollout/ratio": self.ratio,
            "rollout/kl": self.kl,
            "rollout/ess": self.ess,
        }


SUMS = 8
"""Length of `sums_of`'s result; element 2 is a maximum, the others add up over ranks."""


def sums_of(engine_N: Tensor, trainer_N: Tensor) -> Tensor:
    """Return what `agreement_of` needs, in a form that ranks can combine (float64).

    Elements: tokens, Σ|Δ|, max|Δ|, Σ exp|Δ|, Σ k3, Σw, Σw², Σ k1. What is not a number on the
    trainer's side, or is infinite on either, makes the sums infinite; NaN of the engine is a token
    it had no figure for.
    """
    known = ~torch.isnan(engine_N)
    difference = (trainer_N[known] - engine_N[known]).double()
    if not torch.isfinite(difference).all():
        return torch.full((SUMS,), math.inf, dtype=torch.float64, device=difference.device)
    if not len(difference):
        return torch.zeros(SUMS, dtype=torch.float64, device=difference.device)
    size = difference.abs()
    weight = difference.clamp(max=50).exp()  # keeps the square of a hopeless one finite
    return torch.stack(
        [
            torch.tensor(float(len(size)), dtype=torch.float64, device=size.device),
            size.sum(),
            size.max(),
            size.clamp(max=50).exp().sum(),
            (weight - 1 - difference).sum(),
            weight.sum(),
            (weight * weight).sum(),
            -difference.sum(),
        ]
    )


def agreement_of(sums: Tensor) -> Agreement:
    """Return the figures of all ranks' `sums_of` [ranks, 8]."""
    if not torch.isfinite(sums).all():
        return Agreement(0, math.inf, math.inf, math.inf, math.inf, 0.0, math.inf)
    count, total, _, ratio, kl, weight, square, k1 = sums.sum(dim=0).tolist()
    if count == 0:
        return Agreement(0, 0.0, 0.0, 1.0, 0.0, 1.0)
    largest = sums[:, 2].max().item()
    share = weight * weight / (count * square)
    figures = (total / count, largest, ratio / count, kl / count, share, k1 / count)
    return Agreement(int(count), *figures)


def flat(values: Sequence[Sequence[float]]) -> Tensor:
    """Return the figures of several completions behind one another [N]."""
    return torch.tensor([value for row in values for value in row], dtype=torch.float64)


def token_logprobs(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[list[float]]:
    """Return the log-probability (nats) of every completion token under a transformers model.

    Sequences go through one by one, unpadded, and only a completion's logits are made: slow, with
    nothing to go wrong. Greedy decoding (temperature 0) is scored at temperature 1.
    """
    device = next(model.parameters()).device
    values = []
    training = model.training
    model.eval()
    try:
        for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
            if not completion:
                values.append([])
                continue
            ids = torch.tensor([[*prompt, *completion]], device=device)
            with torch.no_grad():
                logits = model(
                    input_ids=ids, use_cache=False, logits_to_keep=len(completion) + 1
                ).logits[0, -len(completion) - 1 : -1]
            scaled = logits.float() / (temperature or 1.0)
            chosen = ids[0, -len(completion) :, None]
            values.append(scaled.log_softmax(dim=-1).gather(1, chosen)[:, 0].tolist())
    finally:
        model.train(training)
    return values
