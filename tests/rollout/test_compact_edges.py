"""Whatever is asked of the compact loop's two forms, against `generate`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from r1pipe.rollout.compact import write
from r1pipe.rollout.engine import generate_with_transformers
from tests.rollout.tiny_models import END, PAD, build, prompts, settings

LOOPS: list[Any] = ["growing", "slots"]
model_of = cache(build)
a_prompt = st.lists(st.integers(2, 39), min_size=1, max_size=24)


@examples(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(["qwen3", "deepseek", "deepseek_yarn"]),
    asked=st.lists(a_prompt, min_size=1, max_size=12),
    ends=st.lists(st.integers(0, 39), min_size=1, max_size=6, unique=True),
    limit=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    twice=st.booleans(),
)
def test_any_lengths_and_ends_give_what_generate_gives(name, asked, ends, limit, batch_size, twice):
    model = model_of(name).eval()
    asked = [ids for ids in asked for _ in range(1 + twice)]
    given = settings(max_new_tokens=limit, eos_token_id=ends, batch_size=batch_size)
    expected = generate_with_transformers(model, asked, **given)
    for loop in LOOPS:
        assert write(model, asked, **given, loop=loop).ids == expected


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["qwen3", "deepseek"])
class TestEdges:
    def test_no_prompts(self, name, loop):
        assert write(model_of(name), [], **settings(), loop=loop).ids == []

    def test_an_empty_prompt_is_refused(self, name, loop):
        with pytest.raises(ValueError, match="prompt is empty"):
            write(model_of(name), [[3], []], **settings(), loop=loop)

    def test_one_new_token(self, name, loop):
        model, asked = model_of(name).eval(), prompts(20)
        expected = generate_with_transformers(model, asked, **settings(max_new_tokens=1))
        assert write(model, asked, **settings(max_new_tokens=1), loop=loop).ids == expected

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_every_token_ends(self, name, loop, temperature):
        every = settings(eos_token_id=list(range(40)), temperature=temperature)
        found = write(model_of(name), prompts(20), **every, loop=loop, return_logprobs=True)
        assert [len(ids) for ids in found.ids] == [1] * 20
        assert found.logprobs is not None
        assert found.logprobs.shape == (20,)

    def test_padding_that_is_the_end_token_still_ends_a_completion(self, name, loop):
        torch.manual_seed(0)
        same = settings(temperature=1.0, pad_token_id=END)
        found = write(model_of(name), prompts(100), **same, loop=loop).ids
        assert any(ids[-1] == END and len(ids) < 30 for ids in found)

    def test_padding_in_a_prompt_is_a_token_like_any_other(self, name, loop):
        model, asked = model_of(name).eval(), [[PAD, PAD, 5], [5], [7, PAD, 9, 8]]
        alone = [generate_with_transformers(model, [ids], **settings())[0] for ids in asked]
        assert write(model, asked, **settings(), loop=loop).ids == alone

    def test_text_beyond_the_model_s_positions_goes_on(self, name, loop):
        model, asked = model_of(name).eval(), prompts(4, (100, 120))
        beyond = settings(max_new_tokens=60)  # the models have 128 positions
        expected = generate_with_transformers(model, asked, **beyond)
        found = write(model, asked, **beyond, loop=loop).ids
        assert found == expected

    @pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
    def test_completions_end_once_and_hold_no_padding(self, name, loop, temperature):
        torch.manual_seed(0)
        wild = settings(temperature=temperature, batch_size=64)
        for ids in write(model_of(name), prompts(70), **wild, loop=loop).ids:
            assert 1 <= len(ids) <= 30
            assert PAD not in ids
            assert END not in ids[:-1]
            assert ids[-1] == END or len(ids) == 30

    def test_samples_of_one_prompt_share_its_reading(self, name, loop, monkeypatch):
        model, read = model_of(name).eval(), []
        inner = type(model.model)
        forward = inner.forward

        def counted(self, input_ids, **given):
            read.append(tuple(input_ids.shape))
            return forward(self, input_ids=input_ids, **given)

        monkeypatch.setattr(inner, "forward", counted)
        torch.manual_seed(0)
        many = settings(temperature=1.0, batch_size=64)
        found = write(model, [[4, 5, 6, 7]] * 50, **many, loop=loop).ids
        assert read == [(1, 4)]
        assert len({tuple(ids) for ids in found}) > 10

    def test_progress_is_told_once_per_completion_and_in_order(self, name, loop):
        told: list[int] = []
        write(model_of(name), prompts(50), **settings(), loop=loop, on_done=told.append)
        assert told == sorted(told)
        assert told[-1] == 50
        assert len(told) > 3

    def test_a_block_of_mixed_precision_is_followed(self, name, loop):
        model, asked = model_of(name).eval(), prompts(30)
        plain = write(model, asked, **settings(return_logprobs=True), loop=loop)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = write(model, asked, **settings(return_logprobs=True), loop=loop)
        asked_for = write(
            model, asked, **settings(return_logprobs=True, dtype=torch.bfloat16), loop=loop
        )
        assert mixed.ids == asked_for.ids
        assert plain.logprobs is not None and mixed.logprobs is not None
        assert 0 < (mixed.logprobs[0] - plain.logprobs[0]).abs() < 1
