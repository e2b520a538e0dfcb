"""Code reward: runs what the model wrote against the tests of its row."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from r1pipe.rewards.code.program import program_in
from r1pipe.rewards.code.sessions import Bounds
from r1pipe.rewards.code.testing import BadTests, Test, read_tests
from r1pipe.rewards.code.verdict import Verdict, verify_tests
from r1pipe.rewards.completions import (
    TAG,
    bad_row,
    checked_by,
    column,
    final_answer,
    is_blank,
    prefilled_rows,
    text_of,
)
from r1pipe.sandbox import Isolation, require

_NAME = "code"


def row_problems(rows: Sequence[Mapping[str, Any]], **options: Any) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose tests cannot be used."""
    problems = []
    for index, row in enumerate(rows):
        if row.get("verification") is not None:
            try:
                read_tests(row["verification"])
            except BadTests as error:
                problems.append((index, f"`verification`: {error}"))
    return problems


@checked_by(row_problems, looks_at="row")
def code_reward(
    completions: Sequence[Any],
    verification: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    score: Literal["all", "share"] = "all",
    timeout: float = 5.0,
    memory_mb: int = 512,
    isolation: Isolation = "sandbox",
    workers: int | None = None,
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 where the program in the answer passes all tests of its row, else 0; None without tests.

    The program is the last fenced Python block of the last `<answer>` block after the reasoning
    (R1, Nature 645:633, Methods: the answer is judged, never the reasoning), or that whole block
    without a fence. A completion that writes no answer block may fence its program after the
    reasoning, or anywhere where it does not reason at all: form is `format_reward`'s.

    The column `verification` holds the tests: input and output of the program, calls of its
    functions, or asserts (see `read_tests`). What a test expects never enters a process that the
    program runs in.

    `score`: `all` stops at the first failed test, `share` gives passed / all. `timeout`: seconds
    by the clock for each test; `memory_mb`: MiB for all processes of a program; `isolation`:
    `process` only limits resources and is for programs you trust; `workers`: programs at a time,
    None for one per core.

    Raises UserError on a row without usable tests and where the isolation cannot be had here.
    """
    count = len(completions)
    rows = column({"verification": verification}, "verification", count, _NAME)
    tests: list[tuple[Test, ...] | None] = []
    read: dict[str | int, tuple[Test, ...]] = {}
    for index, row in enumerate(rows):
        key = _key(row)
        try:
            if row is not None and key not in read:
                read[key] = read_tests(row)
        except BadTests as error:
            raise bad_row(columns, index, _NAME, f"`verification`: {error}") from None
        tests.append(None if row is None else read[key])
    opened = prefilled_rows(prefilled, prompts, count)
    programs = [_program(*row) for row in zip(completions, opened, strict=True)]
    jobs = {
        (program, id(wanted)): (program, wanted)
        for program, wanted in zip(programs, tests, strict=True)
        if program is not None and wanted is not None
    }
    bounds = Bounds(timeout, memory_mb << 20, isolation)
    verdicts = dict(zip(jobs, _run(list(jobs.values()), bounds, score, workers), strict=True))
    rewards: list[float | None] = []
    for program, wanted in zip(programs, tests, strict=True):
        if wanted is None:
            rewards.append(None)
        elif program is None:
            rewards.append(0.0)
        else:
            verdict = verdicts[program, id(wanted)]
            rewards.append(verdict.share if score == "share" else float(verdict.passed))
    return rewards


def _key(row: Any) -> str | int:
    """Return what equal rows share, so that they are read and run once."""
    try:
        return row if isinstance(row, str) else repr(row)
    except (ValueError, RecursionError):  # an integer of many digits, or deep nesting
        return id(row)


def _program(completion: Any, prefilled: bool) -> str | None:
    text = text_of(completion)
    answer = final_answer(text, prefilled)
    if answer is None:
        _, closed, after = text.rpartition("</think>")
        reasons_on = prefilled and not closed
        if reasons_on or TAG.search(after) or "```" not in after:
            return None
        answer = after
    program = program_in(answer)
    return None if program is None or is_blank(program) else program


def _run(
    jobs: Sequence[tuple[str, tuple[Test, ...]]], bounds: Bounds, score: str, workers: int | None
) -> list[Verdict]:
    if not jobs:
        return []
    require(bounds.isolation)
    most = workers or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(min(most, len(jobs)), "code_reward") as pool:
        return list(
            pool.map(lambda job: verify_tests(job[0], job[1], bounds, score == "all"), jobs)
        )
