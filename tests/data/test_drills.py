"""Single steps: written as in a trace, all there are, and a corpus without them is what it was."""

from __future__ import annotations

import re

from r1pipe.data import arithmetic, corpus, drills, traces

STEP = re.compile(r"\d\*\d=\d\d \+\d=\d\d ")


def steps_of(problems: tuple[arithmetic.Problem, ...]) -> set[str]:
    return {step for p in problems for step in STEP.findall(traces.think_text(p, "en"))}


def test_they_hold_every_step_of_every_multiplication() -> None:
    drilled = {
        step for row in drills.rows("train", 0, 20_000) for step in STEP.findall(row["completion"])
    }
    train, test = (steps_of(arithmetic.multiplications(split)) for split in ("train", "test"))
    assert test - train, "held-out multiplications have steps of their own"
    assert train | test <= drilled


def test_they_are_right_and_no_problem_of_the_test() -> None:
    for row in drills.rows("train", 1, 300):
        left, right, carry = map(int, re.findall(r"\d", row["prompt"]))
        assert row["answer"] == str(left * right + carry)
        assert row["completion"].endswith(f"<answer>{row['answer']}</answer>")


def test_a_corpus_has_as_many_as_it_is_asked_for() -> None:
    plain = list(corpus.rows("train", 3, 400))
    assert plain == list(corpus.rows("train", 3, 400, step_share=0.0))
    assert not any(row["task"] == drills.TASK for row in plain)
    mixed = list(corpus.rows("train", 3, 2000, step_share=0.25, web_share=0.5))
    places = [place for place, row in enumerate(mixed) if row["task"] == drills.TASK]
    assert 200 < len(places) < 300 and max(places) < 1000
