"""Reward of general rows with one right answer: the answer block, compared as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.rewards.completions import (
    GENERAL,
    bad_row,
    checked_by,
    domains_of,
    final_answer,
    gold_of,
    golds_of,
    is_blank,
    prefilled_rows,
    text_of,
)
from r1pipe.rewards.text import normalise_text, too_long

_NAME = "general"


def row_problems(
    rows: Sequence[Mapping[str, Any]], *, domains: Sequence[str] = (GENERAL,), **options: Any
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose gold answer cannot be used."""
    problems = []
    for index, row in enumerate(rows):
        gold = gold_of(row)
        if gold is None or domains_of({"domain": [row.get("domain")]}, 1)[0] not in domains:
            continue
        if not _is_gold(gold):
            problems.append((index, f"gold answer is {gold!r}"))
    return problems


@checked_by(row_problems, looks_at="row")
def exact_answer_reward(
    completions: Sequence[Any],
    solution: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    *,
    domains: Sequence[str] = (GENERAL,),
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 where the `<answer>` block equals the gold answer, else 0; None outside `domains`.

    Compared after Unicode folding (NFKC) and with white space made single; case, order and
    leading zeros count, because copying them is the task. No partial credit: a share of right
    characters pays for answering with the most frequent one.

    The gold answer is the column `solution`, or `answer` on the rows that have none there; a row
    with neither gets None. Raises UserError on an empty one, or one that is no text.
    """
    count = len(completions)
    row_domains = domains_of(columns, count)
    if set(domains).isdisjoint(row_domains):
        return [None] * count
    golds = golds_of(solution, answer, count, _NAME)
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = []
    for index, (completion, gold) in enumerate(zip(completions, golds, strict=True)):
        if gold is None or row_domains[index] not in domains:
            rewards.append(None)
        elif not _is_gold(gold):
            raise bad_row(columns, index, _NAME, f"gold answer is {gold!r}")
        else:
            rewards.append(float(_is_right(text_of(completion), gold, opened[index])))
    return rewards


def _is_gold(gold: Any) -> bool:
    return isinstance(gold, str) and not is_blank(gold)


def _is_right(text: str, gold: str, prefilled: bool) -> bool:
    answer = final_answer(text, prefilled)
    if answer is None or too_long(answer, gold):
        return False
    return normalise_text(answer) == normalise_text(gold)
