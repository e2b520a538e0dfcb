"""The loop over fixed places, run eagerly on a CPU: the same steps a CUDA graph would replay."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
import torch

from r1pipe.errors import StageFailed
from r1pipe.rollout import slot_loop
from r1pipe.rollout.compact import generate, write
from r1pipe.rollout.slot_loop import capacity_for, length_bucket, release, row_bucket, slots_for
from r1pipe.rollout.slots import tensors_of
from r1pipe.rollout.steps import make_step
from tests.rollout.test_compact_records import scored
from tests.rollout.tiny_models import END, MODELS, PAD, build, prompts, settings

ENDS = [END, 7, 11]


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch):
    """Let tiny batches pass through many shapes."""
    monkeypatch.setattr(slot_loop, "FEWEST_ROWS", 2)
    monkeypatch.setattr(slot_loop, "LENGTH_GRAIN", 4)


def in_places(model, asked, **changes):
    return write(model, asked, **settings(**{"loop": "slots", **changes}))


SIZES = [*((name, 7) for name in MODELS), ("qwen3", 1), ("deepseek", 1), ("deepseek", 64)]


@pytest.mark.parametrize(("name", "batch_size"), SIZES)
def test_greedy_is_what_the_growing_loop_gives(name, batch_size):
    model, asked = build(name), prompts(24)
    expected = generate(model, asked, **settings(eos_token_id=ENDS))
    found = in_places(model, asked, eos_token_id=ENDS, batch_size=batch_size)
    assert found.ids == expected


@pytest.mark.parametrize("experts", ["dense", "grouped"])
def test_both_ways_through_the_experts_are_static(experts):
    model, asked = build("deepseek_groups_and_mtp"), prompts(40)
    expected = generate(model, asked, **settings())
    assert in_places(model, asked, experts=experts).ids == expected


@pytest.mark.parametrize("every", [1, 3, 100])
def test_how_often_the_device_is_looked_at_changes_nothing(every, monkeypatch):
    monkeypatch.setattr(slot_loop, "CHECK_EVERY", every)
    model, asked = build("deepseek"), prompts(40)
    expected = generate(model, asked, **settings(eos_token_id=ENDS))
    assert in_places(model, asked, eos_token_id=ENDS).ids == expected


def test_prompts_too_many_for_one_pass_are_read_in_several(monkeypatch):
    monkeypatch.setattr(slot_loop, "READ_TOKENS", 20)
    model, asked = build("qwen3"), prompts(40)
    expected = generate(model, asked, **settings())
    assert in_places(model, asked, batch_size=40).ids == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.6)])
def test_first_and_second_token_follow_the_model(temperature, top_p):
    model, prompt, count = build("llama").eval(), [5, 6, 7], 20_000
    torch.manual_seed(0)
    found = in_places(
        model,
        [prompt] * count,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=2,
        batch_size=3000,
    ).ids

    def chances(ids):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1] / temperature
        logits[PAD] = -torch.inf
        ordered, places = logits.softmax(-1).sort(descending=True)
        inside = places[(ordered.cumsum(0) - ordered) < top_p]
        kept = torch.zeros(40)
        kept[inside] = logits.softmax(-1)[inside]
        return (kept / kept.sum()).tolist()

    expected: dict[tuple[int, ...], float] = {(END,): chances(prompt)[END]}
    for first, chance in enumerate(chances(prompt)):
        if first != END and chance > 0:
            for second, then in enumerate(chances([*prompt, first])):
                expected[(first, second)] = chance * then
    counted = Counter(tuple(ids) for ids in found)
    assert set(counted) <= {ids for ids, chance in expected.items() if chance > 0}
    for ids, chance in expected.items():
        spread = (chance * (1 - chance) / count) ** 0.5
        assert abs(counted[ids] / count - chance) <= 5 * spread + 1 / count, ids


@pytest.mark.parametrize("name", ["qwen3", "deepseek_groups_and_mtp"])
def test_log_probabilities_and_routes_belong_to_the_tokens(name):
    model, asked = build(name).eval(), prompts(24)
    record = name != "qwen3"
    torch.manual_seed(1)
    found = in_places(
        model, asked, temperature=1.0, return_logprobs=True, record_routes=record, batch_size=11
    )
    pairs = list(zip(asked, found.ids, strict=True))
    expected = torch.cat([scored(model, prompt, ids, 1.0) for prompt, ids in pairs])
    torch.testing.assert_close(found.logprobs, expected, rtol=1e-5, atol=2e-5)
    if record:
        growing: Any = write(model, [p + ids for p, ids in pairs], **settings(record_routes=True))
        assert found.routes is not None
        for (prompt, ids), routes, longer in zip(pairs, found.routes, growing.routes, strict=True):
            known = len(prompt) + len(ids) - 1
            assert routes.shape == (known, 1, 3)
            assert (routes.sort(-1)[0] == longer[:known].sort(-1)[0]).float().mean() > 0.99


def test_a_sample_is_a_function_of_the_generator_and_the_arguments():
    model, asked = build("qwen3"), prompts(50)
    torch.manual_seed(3)
    once = in_places(model, asked, temperature=1.0)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert in_places(model, asked, temperature=1.0) == once
    assert torch.rand(1) == after


def test_places_are_kept_and_take_new_weights():
    model = build("deepseek").eval()
    capacity = capacity_for(model, 20)

    def places(rows):
        step = make_step(model, capacity)
        assert step is not None
        return slots_for(model, step, rows, capacity, keep=True)

    first: Any = places(16)
    assert places(16) is first
    assert places(5) is first
    with torch.no_grad():
        model.lm_head.weight.neg_()
        model.model.layers[1].mlp.experts.down_proj.mul_(2)
    before = first.step.head.out.clone()
    assert places(8) is first
    torch.testing.assert_close(first.step.head.out, -before)
    assert places(17) is not first
    assert capacity_for(model, 5) == capacity
    release(model)
    assert capacity_for(model, 5) == 8
    assert not slot_loop._KEPT


def test_places_do_not_outlive_their_model():
    model = build("qwen3").eval()
    step = make_step(model, 8)
    assert step is not None
    slots_for(model, step, 4, 8, keep=True)
    del model
    gc.collect()
    assert not slot_loop._KEPT


def test_places_hold_copies_of_the_weights():
    model = build("llama").eval()
    step = make_step(model, 8)
    assert step is not None
    slots = slots_for(model, step, 4, 8, keep=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    held = [tensor for _, _, tensor in tensors_of(slots.step)]
    assert all(tensor.any() for tensor in held)


def test_a_ruined_model_is_reported():
    model = build("qwen3")
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(StageFailed, match="not finite"):
            in_places(model, prompts(5), temperature=temperature)


def test_models_without_a_step_have_no_places(monkeypatch):
    with pytest.raises(ValueError, match="fixed places"):
        in_places(build("qwen3").double(), prompts(5))


@pytest.mark.parametrize("most", [2, 100, 1 << 40])
def test_buckets_hold_what_they_are_asked_for(most):
    for size in range(1, min(most, 3000)):
        assert size <= row_bucket(size, most) <= min(most, max(2, 2 * size))
        assert size <= length_bucket(size, most) <= min(most, size + max(4, size // 4))
    assert len({row_bucket(n, 1 << 40) for n in range(1, 8193)}) < 30
    assert len({length_bucket(n, 1 << 40) for n in range(64, 4097)}) < 80
