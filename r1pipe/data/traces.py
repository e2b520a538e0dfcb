"""Written-out solutions of arithmetic problems: clean traces, and the messy ones of the web.

A trace starts with both numbers as three digits, ones first, and works from the ones upwards, so
that each next token is a short look-up:

- `24+119`: `420+911 ones 4+9+0=13 tens 2+1+1=04 hundreds 0+1+0=01`; a result is carry, then digit.
- `722-616`: `227-616 ones 2-6-0=16 tens 2-1-1=00 hundreds 7-6-0=01`: the same with a borrow.
- `19*15`: `910*510 ones 9*5=45 +0=45 1*5=05 +4=09 ...`: one row of products (each: product, carry
  added) for each digit of the shorter factor, then the sum of the two rows.
- the same with `carry_in_columns`: `ones 9*5=45 5+0+0=05 4+0+0=04 1*5=05 5+4+0=09 0+0+0=00 ...`, a
  carry added as in a sum. Longer, but then no step of a held-out multiplication is new; added at
  once, some are (54 + 8), and nobody can learn those from the train split.
- `742/37`: `247/730 hundreds =07 =00 =00 0=10 =17 =19 so =00 tens ...`: digit after digit of the
  dividend, the remainder so far; then trials `k` and the digits (borrow first) of one more
  subtraction, until one borrows in the hundreds; `so` the quotient digit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from r1pipe.data.arithmetic import LANGUAGES, Problem, problems, row_of

PLACES = ("ones", "tens", "hundreds")
TRACE_WORDS = {
    "en": {
        "ones": "ones ",
        "tens": "tens ",
        "hundreds": "hundreds ",
        "sum": "sum ",
        "so": "so ",
        "left": "left ",
    },
    "zh": {
        "ones": "个位",
        "tens": "十位",
        "hundreds": "百位",
        "sum": "合计",
        "so": "得",
        "left": "剩",
    },
}
# How a web document answers: the number alone, in its tag, after untagged working, or as asked for.
WEB_FORMS = ("bare", "answer", "working", "tagged")
Word = Callable[[str], str]


def think_text(problem: Problem, language: str, carry_in_columns: bool = False) -> str:
    """The reasoning alone, all its words in one language."""
    return write_trace(problem, TRACE_WORDS[language].__getitem__, carry_in_columns)


def tagged(thought: str, answer: str) -> str:
    """The completion form that the format reward asks for."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def gold_completion(problem: Problem, language: str, carry_in_columns: bool = False) -> str:
    """The clean solution with tags."""
    return tagged(think_text(problem, language, carry_in_columns), problem.answer)


def write_trace(problem: Problem, word: Word, carry_in_columns: bool = False) -> str:
    """The reasoning, each word looked up by `word`, which may answer in either language."""
    if problem.task == "mul":
        return _write_mul(problem.left, problem.right, word, carry_in_columns)
    return _WRITERS[problem.task](problem.left, problem.right, word)


def rows(
    split: str,
    seed: int,
    count: int | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    languages: Sequence[str] = LANGUAGES,
    per_task: int | Mapping[str, int] | None = None,
    carry_in_columns: bool = False,
) -> Iterator[dict[str, str]]:
    """Problems with the clean trace in their language; the other arguments as in `problems`."""
    for problem, language in problems(split, seed, count, weights, languages, per_task):
        yield row_of(problem, language, gold_completion(problem, language, carry_in_columns))


def web_like_completion(
    problem: Problem,
    language: str,
    form: str,
    rng: random.Random,
    *,
    mixed: bool = False,
    error_rate: float = 0.0,
    carry_in_columns: bool = False,
) -> str:
    """A solution as the web writes it, in one of `WEB_FORMS`.

    `mixed` draws the language of each word of the working; `error_rate` is the share of wrong
    answers.
    """
    answer = problem.answer
    if rng.random() < error_rate:
        answer = str(rng.randrange(1000))
    if form == "bare":
        return answer
    if form == "answer":
        return f"<answer>{answer}</answer>"
    choices = LANGUAGES if mixed else (language,)
    thought = write_trace(
        problem, lambda name: TRACE_WORDS[rng.choice(choices)][name], carry_in_columns
    )
    if form == "working":
        return f"{thought}{TRACE_WORDS[language]['so']}{answer}"
    return tagged(thought, answer)


def _digits(number: int) -> list[int]:
    """Three digits, ones first."""
    return [number % 10, number // 10 % 10, number // 100]


def _header(left: int, sign: str, right: int) -> str:
    return "".join([*map(str, _digits(left)), sign, *map(str, _digits(right)), " "])


def _write_add(left: int, right: int, word: Word) -> str:
    return _header(left, "+", right) + _columns("+", _digits(left), _digits(right), PLACES, word)


def _write_sub(left: int, right: int, word: Word) -> str:
    return _header(left, "-", right) + _columns("-", _digits(left), _digits(right), PLACES, word)


def _columns(
    sign: str, left: list[int], right: list[int], places: Sequence[str], word: Word
) -> str:
    """Column sum or difference; a column's third number is the carry or borrow so far."""
    text, carry = [], 0
    for place, a, b in zip(places, left, right, strict=True):
        result = a + b + carry if sign == "+" else a - b - carry
        flag, digit = result // 10 % 2, result % 10
        text.append(f"{word(place) if place else ''}{a}{sign}{b}{sign}{carry}={flag}{digit} ")
        carry = flag
    return "".join(text)


def _write_mul(left: int, right: int, word: Word, carry_in_columns: bool) -> str:
    """Long multiplication; the product is below 1000, so the second row has two digits."""
    text = [_header(left, "*", right)]
    if len(str(right)) > len(str(left)):
        left, right = right, left
    rows_of_digits = []
    for place, factor, width in zip(
        PLACES, _digits(right)[: len(str(right))], (3, 2), strict=False
    ):
        carry, row = 0, []
        text.append(word(place))
        for digit in _digits(left)[:width]:
            product = digit * factor
            text.append(f"{digit}*{factor}={product:02d} ")
            if carry_in_columns:
                text.append(_columns("+", _digits(product)[:2], [carry, 0], ("", ""), word))
            else:
                text.append(f"+{carry}={product + carry:02d} ")
            row.append((product + carry) % 10)
            carry = (product + carry) // 10
        rows_of_digits.append(row)
    if len(rows_of_digits) == 2:
        text.append(word("sum"))
        text.append(_columns("+", rows_of_digits[0][1:], rows_of_digits[1], ("", ""), word))
    return "".join(text)


def _write_div(dividend: int, divisor: int, word: Word) -> str:
    """Long division by repeated subtraction."""
    text, remainder = [_header(dividend, "/", divisor)], 0
    for place, digit in zip(reversed(PLACES), reversed(_digits(dividend)), strict=True):
        remainder = remainder * 10 + digit
        text.append(f"{word(place)}{_state(remainder)}")
        taken = 0
        while True:
            text.append(f"{taken}{_trial(remainder, divisor)}")
            if remainder < divisor:
                break
            remainder -= divisor
            taken += 1
        text.append(f"{word('so')}=0{taken} ")
    text.append(f"{word('left')}{_state(remainder)}")
    return "".join(text)


def _state(number: int) -> str:
    return "".join(f"=0{digit} " for digit in _digits(number))


def _trial(number: int, divisor: int) -> str:
    """The digits of `number - divisor`, ones first, each after its borrow."""
    text, borrow = [], 0
    for a, b in zip(_digits(number), _digits(divisor), strict=True):
        result = a - b - borrow
        borrow = int(result < 0)
        text.append(f"={borrow}{result % 10} ")
    return "".join(text)


_WRITERS: dict[str, Callable[[int, int, Word], str]] = {
    "add": _write_add,
    "sub": _write_sub,
    "div": _write_div,
}
