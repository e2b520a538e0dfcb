"""The mismatch of a batch is that of its tokens and of its sequences, padding and gaps left out."""

from __future__ import annotations

import math

import pytest
import torch

from r1pipe.rollout.agreement import agreement_of
from r1pipe.stages.mismatch import sums_of_batch

NAN = math.nan


def test_tokens_and_sequences_count_where_both_sides_have_a_figure() -> None:
    drawn = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, NAN, -1.0], [NAN, 0.0, 0.0]])
    old = torch.tensor([[-1.5, -1.0, 7.0], [-0.5, -9.0, -2.0], [-3.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    tokens, sequences = (agreement_of(each[None]) for each in sums_of_batch(drawn, old, mask))
    differences = [-0.5, 1.0, 0.0, -1.0]
    weights = [math.exp(d) for d in differences]
    assert tokens.tokens == 4
    assert tokens.kl_k1 == pytest.approx(-sum(differences) / 4)
    assert tokens.ess == pytest.approx(sum(weights) ** 2 / (4 * sum(w * w for w in weights)))
    weights = [math.exp(0.5), math.exp(-1.0)]
    assert sequences.tokens == 2
    assert sequences.ess == pytest.approx(sum(weights) ** 2 / (2 * sum(w * w for w in weights)))


def test_a_batch_without_figures_agrees() -> None:
    drawn, old = torch.full((2, 3), NAN), torch.zeros(2, 3)
    for each in sums_of_batch(drawn, old, torch.ones(2, 3).bool()):
        assert agreement_of(each[None]).ess == 1.0
