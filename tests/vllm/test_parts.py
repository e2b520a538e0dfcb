"""Completions in parts: rows told of as they end, limits of their own, stopped and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from r1pipe.errors import UserError
from r1pipe.rollout.agreement import token_logprobs
from r1pipe.rollout.engine import make_engine
from r1pipe.rollout.vllm_engine import VllmEngine
from r1pipe.schema import Sampling
from tests.vllm import families

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=24, num_samples=1)


def test_rows_end_stop_and_go_on_where_they_were(tmp_path: Path) -> None:
    model = families.build("dense", tmp_path)
    with pytest.raises(UserError, match=r"rollout\.vllm\.max_num_seq[\s\S]*max_num_seqs"):
        options = {"max_num_seq": 4}
        make_engine(families.rollout(vllm=options), str(tmp_path), families.load())
    settings = families.rollout(vllm={"enable_prefix_caching": False})
    engine = make_engine(settings, str(tmp_path), families.load())
    assert isinstance(engine, VllmEngine)
    try:
        check(engine)
        drawn_by_seeds_and_scored(engine, model)
    finally:
        engine.close()


def drawn_by_seeds_and_scored(engine: VllmEngine, model: Any) -> None:
    prompts, hot = families.prompts(12), GREEDY.model_copy(update={"temperature": 1.0})
    engine._seeded = True  # as vLLM's second model runner has it
    drawn = [engine.write(prompts, hot, seed=seed).ids for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    torch.manual_seed(0)
    first = engine.write(prompts, hot).ids
    assert engine.write(prompts, hot).ids != first
    torch.manual_seed(0)
    assert engine.write(prompts, hot).ids == first
    for temperature in (1.0, 0.5):
        found = engine.score(prompts, first, temperature)
        for row, own in zip(found, token_logprobs(model, prompts, first, temperature), strict=True):
            assert row == pytest.approx(own, abs=1e-4)


def check(engine: VllmEngine) -> None:
    prompts = families.prompts(12)
    told: dict[int, list[int]] = {}
    whole = engine.write(prompts, GREEDY, seed=0, logprobs=True, on_rows=lambda e: told.update(e))
    assert told == dict(enumerate(whole.ids)) and whole.unfinished == []
    assert whole.logprobs is not None

    limits = [1 + row for row in range(12)]
    limited = engine.write(prompts, GREEDY, seed=0, limits=limits)
    assert limited.ids == [ids[:limit] for ids, limit in zip(whole.ids, limits, strict=True)]

    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 10

    told.clear()
    part = engine.write(
        prompts, GREEDY, seed=0, logprobs=True, on_rows=lambda e: told.update(e), stop=stop
    )
    assert part.logprobs is not None
    left = part.unfinished
    assert left and sorted([*told, *left]) == list(range(12))
    for row in left:
        assert 0 < len(part.ids[row]) < len(whole.ids[row])
        assert part.ids[row] == whole.ids[row][: len(part.ids[row])]
        assert len(part.logprobs[row]) == len(part.ids[row])
    rest = engine.write(
        [prompts[row] + part.ids[row] for row in left],
        GREEDY,
        seed=0,
        logprobs=True,
        limits=[GREEDY.max_tokens - len(part.ids[row]) for row in left],
    )
    assert rest.logprobs is not None
    for row, ids, values in zip(left, rest.ids, rest.logprobs, strict=True):
        assert part.ids[row] + ids == whole.ids[row]
        assert part.logprobs[row] + values == pytest.approx(whole.logprobs[row], abs=1e-4)
    again = engine.write(prompts, GREEDY, seed=0)
    assert again.ids == whole.ids  # nothing is left of what was stopped
