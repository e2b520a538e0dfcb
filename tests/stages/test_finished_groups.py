"""The order of prompts, what rests, which groups have spread, and where their rows go."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from r1pipe.schema import DifficultyFilter, GroupReplay
from r1pipe.stages.difficulty import Difficulty
from r1pipe.stages.finished_groups import Behaviour, Group, Row, arrange, has_spread, rows_of_rank
from r1pipe.stages.group_replay import GroupReplay as Buffer
from r1pipe.stages.prompt_stream import PromptStream

NAN = math.nan


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_first_pass_is_that_of_trl(shuffle: bool) -> None:
    sampler = RepeatSampler(list(range(20)), 1, batch_size=4, shuffle=shuffle, seed=3)
    stream = PromptStream(20, 3, shuffle)
    assert [stream.take(4) for _ in range(5)] == [
        order[place : place + 4] for order in [list(sampler)] for place in range(0, 20, 4)
    ]


@given(st.integers(1, 40), st.lists(st.integers(1, 12), max_size=30), st.integers(0, 30))
def test_every_row_has_its_turn_and_a_state_continues(
    rows: int, counts: list[int], stop: int
) -> None:
    stream, other = PromptStream(rows, 5), PromptStream(rows, 5)
    given_out: list[int] = []
    for number, count in enumerate(counts):
        found = stream.take(count)
        assert len(found) == len(set(found)) == min(count, rows)
        given_out += found
        if number == stop:
            other.restore(stream.state())
        if number > stop:
            assert other.take(count) == found
    for first in range(0, len(given_out) - rows + 1, rows):
        if rows >= 12:  # no call spans a whole pass, so none had to skip a row
            counted = Counter(given_out[first : first + rows])
            assert max(counted.values()) <= 2


def test_a_stream_stops_where_nothing_else_is_left() -> None:
    stream = PromptStream(6, 0)
    asked = set(stream.take(4))
    assert len(stream.take(4, asked)) == 2
    assert stream.take(3, set(range(6))) == []
    assert len(stream.take(3, set(range(6)), least=3)) == 3
    nobody = PromptStream(6, 0, in_play=lambda index, number: False)
    assert nobody.take(3) == []


def difficulty(**options: Any) -> Difficulty:
    given = {"enabled": True, "reward": "accuracy", "solved_at": 1.0, "window": 2, "rest": 1}
    rows, least = options.pop("rows", 8), options.pop("least", 1)
    return Difficulty(DifficultyFilter(**{**given, "floor": 0.25, **options}), rows, least)


def test_prompts_rest_after_visits_of_one_kind() -> None:
    found = difficulty()
    for number in (0, 1):
        found.visit(0, [1.0, 1.0], number)
        found.visit(1, [0.0, 0.0], number)
        found.visit(2, [0.0, 1.0], number)
    found.visit(3, [1.0, NAN], 1)
    assert [found.in_play(index, 2) for index in range(4)] == [False, False, True, True]
    assert found.shares() == {
        "difficulty/resting_solved": 1 / 8,
        "difficulty/resting_unsolved": 1 / 8,
    }
    assert found.in_play(0, 3), "one pass of rest"
    found.visit(0, [1.0, 1.0], 3)
    assert not found.in_play(0, 4), "still the same: it rests again"
    found.visit(1, [0.0, 1.0], 3)
    assert found.in_play(1, 4)
    found.visit(4, [NAN, NAN], 3)
    assert 4 not in found.visits, "a reward that does not apply says nothing"


@given(
    st.integers(4, 30),
    st.floats(0.01, 1.0),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=20, max_size=60),
)
def test_data_never_run_out(rows: int, floor: float, least: int, solved: list[bool]) -> None:
    found = difficulty(rows=rows, floor=floor, least=least, window=1, rest=3)
    stream = PromptStream(rows, 1, True, found.in_play, found.begin_pass)
    copy = difficulty(rows=rows, floor=floor, least=least, window=1, rest=3)
    for every in solved:
        batch = stream.take(least, least=least)
        assert len(batch) == len(set(batch)) == least
        for index in batch:
            found.visit(index, [float(every)] * 4, stream.number)
        copy.restore(found.state())
        assert copy.state() == found.state()


WEIGHTS = torch.tensor([1.0, 0.5])


def test_spread_is_of_the_weighted_sum() -> None:
    def spread(rewards: list[list[float]], column: int | None = None, apart: bool = False) -> bool:
        return has_spread(torch.tensor(rewards), WEIGHTS, column, apart)

    assert spread([[1.0, 0.0], [0.0, 0.0]])
    assert not spread([[1.0, 0.0], [0.5, 1.0]]), "the sums are equal"
    assert spread([[1.0, 0.0], [0.5, 1.0]], apart=True), "but each reward differs"
    assert not spread([[1.0, 0.0], [1.0, 1.0]], column=0)
    assert not spread([[1.0, NAN], [NAN, NAN]]), "one completion with a reward is no group"
    assert not spread([[NAN, NAN], [NAN, NAN]])
    assert not spread([[0.1 + 0.2, 0.0], [0.3, 0.0]]), "rounding is not spread"


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.randoms())
def test_rows_come_from_wherever_they_are(ranks: int, size: int, per_group: int, rng: Any) -> None:
    """Ranks that each hold some rows end with their slices of one common order."""
    count = ranks * per_group
    rows = count * size // ranks

    def row(group: int, place: int) -> Row:
        return Row({"id": (group, place)}, [1], [2], "text")

    homes = [[rng.randrange(ranks) for _ in range(size)] for _ in range(count)]
    if rng.random() < 0.5:
        homes = [[home[0]] * size for home in homes]
    views = [
        [
            Group(number, 0, torch.zeros(size, 1), list(home),
                  {place: row(number, place) for place in range(size) if home[place] == rank})
            for number, home in enumerate(homes)
        ]
        for rank in range(ranks)
    ]  # fmt: skip
    orders = [arrange(view, rows, size, ranks) for view in views]
    indices = [[group.index for group in order] for order in orders]
    assert indices == [indices[0]] * ranks and sorted(indices[0]) == list(range(count))
    sent: list[Any] = []
    for order, rank in zip(orders, range(ranks), strict=True):  # what each rank would send
        note_what_is_sent(order, rows, rank, sent)
    found = []
    for order, rank in zip(orders, range(ranks), strict=True):
        found += rows_of_rank(order, rows, rank, lambda _: sent)
    expected = [(index, place) for index in indices[0] for place in range(size)]
    assert [row.inputs["id"] for row in found] == expected


def note_what_is_sent(order: list[Group], rows: int, rank: int, sent: list[Any]) -> None:
    class Sent(Exception):
        pass

    def note(part: list[Any]) -> list[Any]:
        sent.extend(part)
        raise Sent

    with contextlib.suppress(Sent):
        rows_of_rank(order, rows, rank, note)


def group(index: int, step: int) -> Group:
    behaviour = Behaviour(torch.tensor([-0.5, -1.25]), ratio=torch.tensor([1.5]))
    made = Row({"prompt": "1+1="}, [5, 6], [7, 1], "2", [-0.25, None], behaviour=behaviour)
    return Group(index, step, torch.tensor([[1.0], [NAN]]), [0, 0], {0: made, 1: made})


def test_the_buffer_is_bounded_in_number_and_age() -> None:
    buffer = Buffer(GroupReplay(enabled=True, size=3, max_age=4))
    buffer.add([group(number, number) for number in range(5)])
    assert [kept.index for kept in buffer.groups] == [2, 3, 4]
    assert [taken.index for taken in buffer.take(2, 5)] == [4, 3], "the newest first"
    assert [kept.index for kept in buffer.groups] == [2], "each once"
    assert buffer.take(2, 7) == [] and buffer.groups == [], "too old is forgotten"
    buffer.add([group(9, 8)])
    assert buffer.take(1, 8) == [], "not in the step that has it already"
    assert [taken.index for taken in buffer.take(1, 9)] == [9]


def test_the_buffer_outlives_a_checkpoint() -> None:
    buffer, tensors = Buffer(GroupReplay(enabled=True, size=3, max_age=4)), {}
    buffer.add([group(4, 1), group(5, 2)])
    state = buffer.state(tensors)
    again = Buffer(buffer.options)
    again.restore(state, tensors, lambda index: {"prompt": "1+1="})
    for before, after in zip(buffer.groups, again.groups, strict=True):
        assert (before.index, before.step, before.ranks) == (after.index, after.step, after.ranks)
        assert torch.equal(before.rewards.nan_to_num(-9), after.rewards.nan_to_num(-9))
        first, second = before.rows[1], after.rows[1]
        assert second.completion_ids == first.completion_ids
        assert second.prompt_ids == first.prompt_ids and second.completion == first.completion
        assert second.logprobs is not None and second.logprobs[0] == -0.25
        unknown = second.logprobs[1]
        assert unknown is not None and math.isnan(unknown), "as engines say it"
        assert first.behaviour is not None and second.behaviour is not None
        assert torch.equal(first.behaviour.old, second.behaviour.old)
        assert second.behaviour.sampled is None and second.behaviour.ratio is not None
