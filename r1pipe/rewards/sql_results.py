"""Runs queries on SQLite databases in memory and compares what they return (in a worker)."""

from __future__ import annotations

import itertools
import json
import math
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Order = bool | Literal["auto"]
Row = tuple[Any, ...]

MAX_ROWS = 100_000
"""Rows a gold result may have."""
_VALUE_BYTES = 16 << 20
_RESULT_BYTES = 64 << 20
_HEAP_BYTES = 512 << 20
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
"""Floats this near are equal: the order of additions shows in the last digits."""
_MATCHED_ONE_BY_ONE = 1000
_READING = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
_ATTACHING = frozenset((sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH))
_TIE = "r1pipe_tie"
_FORBIDDEN = frozenset(("load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"))
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|[()]|\w+",
    re.DOTALL,
)
# sqlite3.Warning stands for a second statement; the others for NUL, surrogates and huge numbers.
_REFUSED = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError)


class BadRow(ValueError):
    """A database or a gold query that does not work: the row is at fault, not the model."""


def agrees(query: str, gold: Any, databases: Sequence[str], ordered: Order) -> bool:
    """True where `query` returns on every database what `gold` does. Raises BadRow for gold.

    `gold` is a query, or a list of rows. A query that reads no table while gold does is an answer
    copied from somewhere: it agrees with nothing.
    """
    in_order = _is_ordered(gold) if ordered == "auto" else ordered
    for script in databases:
        expected = _expected(gold, script, in_order)
        connection = _filled(script)
        try:
            tables = _read_only(connection)
            found, width = _rows(connection, query, len(expected.rows) + 1)
        except _REFUSED:
            return False
        finally:
            connection.close()
        if (expected.needs_table and not tables) or expected.width not in (None, width):
            return False
        if not _same(found, expected.rows, expected.ends):
            return False
    return True


def check_gold(gold: Any, databases: Sequence[str]) -> None:
    """Raise BadRow where gold fails, or is empty on all databases and so tells nothing apart."""
    results = [_expected(gold, script, False).rows for script in databases]
    if not any(results):
        raise BadRow("the gold result is empty on every database, as that of many a wrong query")


@dataclass(frozen=True)
class _Expected:
    """What gold returns on one database; `ends`: where the ranks of equal order end."""

    rows: list[Row]
    width: int | None
    needs_table: bool
    ends: list[int]


def _expected(gold: Any, script: str, in_order: bool) -> _Expected:
    """Return what gold returns. Raises BadRow."""
    connection = _filled(script)
    try:
        if not isinstance(gold, str):
            count = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')"
            rows = [tuple(row) for row in gold]
            ends = list(range(1, len(rows) + 1)) if in_order else [len(rows)]
            return _Expected(rows, None, connection.execute(count).fetchone()[0] > 0, ends)
        tables = _read_only(connection)
        rows, width = _rows(connection, gold, MAX_ROWS + 1)
        if len(rows) > MAX_ROWS:
            raise BadRow(f"the gold query returns more than {MAX_ROWS} rows")
        if not in_order:
            return _Expected(rows, width, bool(tables), [len(rows)])
        return _Expected(rows, width, bool(tables), _ends(rows, _ties_reversed(connection, gold)))
    except _REFUSED as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"the gold query fails: {error}") from error
    finally:
        connection.close()


def _filled(script: str) -> sqlite3.Connection:
    """Return a database in memory after `script`. Raises BadRow."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    for name, most in (
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        (sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES),
    ):
        connection.setlimit(name, most)
    connection.set_authorizer(_may_build)
    try:
        connection.executescript(script)
        if connection.in_transaction:
            connection.commit()
    except _REFUSED as error:
        connection.close()
        raise BadRow(f"the database script fails: {error}") from error
    connection.set_authorizer(None)
    # Sorting a cross join would otherwise write to the disk.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
    return connection


def _may_build(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """Forbid what reaches a file."""
    function = action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN
    directory = action == sqlite3.SQLITE_PRAGMA and "directory" in str(first).lower()
    forbidden = function or directory or action in _ATTACHING
    return sqlite3.SQLITE_DENY if forbidden else sqlite3.SQLITE_OK


def _read_only(connection: sqlite3.Connection) -> set[str]:
    """Let the connection read and nothing else; return the set its tables come into when read."""
    tables: set[str] = set()

    def may(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action not in _READING:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and first and not first.lower().startswith("sqlite_"):
            tables.add(first)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(may)
    return tables


def _rows(connection: sqlite3.Connection, query: str, most: int) -> tuple[list[Row], int]:
    """Return at most `most` rows of a query and its number of columns; raises what SQLite does."""
    cursor = connection.execute(query)
    if cursor.description is None:
        raise ValueError("it is no query")
    rows: list[Row] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if size > _RESULT_BYTES:
            raise ValueError(f"the result takes more than {_RESULT_BYTES} bytes")
        if len(rows) == most:
            break
    return rows, len(cursor.description)


def _is_ordered(gold: Any) -> bool:
    """True for a query with ORDER BY outside all brackets."""
    return isinstance(gold, str) and _end_of_order(gold) is not None


def _end_of_order(query: str) -> int | None:
    """Return where the ORDER BY that is outside all brackets ends, or None without one."""
    depth, last, end, ordered = 0, "", 0, False
    for match in _TOKEN.finditer(query):
        token = match.group().lower()
        if token.startswith(("--", "/*")):
            continue
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and ordered and token == "limit":
            break
        ordered = ordered or (depth == 0 and last == "order" and token == "by")
        last, end = token, match.end()
    return end if ordered else None


def _ties_reversed(connection: sqlite3.Connection, query: str) -> list[Row]:
    """Return the rows of a query with those that its ORDER BY leaves tied the other way round.

    An order that takes no further term (of a compound query) is taken as it is.
    """
    end = _end_of_order(query)
    if end is None:
        return []
    backwards = itertools.count(0, -1)
    connection.create_function(_TIE, 0, lambda: next(backwards))
    try:
        return _rows(connection, f"{query[:end]}, {_TIE}(){query[end:]}", MAX_ROWS + 1)[0]
    except _REFUSED:
        return []


def _ends(rows: Sequence[Row], others: Sequence[Row]) -> list[int]:
    """Return where both orders have had the same rows: between two ends are those of one rank.

    ORDER BY leaves open how ties stand: those that may change places are of one rank.
    """
    if len(rows) != len(others) or Counter(map(_key, rows)) != Counter(map(_key, others)):
        return list(range(1, len(rows) + 1))
    surplus: Counter[Row] = Counter()
    ends = []
    for end, (row, other) in enumerate(zip(rows, others, strict=True), 1):
        for key, step in ((_key(row), 1), (_key(other), -1)):
            surplus[key] += step
            if not surplus[key]:
                del surplus[key]
        if not surplus:
            ends.append(end)
    return ends


def _same(found: Sequence[Row], expected: Sequence[Row], ends: Sequence[int]) -> bool:
    if len(found) != len(expected):
        return False
    starts = [0, *ends[:-1]]
    return all(
        _same_multiset(found[start:end], expected[start:end])
        for start, end in zip(starts, ends, strict=True)
    )


def _same_multiset(found: Sequence[Row], expected: Sequence[Row]) -> bool:
    if Counter(map(_key, found)) == Counter(map(_key, expected)):
        return True
    groups: dict[Row, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((found, expected)):
        for row in rows:
            groups[_words(row)][side].append(row)
    return all(_paired(ours, theirs) for ours, theirs in groups.values())


def _paired(found: list[Row], expected: list[Row]) -> bool:
    """True where each row has one of its own on the other side; they differ in numbers only."""
    if len(found) != len(expected):
        return False
    if len(found) > _MATCHED_ONE_BY_ONE:
        pairs = zip(sorted(found, key=_numbers), sorted(expected, key=_numbers), strict=True)
        return all(_equal(one, other) for one, other in pairs)
    left = list(expected)
    for row in found:
        match = next((i for i, other in enumerate(left) if _equal(row, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _equal(row: Row, other: Row) -> bool:
    return all(map(_equal_values, row, other))


def _equal_values(value: Any, other: Any) -> bool:
    """SQLite's equality by type: 1 is 1.0 but not '1'; NULL is NULL; floats to 1e-9."""
    if isinstance(value, float) or isinstance(other, float):
        if not isinstance(value, int | float) or not isinstance(other, int | float):
            return False
        return math.isclose(value, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return _key((value,)) == _key((other,))


def _key(row: Row) -> Row:
    """Return a row in which only values of one type are equal."""
    return tuple(
        value if isinstance(value, int | float) else (type(value).__name__, value) for value in row
    )


def _words(row: Row) -> Row:
    return tuple("number" if isinstance(v, int | float) else (type(v).__name__, v) for v in row)


def _numbers(row: Row) -> list[float]:
    return [float(f"{value:.8g}") for value in row if isinstance(value, int | float)]


def read_gold(value: Any) -> Any:
    """Return gold as `agrees` takes it: a query, or rows (a list of lists, also as JSON text).

    Raises BadRow.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow(f"the gold rows are no JSON: {error}") from None
    if isinstance(value, str) and value.strip():
        return value
    scalars = (str, int, float, type(None))
    if not isinstance(value, list) or not all(
        isinstance(row, list) and row and all(isinstance(cell, scalars) for cell in row)
        for row in value
    ):
        raise BadRow("gold is neither a query nor a list of rows")
    return value


def read_databases(value: Any) -> list[str]:
    """Return the scripts of a row's databases. Raises BadRow."""
    scripts = [value] if isinstance(value, str) else value
    if not isinstance(scripts, list | tuple) or not scripts:
        raise BadRow("`database` is neither an SQL script nor a list of them")
    if not all(isinstance(script, str) for script in scripts):
        raise BadRow("`database` holds something that is no SQL script")
    return list(scripts)
