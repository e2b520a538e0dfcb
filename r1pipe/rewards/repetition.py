"""Repetition penalty: how much of a completion says again what it already said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.completions import checked_by, column, text_of

_NAME = "repetition"

# Scripts written without spaces: Han, kana, Thai, Lao, Burmese, Khmer; a sign of them is a unit.
_UNSPACED = (
    "\u3005\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
    "\u0e01-\u0e4e\u0e80-\u0ecf\u1000-\u1049\u1780-\u17d3"
)
_MARKS = "!-/:-@\\[-^`{-~\u00a1-\u00bf\u2010-\u206f\u3001-\u3004\u3008-\u3020\uff01-\uff0f"
# Cut at 16 characters: a loop without spaces (`33333…`, `hahaha…`) would be a single unit.
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}{_MARKS}]{{1,16}}|[{_MARKS}]{{1,16}}")

_MODULUS = (1 << 61) - 1  # a prime: two n-grams collide in one of 200,000 such megabytes
_BASE = 1_000_003_000_017


@checked_by(None, best=0.0, looks_at="row")
def repetition_penalty(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    ngram_size: int = 20,
    max_penalty: float = -1.0,
    unit: Literal["words", "characters", "tokens"] = "words",
    **columns: Any,
) -> list[float | None]:
    """`max_penalty` x (1 - distinct n-grams / all n-grams) of the completion: 0 without repeats.

    Demystifying Long Chain-of-Thought (arXiv 2502.03373, appendix C.2) penalises repeated
    n-grams of tokens; the share over the whole completion is the form open-r1 gave it. Honest
    reasoning repeats short phrases ("the sum of"), seldom 20 words in a row, hence the default
    `ngram_size`; below it there is nothing to compare and the penalty is 0.

    `words` does not tell case apart and counts each sign of a script without spaces (Chinese,
    Japanese, Thai ...) as one; punctuation counts, so that a loop of it is seen. `characters`
    leaves white space out. `tokens` needs the column `completion_ids`. Raises UserError on
    options that make no sense.
    """
    _require_options(ngram_size, max_penalty, unit)
    if unit == "tokens":
        ids = column({"completion_ids": completion_ids}, "completion_ids", len(completions), _NAME)
        return [_penalty(list(row), ngram_size, max_penalty) for row in ids]
    split = _words if unit == "words" else _characters
    return [_penalty(split(text_of(text)), ngram_size, max_penalty) for text in completions]


def repeated_share(units: Sequence[Any], ngram_size: int) -> float:
    """Return 1 - distinct n-grams / all n-grams of a sequence, in [0, 1); 0 for a short one.

    One pass, and one number per n-gram is kept: rolling hashes (Karp and Rabin 1987) instead of
    the n-grams themselves.
    """
    count = len(units) - ngram_size + 1
    if count < 2:
        return 0.0
    numbers: dict[Any, int] = {}
    coded = [numbers.setdefault(unit, len(numbers) + 1) for unit in units]
    leaving = pow(_BASE, ngram_size, _MODULUS)
    value, seen = 0, set[int]()
    for index, number in enumerate(coded):
        value = (value * _BASE + number) % _MODULUS
        if index >= ngram_size:
            value = (value - coded[index - ngram_size] * leaving) % _MODULUS
        if index >= ngram_size - 1:
            seen.add(value)
    return 1.0 - len(seen) / count


def _penalty(units: Sequence[Any], ngram_size: int, max_penalty: float) -> float:
    share = repeated_share(units, ngram_size)
    return share * max_penalty if share else 0.0


def _words(text: str) -> list[str]:
    return [match.group() for match in _UNIT.finditer(text.lower())]


def _characters(text: str) -> list[str]:
    return [char for char in text if not char.isspace()]


def _require_options(ngram_size: int, max_penalty: float, unit: str) -> None:
    problems = []
    if ngram_size < 1:
        problems.append(Problem(f"reward.{_NAME}.ngram_size", f"{ngram_size} is not at least 1"))
    if not (math.isfinite(max_penalty) and max_penalty <= 0):
        what = f"{max_penalty} is not a penalty: a finite number of at most 0"
        problems.append(Problem(f"reward.{_NAME}.max_penalty", what))
    if unit not in ("words", "characters", "tokens"):
        hint = "known: words, characters, tokens"
        problems.append(Problem(f"reward.{_NAME}.unit", f"unknown unit {unit!r}", hint))
    if problems:
        raise UserError(problems)
