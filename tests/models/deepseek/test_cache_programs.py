"""Whatever is done with a cache between steps, logits stay those of stock transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache, StaticCache

from tests.models.deepseek.test_equality import shapes
from tests.models.deepseek.test_equality_layouts import ropes

wild = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("write"), st.just(1)),
    st.tuples(st.just("crop"), st.integers(1, 3)),
    st.tuples(st.just("reorder"), st.permutations([0, 1, 2])),
    st.tuples(st.just("select"), st.sampled_from([[0, 2], [1], [2, 1]])),
    st.tuples(st.just("repeat"), st.just(2)),
)


def run_program(model: Any, cache: Any, program: list[Any], padding: list[int], width: int) -> Any:
    """Return the logits of every written token after `program`, padding left out."""
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(width)[None] >= torch.tensor(padding)[:, None]).long()
    ids = torch.randint(1, 61, mask.shape, generator=generator)
    held, logits = 0, []
    for kind, value in [("write", width), *program]:
        if kind == "write" and held:
            new = torch.randint(1, 61, (len(mask), value), generator=generator)
            ids = torch.cat([ids, new], dim=1)
            mask = torch.cat([mask, torch.ones_like(new)], dim=1)
        if kind == "write":
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, held:]
            out = model(
                ids[:, held:],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits.append(out.logits[mask[:, held:].bool()])
            held = ids.shape[1]
        elif kind == "crop" and held - value >= width:
            cache.crop(-value)
            held -= value
            ids, mask = ids[:, :held], mask[:, :held]
        elif kind in ("reorder", "select") and max(value) < len(mask):
            rows = torch.tensor(value)
            if kind == "reorder" and len(rows) == len(mask):
                cache.reorder_cache(rows)
            else:
                cache.batch_select_indices(rows)
            ids, mask = ids[rows], mask[rows]
        elif kind == "repeat" and len(mask) <= 3:
            cache.batch_repeat_interleave(value)
            ids, mask = ids.repeat_interleave(value, 0), mask.repeat_interleave(value, 0)
    return torch.cat(logits)


@wild
@given(
    shape=shapes(),
    rope=ropes(),
    program=st.lists(steps, min_size=1, max_size=7),
    padding=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    width=st.sampled_from([4, 9]),
    attention=st.sampled_from(["sdpa", "eager"]),
)
@torch.no_grad()
def test_a_cache_may_be_cut_reordered_and_repeated(
    shape: dict[str, Any],
    rope: dict[str, Any],
    program: list[Any],
    padding: list[int],
    width: int,
    attention: str,
    stock: Any,
    ours: Any,
) -> None:
    theirs = stock(**shape, rope_parameters=rope)
    mine = ours(theirs)
    made = []
    for model in (theirs, mine):
        model.set_attn_implementation(attention)
        cache = DynamicCache(config=model.config)
        made.append(run_program(model, cache, program, padding, width))
    assert (made[0] - made[1]).abs().max() <= 1e-5 * made[0].abs().max()


@wild
@given(
    shape=shapes(),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    padding=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    attention=st.sampled_from(["sdpa", "eager"]),
)
@torch.no_grad()
def test_a_static_cache_says_what_a_growing_one_says(
    shape: dict[str, Any],
    sizes: list[int],
    padding: list[int],
    attention: str,
    stock: Any,
    ours: Any,
) -> None:
    theirs = stock(**shape)
    mine = ours(theirs)
    mine.set_attn_implementation(attention)
    program = [("write", size) for size in sizes]
    expected = run_program(theirs, DynamicCache(config=theirs.config), program, padding, 4)
    fixed = StaticCache(config=mine.config, max_cache_len=32)
    made = run_program(mine, fixed, program, padding, 4)
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


OPTIONS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "samples": {"do_sample": True, "num_return_sequences": 3, "top_k": 0},
    "static": {"cache_implementation": "static"},
    "static beams": {"cache_implementation": "static", "num_beams": 2},
    "no cache": {"use_cache": False},
    "prefill in chunks": {"prefill_chunk_size": 3},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
}
ONE_ROW: dict[str, dict[str, Any]] = {
    "assistant": {},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "early exit": {"assistant_early_exit": 2},
}


@pytest.mark.parametrize("name", [*OPTIONS, *ONE_ROW])
def test_generation_of_every_kind_is_stocks(name: str, stock: Any, ours: Any) -> None:
    theirs = stock()
    mine = ours(theirs)
    ids = torch.randint(1, 61, (4, 8))
    mask = torch.ones_like(ids)
    mask[1, :3] = mask[3, :6] = 0
    ids, options = ids * mask, {"do_sample": False, **(OPTIONS | ONE_ROW)[name]}
    if name in ONE_ROW:
        ids, mask = ids[:1], mask[:1]
    if name == "assistant":
        options["assistant_model"] = stock(num_hidden_layers=2)
    made = []
    for model in (theirs, mine):
        torch.manual_seed(4)
        made.append(model.generate(ids, attention_mask=mask, max_new_tokens=14, **options))
    assert torch.equal(*made)


def test_a_text_goes_on_from_its_cache(stock: Any, ours: Any) -> None:
    """The second turn of a conversation: some more of the prompt, then decoding again."""
    theirs = stock()
    mine = ours(theirs)
    ids = torch.randint(1, 61, (2, 6))
    turns = []
    for model in (theirs, mine):
        options = {"max_new_tokens": 5, "do_sample": False}
        first = model.generate(ids, return_dict_in_generate=True, **options)
        more = torch.cat([first.sequences, ids[:, :3]], dim=1)
        turns.append(model.generate(more, past_key_values=first.past_key_values, **options))
    assert torch.equal(*turns)
    assert torch.equal(turns[1], mine.generate(turns[1][:, :14], max_new_tokens=5, do_sample=False))
