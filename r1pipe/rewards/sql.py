"""SQL reward: the query in the answer, run on the row's databases, returns what gold returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

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
from r1pipe.rewards.killable import Done, Failed, Outcome, TimedOut, run_all
from r1pipe.rewards.sql_results import BadRow, Order, read_databases, read_gold

_NAME = "sql"
_AGREES = "r1pipe.rewards.sql_results:agrees"
_CHECK = "r1pipe.rewards.sql_results:check_gold"
_MAX_QUERY = 100_000
_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_-]*)[ \t]*\r?\n?(.*?)```", re.DOTALL)


def row_problems(
    rows: Sequence[Mapping[str, Any]], *, timeout: float = 1.0, **options: Any
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose database or gold query does not work."""
    problems: dict[int, str] = {}
    calls: dict[int, tuple[Any, list[str]]] = {}
    for index, row in enumerate(rows):
        gold = gold_of(row)
        if gold is None or row.get("database") is None:
            continue
        try:
            calls[index] = _gold_and_databases(gold, row["database"])
        except BadRow as error:
            problems[index] = str(error)
    for index, outcome in zip(calls, run_all(_CHECK, calls.values(), timeout), strict=True):
        if isinstance(outcome, Failed):
            problems[index] = outcome.message
        elif isinstance(outcome, TimedOut):
            problems[index] = f"database and gold query take more than {timeout:g} s"
    return sorted(problems.items())


@checked_by(row_problems, looks_at="row")
def sql_reward(
    completions: Sequence[Any],
    solution: Sequence[Any] | None = None,
    database: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    timeout: float = 1.0,
    ordered: Order = "auto",
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 for a query in `<answer>` whose result is that of the gold query, 0 for any other.

    Columns: `database`, the SQL script of a SQLite database (schema and rows), or a list of them,
    all of which must agree (a query that merely states the result of one fails on another);
    `solution` (or `answer`), the gold query, or its rows as a list of lists. None where either
    is missing.

    The query may stand in a Markdown fence. It is one statement that only reads. Rows are compared
    by the types of their values (1 is 1.0, `'1'` is not; NULL is NULL; floats to 1e-9), names of
    columns are not. Their order counts where `ordered`, or where the gold query has an ORDER BY
    at its top (`auto`); rows that it leaves tied may be in any order. A query without any table is
    0 where gold needs one. `timeout`: seconds that database, gold and query may work together; one
    that takes longer is 0 and counted in the metric `rewards/sql/timed_out`.

    Raises UserError on a database or a gold query that does not work.
    """
    count = len(completions)
    golds = golds_of(solution, columns.get("answer"), count, _NAME)
    scripts = column({"database": database}, "database", count, _NAME)
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = [None] * count
    calls: dict[int, tuple[str, Any, list[str], Order]] = {}
    for index, completion in enumerate(completions):
        if golds[index] is None or scripts[index] is None:
            continue
        try:
            gold, databases = _gold_and_databases(golds[index], scripts[index])
        except BadRow as error:
            raise bad_row(columns, index, _NAME, str(error)) from None
        rewards[index] = 0.0
        query = query_in(final_answer(text_of(completion), opened[index]))
        if query is not None:
            calls[index] = query, gold, databases, ordered
    outcomes = run_all(_AGREES, calls.values(), timeout) if calls else []
    for index, outcome in zip(calls, outcomes, strict=True):
        if isinstance(outcome, Failed) and outcome.kind == BadRow.__name__:
            raise bad_row(columns, index, _NAME, outcome.message)
        rewards[index] = float(outcome == Done(True))
    _report(outcomes, columns)
    return rewards


def query_in(answer: str | None) -> str | None:
    """Return the query of an answer block: what its one fence holds, or all of it; None if none."""
    if answer is None or len(answer) > _MAX_QUERY or "\0" in answer:
        return None
    if "```" in answer:
        fences = _FENCE.findall(answer)
        if len(fences) != 1:
            return None
        language, inside = fences[0]
        # "```SELECT 1```": on one line the first word is no language.
        known = language.lower() in ("", "sql", "sqlite", "sqlite3")
        answer = str(inside if known else f"{language} {inside}")
    return None if is_blank(answer) else answer.strip()


def _gold_and_databases(gold: Any, database: Any) -> tuple[Any, list[str]]:
    databases = read_databases(database)
    gold = read_gold(gold)
    if not isinstance(gold, str) and len(databases) > 1:
        raise BadRow("gold rows are those of one database: give a gold query for several")
    return gold, databases


def _report(outcomes: Sequence[Outcome], columns: Mapping[str, Any]) -> None:
    if callable(log_metric := columns.get("log_metric")):
        log_metric(f"rewards/{_NAME}/timed_out", float(outcomes.count(TimedOut())))
        failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        log_metric(f"rewards/{_NAME}/failed", float(failed))
