"""Multiple-choice reward: which option the answer block states, and nothing between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.choice_text import NOTHING, Choices, plain
from r1pipe.rewards.completions import (
    bad_row,
    checked_by,
    column,
    final_answer,
    gold_of,
    golds_of,
    is_blank,
    prefilled_rows,
    text_of,
)
from r1pipe.rewards.text import too_long

_NAME = "choice"


class _BadGold(ValueError):
    """A gold answer or a list of options that cannot be used: the row is at fault."""


def row_problems(
    rows: Sequence[Mapping[str, Any]], *, choices: str = "ABCDEFGHIJ", **options: Any
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose gold answer is not one of their choices."""
    letters = _choices(choices)
    problems = []
    for index, row in enumerate(rows):
        if (gold := gold_of(row)) is None:
            continue
        try:
            _gold(gold, *_offered(row.get("options"), letters))
        except _BadGold as error:
            problems.append((index, str(error)))
    return problems


@checked_by(row_problems, looks_at="row")
def choice_reward(
    completions: Sequence[Any],
    solution: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    options: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    *,
    choices: str = "ABCDEFGHIJ",
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 where `<answer>` states the gold choice, or all of several and no other; else 0.

    Column `solution` (or `answer`): a letter of `choices`, several (`A, C`; a list), or the text
    of an option. Column `options`, where there is one: the texts, as a list in the order of
    `choices` or as a dict by letter. Read are `B`, `(B)`, `b.`, `B) text`, `Option B`,
    `The answer is B`, `\boxed{B}` and the like, and an option's text word for word. An answer that
    says `not B`, `A or B`, or more than it can be understood to say, states nothing.

    Raises UserError on a gold answer that is no choice, and on `choices` that are not different
    letters or digits.
    """
    letters = _choices(choices)
    count = len(completions)
    golds = golds_of(solution, answer, count, _NAME)
    offers = [None] * count if options is None else options
    texts = column({"options": offers}, "options", count, _NAME)
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = []
    for index, completion in enumerate(completions):
        if golds[index] is None:
            rewards.append(None)
            continue
        try:
            offered, known = _offered(texts[index], letters)
            gold = _gold(golds[index], offered, known)
        except _BadGold as error:
            raise bad_row(columns, index, _NAME, str(error)) from error
        said = final_answer(text_of(completion), opened[index])
        longest = max(["", *offered.values()], key=len)
        if said is None or too_long(said, longest):
            rewards.append(0.0)
        else:
            rewards.append(float(_stated(said, offered, known) == gold))
    return rewards


def _stated(text: str, offered: Mapping[str, str], letters: Choices) -> frozenset[str]:
    """Return the choices that a text states, by letter or by the text of one option."""
    said = plain(text)
    # A letter alone is the choice, whatever the texts are; "A and B" may be the text of D.
    if len(said) > 1:
        for fold in (str, str.casefold):
            same = [letter for letter, text in offered.items() if fold(plain(text)) == fold(said)]
            if len(same) == 1:
                return frozenset(same)
    return letters.stated(text, offered)


def _gold(value: Any, offered: Mapping[str, str], letters: Choices) -> frozenset[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence | set | frozenset) or not values:
        raise _BadGold(f"gold answer is {value!r}, neither a choice nor a list of them")
    found = set()
    for item in values:
        one = _stated(item, offered, letters) if isinstance(item, str) else NOTHING
        if not one:
            raise _BadGold(f"gold answer is {value!r}, not one or more of {letters.letters}")
        found |= one
    return frozenset(found)


def _offered(value: Any, letters: Choices) -> tuple[dict[str, str], Choices]:
    """Return a row's option texts by letter and its choices; no texts and all without options."""
    if value is None:
        return {}, letters
    if isinstance(value, Mapping):
        # Arrow tables give a dict the keys of every other row, with None.
        given = {str(key): text for key, text in value.items() if text is not None}
        known = {letter.casefold(): letter for letter in letters.letters}
        if any(key.casefold() not in known for key in given):
            raise _BadGold(f"options are {list(given)}, not letters of {letters.letters}")
        texts = {known[key.casefold()]: text for key, text in given.items()}
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) > len(letters.letters):
            raise _BadGold(f"{len(value)} options are more than the choices {letters.letters}")
        texts = dict(zip(letters.letters, value, strict=False))
    else:
        raise _BadGold(f"options are {value!r}, neither a list nor a dict")
    if not texts or any(not isinstance(text, str) or is_blank(text) for text in texts.values()):
        raise _BadGold(f"options are {value!r}; every one must have a text")
    return texts, Choices.of("".join(texts))


def _choices(choices: str) -> Choices:
    different = len(set(choices.casefold())) == len(choices)
    if not (choices and different and choices.isascii() and choices.isalnum()):
        what = f"{choices!r} are not different letters or digits (A to Z, 0 to 9)"
        raise UserError(Problem(f"reward.{_NAME}.choices", what))
    return Choices.of(choices)
