"""Compares what a program gave with what a test expects, outside every process it runs in."""

from __future__ import annotations

import math
import re
from typing import Any

from r1pipe.rewards.code.inside.wire import (
    DICT,
    FROZENSET,
    LIST,
    SET,
    TUPLE,
    VALUE,
    decode,
    too_deep,
)

_ROUNDING = 1e-9
"""Relative error that two right ways of computing a float may differ by."""
_ZERO = 1e-12
_TOKEN = re.compile(r"[^ \t\n\r]+")


def same_output(printed: bytes, expected: str, tolerance: float | None = None) -> bool:
    """Return whether a program printed what is expected.

    Line ends, blanks at the end of a line and empty lines at the end are forgiven; the order and
    the number of lines and of words are not. Numbers are compared as text, unless `tolerance` is
    given: then words that are decimal numbers may differ by it, absolutely or relatively.
    """
    lines, wanted = _lines(printed.decode("utf-8", "surrogateescape")), _lines(expected)
    if tolerance is None or len(lines) != len(wanted):
        return lines == wanted
    return all(map(_close_line, lines, wanted, [tolerance] * len(lines)))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip(" \t\r") for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _close_line(line: str, wanted: str, tolerance: float) -> bool:
    words, expected = _TOKEN.findall(line), _TOKEN.findall(wanted)
    return len(words) == len(expected) and all(
        word == other or _close_words(word, other, tolerance)
        for word, other in zip(words, expected, strict=True)
    )


_DECIMAL = re.compile(r"[+-]?(\d{1,400}\.?\d{0,400}|\.\d{1,400})([eE][+-]?\d{1,4})?", re.ASCII)


def _close_words(word: str, other: str, tolerance: float) -> bool:
    if not (_DECIMAL.fullmatch(word) and _DECIMAL.fullmatch(other)):
        return False
    return math.isclose(float(word), float(other), rel_tol=tolerance, abs_tol=tolerance)


def size_of(expected: Any) -> int:
    """Return how many values are in `expected`, itself included."""
    count, pending = 0, [expected]
    while pending:
        item = pending.pop()
        count += 1
        if isinstance(item, dict):
            pending += [part for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
    return count


class _Parts:
    """A container as it was sent: never hashed, never asked for its `==`."""

    __slots__ = ("items", "tag")

    def __init__(self, tag: bytes, items: list[Any]) -> None:
        self.tag, self.items = tag, items


class _Opaque:
    """A value that is no plain data."""

    def __init__(self, name: str) -> None:
        self.name = name


def _make(tag: bytes, head: tuple[Any, ...], items: list[Any]) -> Any:
    if tag in (LIST, TUPLE, DICT, SET, FROZENSET):
        return _Parts(tag, items)
    if tag == VALUE and head == ("content",):
        return items[0]  # what a subclass of a builtin holds
    return _Opaque(str(head[0]) if head else "object")


def same_value(
    sent: bytes, expected: Any, tolerance: float | None = None, wrapped: bool = False
) -> bool:
    """Return whether the value that a program sent is the expected one.

    Types are compared exactly, with what JSON cannot tell apart forgiven: a tuple for a list, a
    number for an equal number (never `True` for 1), keys of a dict that JSON would have written
    as these strings. Floats may differ by rounding (1e-9 relative) or by `tolerance`. `wrapped`:
    `expected` is a list of one value, which is right by itself too. Raises Broken on garbage and
    on a value of more parts than are expected.
    """
    # A value in a subclass costs a part more; nothing that is longer than this can be right.
    value = decode(sent, _make, nodes=2 * size_of(expected) + 8)
    if _equal(value, expected, tolerance):
        return True
    return wrapped and _equal(value, expected[0], tolerance)


def _equal(value: Any, expected: Any, tolerance: float | None) -> bool:
    pairs = [(value, expected)]
    while pairs:
        value, expected = pairs.pop()
        if isinstance(expected, (list, tuple)):
            tags = (LIST, TUPLE) if isinstance(expected, list) else (TUPLE,)
            if not _is(value, tags, len(expected)):
                return False
            pairs += zip(value.items, expected, strict=True)
        elif isinstance(expected, dict):
            found = _by_key(value, expected)
            if found is None:
                return False
            pairs += found
        elif isinstance(expected, (set, frozenset)):
            if not _is(value, (SET, FROZENSET), len(expected)):
                return False
            if not _same_members(value.items, expected):
                return False
        elif not _equal_scalars(value, expected, tolerance):
            return False
    return True


def _is(value: Any, tags: tuple[bytes, ...], size: int) -> bool:
    return isinstance(value, _Parts) and value.tag in tags and len(value.items) == size


def _same_members(items: list[Any], expected: set[Any] | frozenset[Any]) -> bool:
    # Only the expected members are ever put into a table: made-up hashes cannot slow it down.
    wanted = {_typed(member) for member in expected}
    found = set()
    for item in items:
        key = _key(item)
        if key is None or _typed(key[0]) not in wanted:
            return False
        found.add(_typed(key[0]))
    return len(found) == len(wanted)


def _by_key(value: Any, expected: dict[Any, Any]) -> list[tuple[Any, Any]] | None:
    """Return each value with the expected one of its key; None where the keys differ."""
    if not _is(value, (DICT,), 2 * len(expected)):
        return None
    exact = {_typed(key): item for key, item in expected.items()}
    found: dict[Any, tuple[Any, Any]] = {}
    for key, item in zip(value.items[::2], value.items[1::2], strict=True):
        plain = _key(key)
        if plain is None:
            return None
        name = _typed(plain[0])
        if name not in exact and (written := _as_json_key(plain[0])) is not None:
            name = _typed(written)
        if name not in exact or name in found:
            return None
        found[name] = item, exact[name]
    return list(found.values())


def _typed(key: Any) -> tuple[bool, Any]:
    return isinstance(key, bool), key


def _as_json_key(key: Any) -> str | None:
    """Return the string that JSON writes for a key; `str` of a huge integer would raise."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int) and key.bit_length() < 10_000:
        return str(key)
    return repr(key) if isinstance(key, float) else None


def _key(value: Any) -> tuple[Any] | None:
    """Return a key, or an item of a set, as Python's own value; None where it is none."""
    if isinstance(value, _Opaque):
        return None
    if not isinstance(value, _Parts):
        return (value,) if not isinstance(value, bytearray) else None
    if value.tag not in (TUPLE, FROZENSET):
        return None
    built = _build(value, 0)
    if built is None or too_deep(built):
        return None
    return (built,)


def _build(value: _Parts, depth: int) -> Any:
    parts = []
    for item in value.items:
        if isinstance(item, _Parts):
            if depth > 50 or item.tag not in (TUPLE, FROZENSET):
                return None
            item = _build(item, depth + 1)
            if item is None:
                return None
        elif isinstance(item, (_Opaque, bytearray)):
            return None
        parts.append(item)
    return tuple(parts) if value.tag == TUPLE else frozenset(parts)


def _equal_scalars(value: Any, expected: Any, tolerance: float | None) -> bool:
    if isinstance(expected, (bool, str, bytes, bytearray)) or expected is None:
        return type(value) is type(expected) and value == expected
    if type(value) is complex or type(expected) is complex:
        return type(value) is type(expected) and _close_complex(value, expected, tolerance)
    if type(value) not in (int, float):
        return False
    if value == expected or (value != value and expected != expected):
        return True
    if tolerance is None and int in (type(value), type(expected)):
        return False
    return _close(value, expected, tolerance)


def _close(value: float, expected: float, tolerance: float | None) -> bool:
    relative = absolute = tolerance
    if relative is None or absolute is None:
        relative, absolute = _ROUNDING, 0.0 if expected else _ZERO
    try:
        return math.isclose(value, expected, rel_tol=relative, abs_tol=absolute)
    except OverflowError:  # an integer beyond every float
        return False


def _close_complex(value: complex, expected: complex, tolerance: float | None) -> bool:
    return all(
        one == other or (one != one and other != other) or _close(one, other, tolerance)
        for one, other in ((value.real, expected.real), (value.imag, expected.imag))
    )
