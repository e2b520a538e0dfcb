"""The compact decoding loop against `model.generate` and against the distribution it samples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from r1pipe.rollout import compact
from r1pipe.rollout.compact import generate, supports
from r1pipe.rollout.engine import generate_with_transformers
from tests.rollout.tiny_models import END, MODELS, PAD, SHAPE, build, prompts, settings

WAYS = [
    *((name, True, "sdpa") for name in MODELS),
    *((name, False, "sdpa") for name in ("llama", "qwen3", "deepseek_groups_and_mtp")),
    *((name, False, "eager") for name in ("qwen3", "deepseek")),
]


@pytest.mark.parametrize(("name", "own_step", "attention"), WAYS)
def test_greedy_is_what_generate_gives(name, own_step, attention, monkeypatch):
    model, asked = build(name, attention), prompts(24)
    if not own_step:
        monkeypatch.setattr(compact, "make_step", lambda *_: None)
    found = generate(model, asked, **settings(eos_token_id=[END, 7, 11]))
    assert found == generate_with_transformers(
        model.eval(), asked, **settings(eos_token_id=[END, 7, 11])
    )
    assert len({len(ids) for ids in found}) > 3  # rows ended, and were dropped, at many steps


def test_prompts_of_one_length_need_no_mask():
    model, asked = build("qwen3"), prompts(20, (5, 5))
    expected = generate_with_transformers(model.eval(), asked, **settings())
    assert generate(model, asked, **settings()) == expected


def test_a_sample_is_a_function_of_the_generator_and_the_arguments():
    model, asked = build("qwen3"), prompts(50)
    torch.manual_seed(3)
    once = generate(model, asked, **settings(temperature=1.0))
    after_once = torch.rand(1)
    generate(model, prompts(9), **settings(temperature=0.7))
    torch.manual_seed(3)
    assert generate(model, asked, **settings(temperature=1.0)) == once
    assert torch.rand(1) == after_once
    torch.manual_seed(4)
    assert generate(model, asked, **settings(temperature=1.0)) != once


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 1.0), (1.0, 0.6)])
def test_the_first_token_follows_the_model_s_distribution(temperature, top_p):
    model, asked, count = build("llama").eval(), [[5, 6, 7]], 20_000
    with torch.no_grad():
        logits = model(torch.tensor(asked)).logits[0, -1] / temperature
    logits[PAD] = -torch.inf
    chances = logits.softmax(-1)
    ordered, places = chances.sort(descending=True)
    inside = places[(ordered.cumsum(0) - ordered) < top_p]
    expected = torch.zeros(40)
    expected[inside] = chances[inside] / chances[inside].sum()
    torch.manual_seed(0)
    found = generate(
        model,
        asked * count,
        **settings(temperature=temperature, top_p=top_p, max_new_tokens=1, batch_size=count),
    )
    counted = Counter(ids[0] for ids in found)
    for token, chance in enumerate(expected.tolist()):
        spread = (chance * (1 - chance) / count) ** 0.5
        assert abs(counted[token] / count - chance) <= 5 * spread, token


def test_later_tokens_follow_the_model_too():
    """Rows are dropped and moved: what is left must still belong to its own prompt."""
    model, asked = build("qwen3").eval(), prompts(150)
    torch.manual_seed(1)
    found = generate(model, asked, **settings(temperature=1.0, batch_size=128))
    gaps = []
    for prompt, ids in zip(asked, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        logits[:, PAD] = -torch.inf
        chances = logits.softmax(-1)
        drawn = chances.gather(1, torch.tensor(ids)[:, None])[:, 0]
        gaps += (drawn - (chances**2).sum(-1)).tolist()  # mean 0 when drawn from these chances
    gaps = torch.tensor(gaps)
    assert abs(gaps.mean()) <= 4 * gaps.std() / len(gaps) ** 0.5


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = build("qwen3").train(training)
    generate(model, prompts(5), **settings(temperature=1.0))
    assert model.training is training
    assert model.config._attn_implementation == "sdpa"
    model.train()(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_error_in_the_model_leaves_it_as_it_was(monkeypatch):
    model = build("qwen3")
    calls = iter([None] * 3)
    monkeypatch.setattr(model, "forward", lambda **_: next(calls))
    with pytest.raises(AttributeError):
        generate(model, prompts(5), **settings())
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_sliding_windows_are_refused():
    sliding = Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=8))
    assert not supports(sliding)
    assert supports(build("qwen3"))
    with pytest.raises(ValueError, match="rollout=transformers"):
        generate(sliding, prompts(2), **settings())
