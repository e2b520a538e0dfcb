"""Rewards computed in parts, in any order, are those of one call; what goes wrong goes wrong so."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import StageFailed, UserError
from r1pipe.rewards.ahead import Ahead, RewardAhead
from r1pipe.rewards.building import build_rewards
from r1pipe.rewards.completions import call_arguments, checked_by
from r1pipe.rewards.guarded import GuardedReward
from r1pipe.schema import RewardTerm

GROUP = 4


@checked_by(None, looks_at="row")
def letters(completions: list[str], log_extra: Any = None, log_metric: Any = None, **columns: Any):
    """Length, None for an empty text; logs the text upside down, and how many were empty."""
    if log_extra:
        log_extra("reversed", [text[::-1] for text in completions])
        log_metric("empty", float(sum(not text for text in completions)))
    return [len(text) / 7 if text else None for text in completions]


@checked_by(None, looks_at="prompt")
def rank(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
    """Place of a text among all texts of its prompt."""
    by_prompt = defaultdict(list)
    for prompt, text in zip(prompts, completions, strict=True):
        by_prompt[prompt].append(text)
    return [float(sorted(by_prompt[p]).index(t)) for p, t in zip(prompts, completions, strict=True)]


def place(completions: list[str], **columns: Any) -> list[float]:
    """Looks at the whole batch, and does not say that it does."""
    return [index / len(completions) for index in range(len(completions))]


def rows_of(prompts: list[str]) -> list[dict[str, Any]]:
    return [
        {"prompt": p, "answer": str(n), "id": n}
        for n, p in enumerate(prompts)
        for _ in range(GROUP)
    ]


class Log:
    """TRL's side of `log_extra` and `log_metric`."""

    def __init__(self) -> None:
        self.extra: dict[str, list[Any]] = defaultdict(list)
        self.metrics: dict[str, list[float]] = defaultdict(list)

    def handles(self) -> dict[str, Any]:
        return {
            "log_extra": lambda name, values: self.extra[name].extend(values),
            "log_metric": lambda name, value: self.metrics[name].append(value),
            "trainer_state": None,
        }


def called(reward: Any, rows: list[Any], texts: list[str], ids: list[list[int]]) -> Any:
    log = Log()
    values = reward(completion_ids=ids, **call_arguments(rows, texts), **log.handles())
    return values, dict(log.extra), dict(log.metrics)


def decode(rows: list[int], ids: list[list[int]]) -> list[str]:
    return ["".join(map(chr, each)) for each in ids]


TEXTS = st.lists(st.text("abc", max_size=4), min_size=3 * GROUP, max_size=3 * GROUP)


@settings(max_examples=40, deadline=None)
@given(
    TEXTS, st.randoms(use_true_random=False), st.sampled_from([["p", "q", "p"], ["p", "q", "r"]])
)
def test_whatever_order_completions_end_in_values_and_logs_are_those_of_one_call(
    texts: list[str], chance: random.Random, prompts: list[str]
) -> None:
    rows, ids = rows_of(prompts), [[ord(c) for c in text] for text in texts]
    for reward in (letters, rank):
        early = RewardAhead(reward, always=True)
        ahead = Ahead([early])
        batch = ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
        assert batch is not None
        order = list(range(len(rows)))
        chance.shuffle(order)
        told = order[: chance.randrange(len(order) + 1)]
        while told:
            size = chance.randrange(1, 4)
            ahead.add([(row, ids[row]) for row in told[:size]])
            told = told[size:]
        if chance.random() < 0.5:
            ahead.add_known(ids, texts)
        assert called(early, rows, texts, ids) == called(reward, rows, texts, ids)
        assert called(early, rows, texts, ids) == called(reward, rows, texts, ids)  # and again


def test_parts_are_rewarded_before_the_others_are_known_in_another_thread() -> None:
    seen: list[tuple[str, int]] = []
    first = threading.Event()

    @checked_by(None, looks_at="prompt")
    def watched(completions: list[str], **columns: Any) -> list[float]:
        seen.append((threading.current_thread().name, len(completions)))
        first.set()
        return [0.5] * len(completions)

    rows = rows_of(["p", "q"])
    early = RewardAhead(watched, always=True)
    ahead = Ahead([early])
    ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
    ahead.add([(row, [97]) for row in (0, 1, 2)])  # three of the four of `p`
    ahead.add([(5, [97]), (3, [97])])
    assert first.wait(30)
    ids = [[97]] * len(rows)
    assert called(early, rows, ["a"] * len(rows), ids)[0] == [0.5] * len(rows)
    assert seen == [("rewards-ahead", GROUP), (threading.current_thread().name, GROUP)]


def test_a_reward_that_does_not_say_what_it_looks_at_gets_the_whole_batch() -> None:
    early = RewardAhead(place, always=True)
    ahead = Ahead([early])
    rows = rows_of(["p", "q"])
    assert ahead.begin(rows, [row["prompt"] for row in rows], decode, None) is None
    ids = [[97]] * len(rows)
    texts = ["a"] * len(rows)
    assert called(early, rows, texts, ids)[0] == [n / len(rows) for n in range(len(rows))]


@pytest.mark.parametrize("change", ["text", "ids", "column", "columns", "fewer"])
def test_what_turns_out_otherwise_than_told_is_rewarded_anew(change: str) -> None:
    calls: list[int] = []

    @checked_by(None, looks_at="row")
    def counted(completions: list[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        return letters(completions)

    rows = rows_of(["p", "q"])
    texts = ["abc"] * len(rows)
    ids = [[97, 98, 99] for _ in rows]
    early = RewardAhead(counted, always=True)
    ahead = Ahead([early])
    ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
    ahead.add(list(enumerate(ids)))
    if change == "text":
        texts = ["ab", *texts[1:]]
    elif change == "ids":
        ids = [[97], *ids[1:]]
    elif change == "column":
        rows = [{**rows[0], "answer": "other"}, *rows[1:]]
    elif change == "columns":
        rows = [{**row, "more": 1} for row in rows]
    else:
        rows, texts, ids = rows[1:], texts[1:], ids[1:]
    assert called(early, rows, texts, ids)[0] == letters(texts)
    assert calls[-1] == len(rows)


@pytest.mark.parametrize("kind", [ValueError, UserError])
def test_a_failure_is_counted_or_raised_as_without_working_ahead(kind: type, tmp_path: Any) -> None:
    @checked_by(None, looks_at="row")
    def picky(completions: list[str], **columns: Any) -> list[float]:
        if any(text == "c" for text in completions):
            raise ValueError("no c") if kind is ValueError else UserError([])
        return [1.0] * len(completions)

    rows = rows_of([str(n) for n in range(50)])
    texts = ["a"] * (len(rows) - 1) + ["c"]
    ids = [[ord(text)] for text in texts]
    found = []
    for always in (False, True):
        early = RewardAhead(picky, always=always)
        ahead = Ahead([early])
        ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
        ahead.add(list(enumerate(ids)))
        try:
            found.append(called(GuardedReward(early, tmp_path / "f.jsonl"), rows, texts, ids))
        except UserError as error:
            found.append(str(error))
    assert found[0] == found[1]
    if kind is ValueError:
        assert found[0][0] == [1.0] * (len(rows) - 1) + [None]


def test_a_reward_that_is_none_for_all_or_broken_for_all_is_so_ahead_too() -> None:
    @checked_by(None, looks_at="row")
    def nothing(completions: list[str], **columns: Any) -> list[None]:
        return [None] * len(completions)

    @checked_by(None, looks_at="row")
    def broken(completions: list[str], **columns: Any) -> list[float]:
        raise ZeroDivisionError

    rows, ids = rows_of(["p"]), [[97]] * GROUP
    for reward, wanted in ((nothing, [None] * GROUP), (broken, StageFailed)):
        early = RewardAhead(reward, always=True)
        ahead = Ahead([early])
        ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
        ahead.add(list(enumerate(ids)))
        guarded = GuardedReward(early)
        if wanted is StageFailed:
            with pytest.raises(StageFailed, match="failed on 4 of 4"):
                called(guarded, rows, ["a"] * GROUP, ids)
        else:
            assert called(guarded, rows, ["a"] * GROUP, ids)[0] == wanted


SHIPPED = {
    "accuracy": {},
    "format": {},
    "tag_count": {},
    "language": {},
    "repetition": {},
    "soft_overlong": {"max_length": 60, "cache": 30},
    "length": {"gate": "format"},
}


def test_the_shipped_rewards_give_the_same_for_parts() -> None:
    terms: Any = {name: RewardTerm(weight=1.0, **options) for name, options in SHIPPED.items()}
    texts = [
        f"<think>{words}</think>\n<answer>{answer}</answer>"
        for words in (
            "so we add the numbers and get",
            "那么我们把数字加起来",
            "",
            "weil weil weil weil",
        )
        for answer in ("4", "A", "\\frac{8}{2}")
    ]
    rows = [{"prompt": f"{n % 3}+3=", "answer": "4", "language": "en"} for n in range(len(texts))]
    ids = [[ord(c) for c in text] for text in texts]
    functions, _ = build_rewards(terms)
    for function in functions:
        early = RewardAhead(function, always=True)
        assert early.looks_at in ("row", "prompt"), early.__name__
        ahead = Ahead([early])
        ahead.begin(rows, [row["prompt"] for row in rows], decode, None)
        for row in reversed(range(len(rows))):
            ahead.add([(row, ids[row])])
        whole = called(function, rows, texts, ids)
        assert called(early, rows, texts, ids) == whole, early.__name__
        assert any(value is not None for value in whole[0])


def test_only_rewards_that_wait_work_ahead_once_a_batch_has_shown_it() -> None:
    @checked_by(None, looks_at="row")
    def waits(completions: list[str], **columns: Any) -> list[float]:
        threading.Event().wait(0.5)
        return [1.0] * len(completions)

    @checked_by(None, looks_at="row")
    def computes(completions: list[str], **columns: Any) -> list[float]:
        sum(range(6_000_000))
        return [1.0] * len(completions)

    rows, ids = rows_of(["p"]), [[97]] * GROUP
    for reward, gains in ((waits, True), (computes, False), (letters, False)):
        early = RewardAhead(reward)
        assert not early.gains
        called(early, rows, ["a"] * GROUP, ids)
        assert early.gains is gains
