"""Log-probabilities and experts that the compact loop hands back with its completions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1pipe.models.deepseek.experts import recorded
from r1pipe.rollout import compact
from r1pipe.rollout.compact import generate, write
from tests.rollout.tiny_models import PAD, build, prompts, settings

SAMPLED = settings(temperature=1.0, eos_token_id=[1, 5], return_logprobs=True)


def scored(model: Any, prompt: list[int], ids: list[int], temperature: float) -> torch.Tensor:
    """Return each completion token's log-probability by one pass over the whole text."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


@pytest.mark.parametrize("own_step", [True, False])
@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_p": 0.8}, {"temperature": 0.0}])
@pytest.mark.parametrize("name", ["qwen3", "deepseek_groups_and_mtp"])
def test_log_probabilities_are_those_of_a_scoring_pass(name, options, own_step, monkeypatch):
    if not own_step:
        monkeypatch.setattr(compact, "make_step", lambda *_: None)
    model, asked = build(name).eval(), prompts(20)
    torch.manual_seed(0)
    found = write(model, asked, **{**SAMPLED, **options})
    assert found.logprobs is not None
    assert found.logprobs.shape == (sum(map(len, found.ids)),)
    temperature = {**SAMPLED, **options}["temperature"] or 1.0
    pairs = zip(asked, found.ids, strict=True)
    expected = torch.cat([scored(model, prompt, ids, temperature) for prompt, ids in pairs])
    torch.testing.assert_close(found.logprobs, expected, rtol=1e-5, atol=2e-5)


def test_asking_for_more_does_not_change_what_is_drawn():
    model, asked = build("deepseek"), prompts(40)
    torch.manual_seed(3)
    plain = generate(model, asked, **settings(temperature=1.0))
    torch.manual_seed(3)
    more = write(
        model, asked, **settings(temperature=1.0, return_logprobs=True, record_routes=True)
    )
    assert more.ids == plain
    torch.manual_seed(3)
    found = write(model, asked, **settings(temperature=1.0))
    assert (found.logprobs, found.routes) == (None, None)


@pytest.mark.parametrize("own_step", [True, False])
@pytest.mark.parametrize("name", ["deepseek", "deepseek_groups_and_mtp"])
def test_routes_are_those_of_a_pass_over_the_whole_text(name, own_step, monkeypatch):
    if not own_step:
        monkeypatch.setattr(compact, "make_step", lambda *_: None)
    model, asked = build(name).eval(), [*prompts(12), *prompts(12)[:7], [7]]
    found = write(model, asked, **settings(temperature=1.0, record_routes=True))
    assert found.routes is not None
    assert len(found.routes) == len(asked)
    different = tokens = 0
    for prompt, ids, routes in zip(asked, found.ids, found.routes, strict=True):
        with recorded(model.model.routers) as choices, torch.no_grad():
            model(torch.tensor([prompt + ids]))
        expected = torch.stack([choice.experts_TK for choice in choices], dim=1)[:-1]
        assert routes.dtype == torch.int16
        assert routes.shape == expected.shape
        same = routes.long().sort(-1)[0] == expected.sort(-1)[0]
        different += int((~same.all(-1)).sum())
        tokens += same.shape[0] * same.shape[1]
    assert different <= 0.002 * tokens  # two experts may score alike to the last bit


def test_one_token_has_the_routes_of_its_prompt():
    model = build("deepseek")
    found = write(model, [[4, 5, 6]], **settings(max_new_tokens=1, record_routes=True))
    assert found.routes is not None
    (routes,) = found.routes
    assert routes.shape == (3, 1, 2)


@pytest.mark.parametrize("name", ["qwen3", "deepseek_v3"])
def test_a_model_without_our_routers_has_no_routes(name):
    with pytest.raises(ValueError, match="no routers"):
        write(build(name), prompts(2), **settings(record_routes=True))


def test_nothing_asked_gives_nothing_flat():
    found = write(build("deepseek"), [], **{**SAMPLED, "record_routes": True})
    assert found.logprobs is not None
    assert (found.ids, found.logprobs.tolist(), found.routes) == ([], [], [])


def test_padding_is_never_drawn_but_counts_in_the_log_probabilities():
    model = build("qwen3").eval()
    model.lm_head.weight.data[PAD] = 3 * model.lm_head.weight.data.abs().max()
    found = write(model, [[4, 5]], **{**SAMPLED, "max_new_tokens": 6})
    assert PAD not in found.ids[0]
    expected = scored(model, [4, 5], found.ids[0], 1.0)
    torch.testing.assert_close(found.logprobs, expected, rtol=1e-5, atol=2e-5)
