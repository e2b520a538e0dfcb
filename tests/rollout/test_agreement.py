"""The figures of agreement are those of their definitions, and ranks combine to the whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.rollout.agreement import agreement_of, flat, sums_of, token_logprobs
from tests.stages import tiny

LOGPROBS = st.floats(-20, 0, allow_nan=False)
PAIRS = st.lists(st.tuples(LOGPROBS, LOGPROBS), min_size=1, max_size=40)


def naive(pairs: list[tuple[float, float]]) -> dict[str, float]:
    size = [abs(t - e) for e, t in pairs]
    weights = [math.exp(t - e) for e, t in pairs]
    count = len(pairs)
    return {
        "mean": sum(size) / count,
        "max": max(size),
        "ratio": sum(map(math.exp, size)) / count,
        "kl": sum(w - 1 - (t - e) for w, (e, t) in zip(weights, pairs, strict=True)) / count,
        "kl_k1": sum(e - t for e, t in pairs) / count,
        "ess": sum(weights) ** 2 / (count * sum(w * w for w in weights)),
    }


@given(PAIRS, st.integers(1, 5))
def test_figures_are_their_definitions_however_the_tokens_are_shared(pairs, ranks):
    engine, trainer = (torch.tensor(each, dtype=torch.float64) for each in zip(*pairs, strict=True))
    shares = zip(engine.tensor_split(ranks), trainer.tensor_split(ranks), strict=True)
    found = agreement_of(torch.stack([sums_of(e, t) for e, t in shares]))
    assert found.tokens == len(pairs)
    for name, value in naive(pairs).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_equal_figures_agree_perfectly():
    values = torch.tensor([-0.5, -3.0, -0.01])
    found = agreement_of(sums_of(values, values)[None])
    assert (found.mean, found.max, found.ratio, found.kl, found.ess) == (0, 0, 1, 0, 1)


def test_tokens_without_a_figure_of_the_engine_are_left_out():
    engine, trainer = torch.tensor([math.nan, -1.0]), torch.tensor([-9.0, -1.5])
    found = agreement_of(sums_of(engine, trainer)[None])
    assert (found.tokens, found.mean) == (1, 0.5)
    nothing = agreement_of(sums_of(torch.tensor([math.nan]), torch.tensor([-1.0]))[None])
    assert (nothing.tokens, nothing.mean, nothing.ess) == (0, 0.0, 1.0)


@pytest.mark.parametrize("bad", [(-math.inf, -1.0), (-1.0, -math.inf), (-1.0, math.nan)])
def test_what_is_not_finite_is_no_agreement(bad):
    engine, trainer = torch.tensor([bad[0], -1.0]), torch.tensor([bad[1], -1.0])
    assert agreement_of(sums_of(engine, trainer)[None]).mean == math.inf


def test_token_logprobs_are_those_of_the_whole_sequence_at_the_temperature():
    model = tiny.model().train()
    prompts, completions = [[3, 4, 5], [6]], [[7, 8], []]
    found = token_logprobs(model, prompts, completions, temperature=0.5)
    assert model.training  # put back
    logits = model.eval()(torch.tensor([[3, 4, 5, 7, 8]])).logits[0, 2:4] / 0.5
    wanted = logits.log_softmax(-1)[[0, 1], [7, 8]]
    assert found[0] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert found[1] == [] and flat(found).tolist() == found[0]
