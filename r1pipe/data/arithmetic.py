"""Arithmetic problems below 1000 in English and Chinese: drawing, the held-out split, checking."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

LIMIT = 1000  # every operand and every result is in 0..LIMIT-1
TASKS = ("add", "sub", "mul", "div")
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
LANGUAGES = ("en", "zh")
PROMPT_WORDS = {"en": "compute ", "zh": "计算"}
HELD_OUT_PERCENT = 20

# Factors 0 and 1 are trivial, so they meet small partners only and stay a small part of the task.
TRIVIAL_PARTNER_LIMIT = 100
# How often a divisor has 1, 2 or 3 digits: drawn evenly over pairs, most quotients would be 1.
DIVISOR_RANGES = (((1, 9), 0.3), ((10, 99), 0.5), ((100, 999), 0.2))
EXACT_DIVISION_SHARE = 0.25

_EXPRESSION = re.compile(r"(\d{1,4})([+\-*/])(\d{1,4})")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:r\d+)?")


@dataclass(frozen=True)
class Problem:
    """One problem `left operator right`, with all numbers in 0..999."""

    task: str
    left: int
    right: int

    @property
    def expression(self) -> str:
        """As it is asked: `24+119`."""
        return f"{self.left}{OPERATORS[self.task]}{self.right}"

    @property
    def canonical(self) -> str:
        """The same string for the same sum: operands sorted where their order does not matter."""
        left, right = self.left, self.right
        if self.task in ("add", "mul") and left > right:
            left, right = right, left
        return f"{left}{OPERATORS[self.task]}{right}"

    @property
    def answer(self) -> str:
        """`143`; for a division with a remainder `25r3`."""
        if self.task == "add":
            return str(self.left + self.right)
        if self.task == "sub":
            return str(self.left - self.right)
        if self.task == "mul":
            return str(self.left * self.right)
        quotient, remainder = divmod(self.left, self.right)
        return f"{quotient}r{remainder}" if remainder else str(quotient)


def is_held_out(canonical: str) -> bool:
    """True where a canonical problem belongs to the test split, in every language and process."""
    return zlib.crc32(b"r1pipe " + canonical.encode()) % 100 < HELD_OUT_PERCENT


def prompt_of(problem: Problem, language: str) -> str:
    """The question; it ends with a newline, so that no token spans prompt and completion."""
    return f"{PROMPT_WORDS[language]}{problem.expression}\n"


def parse_problem(text: str) -> Problem | None:
    """The last problem asked in a prompt (few-shot prompts hold several), or None."""
    found = _EXPRESSION.findall(text)
    if not found:
        return None
    left, operator, right = found[-1]
    task = next(name for name, sign in OPERATORS.items() if sign == operator)
    return Problem(task, int(left), int(right))


def normalise_answer(text: str) -> str:
    """Strips spaces, leading zeros, a remainder of zero (` 025r0 ` -> `25`); else only spaces."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return text
    quotient, _, remainder = text.partition("r")
    if not remainder or int(remainder) == 0:
        return str(int(quotient))
    return f"{int(quotient)}r{int(remainder)}"


def extract_answer(text: str) -> str | None:
    """The content of the only `<answer>` block, normalised; None where there is not exactly one."""
    found = _ANSWER_TAG.findall(text)
    return normalise_answer(found[0]) if len(found) == 1 else None


def is_correct(problem: Problem, text: str) -> bool:
    """True where the tagged answer in `text` (`text` itself, if it holds no tag) is right."""
    answer = extract_answer(text) if "<answer>" in text else normalise_answer(text)
    return answer == problem.answer


@cache
def multiplications(split: str) -> tuple[Problem, ...]:
    """Every ordered multiplication of one split: so few that they are listed rather than drawn."""
    held_out = _is_test(split)
    problems = (
        Problem("mul", left, right)
        for left in range(LIMIT)
        for right in range(LIMIT if left == 0 else min(LIMIT, (LIMIT - 1) // left + 1))
        if min(left, right) >= 2 or max(left, right) < TRIVIAL_PARTNER_LIMIT
    )
    return tuple(p for p in problems if is_held_out(p.canonical) == held_out)


def draw_problem(task: str, split: str, rng: random.Random) -> Problem:
    """One problem of a task and split, drawn with replacement."""
    if task == "mul":
        return rng.choice(multiplications(split))
    held_out = _is_test(split)
    while True:
        problem = _DRAW[task](rng)
        if is_held_out(problem.canonical) == held_out:
            return problem


def held_out_problems(task: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` distinct test problems of one task (all of them, where there are fewer)."""
    rng = random.Random(f"{seed} test {task}")
    if task == "mul":
        problems = list(multiplications("test"))
        rng.shuffle(problems)
        return problems[:count]
    chosen: dict[Problem, None] = {}
    while len(chosen) < count:
        chosen[draw_problem(task, "test", rng)] = None
    return list(chosen)


def counts_of(per_task: int | Mapping[str, int], tasks: Sequence[str]) -> dict[str, int]:
    """Return how many problems of each task are listed; ValueError for a task there is not."""
    if isinstance(per_task, int):
        return dict.fromkeys(tasks, per_task)
    if unknown := sorted(set(per_task) - set(tasks)):
        known = ", ".join(tasks)
        raise ValueError(f"per_task: expected {known}; received {', '.join(unknown)}")
    return {task: per_task.get(task, 0) for task in tasks}


def _listed(
    task: str, count: int, seed: int, languages: Sequence[str]
) -> Iterator[tuple[Problem, str]]:
    chosen = held_out_problems(task, count, seed)
    pairs = (
        (problem, languages[(place + turn) % len(languages)])
        for turn in range(len(languages))
        for place, problem in enumerate(chosen)
    )
    yield from islice(pairs, count)


def row_of(problem: Problem, language: str, completion: str) -> dict[str, str]:
    """One data row about a problem; `id` names the canonical problem and the language."""
    return {
        "prompt": prompt_of(problem, language),
        "completion": completion,
        "answer": problem.answer,
        "domain": "reasoning",
        "task": problem.task,
        "language": language,
        "id": f"{problem.canonical}|{language}",
    }


def problems(
    split: str,
    seed: int,
    count: int | None,
    weights: Mapping[str, float] | None = None,
    languages: Sequence[str] = LANGUAGES,
    per_task: int | Mapping[str, int] | None = None,
) -> Iterator[tuple[Problem, str]]:
    """Pairs of problem and language, deterministic in `seed`.

    `weights` sets how often each task is drawn (evenly by default). `per_task` lists that many
    distinct pairs of each task instead, or as many as a mapping says; it is there for the test
    split, where each pair counts once. The languages take turns, and a problem is asked in a second
    one only when all have been asked: there are 1,012 held-out multiplications.
    """
    tasks = [task for task in TASKS if weights is None or weights.get(task, 0) > 0]
    if per_task is not None:
        if not _is_test(split):
            raise ValueError("per_task lists the test split; draw from the train split with count")
        counts = counts_of(per_task, tasks)
        listed = (pair for task in tasks for pair in _listed(task, counts[task], seed, languages))
        yield from (pair for i, pair in enumerate(listed) if count is None or i < count)
        return
    rng = random.Random(f"{seed} {split}")
    shares = [1.0 if weights is None else weights[task] for task in tasks]
    for _ in range(count or 0):
        task = rng.choices(tasks, shares)[0]
        yield draw_problem(task, split, rng), rng.choice(languages)


def rows(
    split: str,
    seed: int,
    count: int | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    languages: Sequence[str] = LANGUAGES,
    per_task: int | Mapping[str, int] | None = None,
) -> Iterator[dict[str, str]]:
    """Problems with the bare answer as completion; arguments as in `problems`."""
    for problem, language in problems(split, seed, count, weights, languages, per_task):
        yield row_of(problem, language, f"<answer>{problem.answer}</answer>")


def _is_test(split: str) -> bool:
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', received {split!r}")
    return split == "test"


def _draw_add(rng: random.Random) -> Problem:
    left = rng.randrange(LIMIT)
    right = rng.randrange(LIMIT - left)
    return Problem("add", left, right) if rng.random() < 0.5 else Problem("add", right, left)


def _draw_sub(rng: random.Random) -> Problem:
    left = rng.randrange(LIMIT)
    return Problem("sub", left, rng.randrange(left + 1))


def _draw_div(rng: random.Random) -> Problem:
    ((low, high),) = rng.choices(
        [r for r, _ in DIVISOR_RANGES], [share for _, share in DIVISOR_RANGES]
    )
    divisor = rng.randint(low, high)
    dividend = rng.randint(divisor, LIMIT - 1)
    if rng.random() < EXACT_DIVISION_SHARE:
        dividend -= dividend % divisor
    return Problem("div", dividend, divisor)


_DRAW = {"add": _draw_add, "sub": _draw_sub, "div": _draw_div}
