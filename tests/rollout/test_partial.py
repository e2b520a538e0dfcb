"""Steps get whole groups, always as many, none too old; no token is lost, drawn twice or late."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.rollout.engine import SampledTokens
from r1pipe.rollout.partial import PartialRollouts

LIMIT = 40


class Engine:
    """Writes token n of a completion as the pair (n, step); lengths are fixed beforehand."""

    def __init__(self, seed: int) -> None:
        self.chance, self.step, self.calls = random.Random(seed), 0, 0
        self.lengths: dict[tuple[int, int], int] = {}
        self.written = 0

    def __call__(
        self, prompt_ids: list[list[int]], limits: list[int], on_rows: Any, stop: Any
    ) -> SampledTokens:
        self.calls += 1
        now: dict[int, list[int]] = {row: [] for row in range(len(prompt_ids))}
        live = set(now)
        while live and not stop():
            for row in sorted(live):
                now[row].append(1)
                self.written += 1
                if len(now[row]) == limits[row] or self.chance.random() < 0.08:
                    live.discard(row)
                    on_rows([(row, now[row])])
        values = [[-float(self.step)] * len(now[row]) for row in range(len(prompt_ids))]
        return SampledTokens([now[row] for row in sorted(now)], values, unfinished=sorted(live))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(0.05, 1.0),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
def test_groups_come_whole_in_equal_numbers_and_in_time(
    groups: int, size: int, ahead: float, staleness: int, seed: int
) -> None:
    rollouts, engine = PartialRollouts(groups, size, ahead, staleness), Engine(seed)
    begun, used, taken = 0, [], 0
    for step in range(12):
        engine.step = step
        for _ in range(rollouts.missing):
            rollouts.begin(begun, [7, begun], step)
            begun += 1
        assert len(rollouts.open) == rollouts.in_flight
        found = rollouts.take(step, LIMIT, engine)
        assert len(found) == groups
        for group in found:
            assert group.whole and len(group.rows) == size
            assert step - group.born <= staleness
            for row in group.rows:
                assert 1 <= len(row.ids) == len(row.logprobs) <= LIMIT
                # Each token has the figure of the step it was drawn in; later ones come later.
                assert row.logprobs == sorted(row.logprobs, reverse=True)
                assert -row.logprobs[0] >= group.born and -row.logprobs[-1] <= step
                taken += len(row.ids)
        used += [group.index for group in found]
        rollouts = again(rollouts, groups, size, ahead, staleness)
    assert len(used) == len(set(used))
    left = sum(len(row.ids) for group in rollouts.open for row in group.rows)
    assert engine.written == taken + left


def again(rollouts: PartialRollouts, *settings: Any) -> PartialRollouts:
    """Return what a checkpoint brings back."""
    fresh = PartialRollouts(*settings)
    fresh.restore(json.loads(json.dumps(rollouts.state())))
    assert fresh.open == rollouts.open
    return fresh


def test_the_longest_are_cut_and_go_on_and_fewer_steps_are_waited_for() -> None:
    def waited(ahead: float) -> int:
        rollouts, engine = PartialRollouts(4, 2, ahead, 3), Engine(0)
        looks = 0

        def counted(prompt_ids: Any, limits: Any, on_rows: Any, stop: Any) -> SampledTokens:
            def asked() -> bool:
                nonlocal looks
                looks += 1
                return ahead == 1.0 and stop()

            return engine(prompt_ids, limits, on_rows, asked)

        for step in range(20):
            for _ in range(rollouts.missing):
                rollouts.begin(0, [7], step)
            rollouts.take(step, LIMIT, counted)
        return looks

    assert waited(1.0) < 0.7 * waited(0.01)


def test_an_engine_that_writes_on_is_served_too() -> None:
    rollouts, engine = PartialRollouts(2, 2, 1.0, 1), Engine(3)
    calls = []

    def deaf(prompt_ids: Any, limits: Any, on_rows: Any, stop: Any) -> SampledTokens:
        calls.append(len(prompt_ids))
        return engine(prompt_ids, limits, on_rows, lambda: False)

    for step in range(4):
        for _ in range(rollouts.missing):
            rollouts.begin(0, [7], step)
        assert len(rollouts.take(step, LIMIT, deaf)) == 2
    assert calls == [8, 8]  # in between there was enough already
