"""Tables of gold answers, each with answers that are right and answers that are wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from r1pipe.rewards.mathematics import decide
from tests.rewards.mathematics_tables import (
    calculus,
    exams,
    labels,
    mixed,
    numbers,
    phrasings,
    problems,
    right,
    sentences,
    spellings,
    statements,
    structures,
    styles,
    wrong,
)

BY_GOLD = (
    calculus, exams, labels, mixed, phrasings, problems, sentences, statements, styles,
)  # fmt: skip
BY_CATEGORY = [
    row for module in (numbers, structures) for rows in module.CATEGORIES.values() for row in rows
]


def entries() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (gold, right answers, wrong answers) of all tables."""
    for module in BY_GOLD:
        for gold, (good, bad) in module.TABLE.items():
            yield gold, good, bad
    yield from BY_CATEGORY
    for module in (right, spellings):
        for gold, good in module.RIGHT.items():
            yield gold, good, []
    for gold, bad in wrong.WRONG.items():
        yield gold, [], bad


@pytest.mark.parametrize(("gold", "answer"), [(g, a) for g, good, _ in entries() for a in good])
def test_right(gold: str, answer: str) -> None:
    assert decide(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), [(g, a) for g, _, bad in entries() for a in bad])
def test_wrong(gold: str, answer: str) -> None:
    assert not decide(answer, gold)


@pytest.mark.parametrize("gold", [gold for gold, _, _ in BY_CATEGORY])
def test_gold_is_its_own_answer(gold: str) -> None:
    assert decide(gold, gold)
    assert decide(f"\\boxed{{{gold}}}", gold)
