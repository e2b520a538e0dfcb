"""A reward that fails on a sample costs that sample; one that fails often stops the run."""

import json
import math
from types import SimpleNamespace

import pytest

from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.rewards.guarded import WINDOW, GuardedReward


def on_bad(result):
    """A reward of 1 that raises or gives `result` on the completion `bad`."""

    def reward(completions, answer=None, **columns):
        values = []
        for text in completions:
            if text == "bad" and isinstance(result, Exception):
                raise result
            values.append(result if text == "bad" else 1.0)
        return values

    return reward


@pytest.mark.parametrize("result", [KeyError("x"), math.nan, math.inf, -math.inf, "high", [1]])
def test_a_failing_sample_is_left_out_counted_and_saved(result, tmp_path) -> None:
    saved = tmp_path / "failures.jsonl"
    reward = GuardedReward(on_bad(result), saved)
    logged = {}
    values = reward(
        completions=["good", "bad", "good"], answer=["1", "2", "3"], log_metric=logged.__setitem__
    )
    assert values == [1.0, None, 1.0]
    assert reward.failures == 1
    assert logged == {"rewards/reward/failures": 1.0}
    (sample,) = map(json.loads, saved.read_text().splitlines())
    assert (sample["completion"], sample["answer"]) == ("bad", "2")
    assert "Error" in sample["error"]


def test_more_than_one_in_a_hundred_stops_the_run(tmp_path) -> None:
    reward = GuardedReward(on_bad(ValueError("odd")), tmp_path / "failures.jsonl")
    state = SimpleNamespace(global_step=6)
    for _ in range(10):
        reward(completions=["good"] * 50 + ["bad"], trainer_state=state)
    with pytest.raises(StageFailed, match=r"step 7: .*11 of the last 561 \(ValueError: odd\)"):
        reward(completions=["good"] * 50 + ["bad"], trainer_state=state)
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 11


def test_failures_that_are_long_past_are_forgotten() -> None:
    reward = GuardedReward(on_bad(ValueError("odd")))
    for _ in range(40):
        reward(completions=["good"] * (WINDOW // 5) + ["bad"])
    assert reward.failures == 40


def test_a_reward_that_fails_on_all_stops_at_once() -> None:
    with pytest.raises(StageFailed, match="failed on 2 of 2 samples"):
        GuardedReward(on_bad(ValueError("odd")))(completions=["bad", "bad"])


@pytest.mark.parametrize("values", [[1.0], 1.0, "11", None])
def test_what_is_no_list_of_the_right_length_stops_at_once(values) -> None:
    with pytest.raises(StageFailed, match="instead of a list"):
        GuardedReward(lambda completions, **columns: values)(completions=["a", "b"])


def test_groups_stay_together_when_a_sample_fails() -> None:
    def place_in_group(completions, **columns):
        if "bad" in completions:
            raise ValueError
        return [index / len(completions) for index in range(len(completions))]

    reward = GuardedReward(place_in_group)
    assert reward(completions=["a", "bad", "b"]) == [0.0, None, 0.5]


def test_what_the_user_did_wrong_passes_through() -> None:
    def refuses(completions, **columns):
        raise UserError(Problem("row 3", "gold answer is empty"))

    with pytest.raises(UserError):
        GuardedReward(refuses)(completions=["a"])


def test_a_completion_that_no_file_can_hold_is_saved_all_the_same(tmp_path) -> None:
    saved = tmp_path / "failures.jsonl"

    def raises(completions, **columns):
        if "\ud800" in completions:
            raise ValueError("lone")
        return [0.0] * len(completions)

    GuardedReward(raises, saved)(completions=["a", "\ud800"], trainer_state=object())
    assert json.loads(saved.read_text())["completion"] == "\ud800"
