"""Arithmetic with four-digit numbers: what a model trained below 1000 has never seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from r1pipe.data.arithmetic import LANGUAGES, LIMIT, TASKS, Problem, counts_of, row_of

LARGEST = 9999
DOMAIN = "out_of_range"


def draw_problem(task: str, rng: random.Random) -> Problem:
    """One problem with an operand or a result of 1000 or more, and none above `LARGEST`."""
    while True:
        problem = _DRAW[task](rng)
        results = [int(part) for part in problem.answer.split("r")]
        if max(problem.left, problem.right, *results) >= LIMIT:
            return problem


def rows(
    split: str,
    seed: int,
    count: int | None = None,
    *,
    per_task: int | Mapping[str, int] = 500,
    languages: Sequence[str] = LANGUAGES,
) -> Iterator[dict[str, str]]:
    """Distinct problems of each task, the languages taking turns; there is only a test split."""
    if split != "test":
        raise ValueError(f"these problems are for testing: expected 'test', received {split!r}")
    counts, place = counts_of(per_task, TASKS), 0
    for task in TASKS:
        rng = random.Random(f"{seed} {DOMAIN} {task}")
        chosen: dict[Problem, None] = {}
        while len(chosen) < counts[task]:
            chosen[draw_problem(task, rng)] = None
        for turn, problem in enumerate(chosen):
            if count is not None and place >= count:
                return
            place += 1
            row = row_of(problem, languages[turn % len(languages)], "")
            completion = f"<answer>{problem.answer}</answer>"
            name = f"{task}_{DOMAIN}"
            yield {**row, "completion": completion, "domain": DOMAIN, "task": name}


def _draw_add(rng: random.Random) -> Problem:
    left = rng.randint(0, LARGEST)
    return Problem("add", left, rng.randint(0, LARGEST - left))


def _draw_sub(rng: random.Random) -> Problem:
    left = rng.randint(0, LARGEST)
    return Problem("sub", left, rng.randint(0, left))


def _draw_mul(rng: random.Random) -> Problem:
    left = rng.randint(2, LARGEST // 2)
    right = rng.randint(2, LARGEST // left)
    return Problem("mul", left, right) if rng.random() < 0.5 else Problem("mul", right, left)


def _draw_div(rng: random.Random) -> Problem:
    divisor = rng.randint(1, LARGEST)
    return Problem("div", rng.randint(divisor, LARGEST), divisor)


_DRAW: dict[str, Callable[[random.Random], Problem]] = {
    "add": _draw_add,
    "sub": _draw_sub,
    "mul": _draw_mul,
    "div": _draw_div,
}
