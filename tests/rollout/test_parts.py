"""Completions in parts: told of as they end, limits of their own, stopped and continued later."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1pipe.rollout.compact import write
from tests.rollout import tiny_models as tiny

LOOPS = ["growing", "slots"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.build("qwen3")


def call(model: Any, prompts: list[list[int]], loop: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    options = tiny.settings(**changes)
    return write(model, prompts, return_logprobs=True, loop=loop, graphs=False, **options)  # type: ignore[arg-type]


def rows_of(written: Any) -> list[list[float]]:
    return [part.tolist() for part in written.logprobs.split([len(ids) for ids in written.ids])]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("batch_size", [4, 32])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_row_is_told_of_once_with_its_tokens(
    model: Any, loop: str, batch_size: int, temperature: float
) -> None:
    prompts = tiny.prompts(20)
    told: list[tuple[int, list[int]]] = []
    changes = {"batch_size": batch_size, "temperature": temperature}
    written = call(model, prompts, loop, on_rows=told.extend, **changes)
    assert sorted(told) == list(enumerate(written.ids))
    assert written.ids == call(model, prompts, loop, **changes).ids
    assert written.unfinished == []
    if temperature:
        assert [row for row, _ in told] != list(range(20))  # as they end


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("batch_size", [4, 32])
def test_limits_of_their_own_cut_rows_where_they_say(
    model: Any, loop: str, batch_size: int
) -> None:
    prompts = tiny.prompts(20)
    limits = [1 + row * 7 % 30 for row in range(20)]
    whole = call(model, prompts, loop, batch_size=batch_size)
    told: dict[int, list[int]] = {}
    changes = {"limits": limits, "on_rows": told.update, "batch_size": batch_size}
    found = call(model, prompts, loop, **changes)
    assert found.ids == [ids[:limit] for ids, limit in zip(whole.ids, limits, strict=True)]
    assert told == dict(enumerate(found.ids)) and found.unfinished == []
    for short, long in zip(rows_of(found), rows_of(whole), strict=True):
        assert short == pytest.approx(long[: len(short)], abs=1e-5)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("batch_size", [4, 32])
@pytest.mark.parametrize("looks", [1, 2, 4])
def test_what_was_stopped_goes_on_where_it_was(
    model: Any, loop: str, batch_size: int, looks: int
) -> None:
    prompts = tiny.prompts(20)
    whole = call(model, prompts, loop, batch_size=batch_size)
    told: dict[int, list[int]] = {}
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= looks

    part = call(model, prompts, loop, batch_size=batch_size, stop=stop, on_rows=told.update)
    left = part.unfinished
    assert left and sorted([*told, *left]) == list(range(20))
    limits = [30 - len(part.ids[row]) for row in left]
    rest = call(
        model, [prompts[row] + part.ids[row] for row in left], loop, limits=limits, batch_size=32
    )
    first, then = rows_of(part), rows_of(rest)
    for place, row in enumerate(left):
        assert part.ids[row] + rest.ids[place] == whole.ids[row]
        assert first[row] + then[place] == pytest.approx(rows_of(whole)[row], abs=1e-4)
    for row in told:
        assert part.ids[row] == whole.ids[row]
