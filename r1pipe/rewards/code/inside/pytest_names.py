"""The few names of pytest that snippets of tests use: `raises`, `approx`, `fail`, `mark`."""

from __future__ import annotations

import math
import types

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

looked: Callable[[Any], Any] = lambda value: value  # noqa: E731
"""Told of every check made here; set by the tests' side."""


class _Raises:
    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected, self._match = expected, match
        self.value: BaseException | None = None
        self.type: type | None = None

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        if kind is None:
            raise AssertionError("nothing was raised")
        if not issubclass(kind, self._expected):
            return False
        if self._match is not None and not _found(self._match, str(error)):
            raise AssertionError("raised with another message")
        self.value, self.type = error, kind
        looked(None)
        return True


def _found(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def raises(
    expected: Any, function: Any = None, *args: Any, match: str | None = None, **kwargs: Any
) -> Any:
    """As `pytest.raises`, as a context or with the function to call."""
    context = _Raises(expected, match)
    if function is None:
        return context
    with context:
        function(*args, **kwargs)
    return context


class _Approx:
    def __init__(self, expected: Any, rel: float | None, abs_: float | None) -> None:
        self._expected, self._rel, self._abs = expected, rel, abs_

    def __eq__(self, actual: object) -> bool:
        return self._close(actual, self._expected)

    __hash__ = None  # type: ignore[assignment]

    def _close(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            same = isinstance(actual, dict) and actual.keys() == expected.keys()
            return same and all(self._close(actual[key], expected[key]) for key in expected)
        if isinstance(expected, (list, tuple)):
            same = isinstance(actual, (list, tuple)) and len(actual) == len(expected)
            return same and all(map(self._close, actual, expected))
        if isinstance(expected, bool) or not isinstance(expected, (int, float, complex)):
            return actual == expected
        if isinstance(actual, bool) or not isinstance(actual, (int, float, complex)):
            return False
        absolute = 1e-12 if self._abs is None else self._abs
        relative = (0.0 if self._abs is not None else 1e-6) if self._rel is None else self._rel
        if actual == expected:
            return True
        if isinstance(expected, complex) or isinstance(actual, complex):
            return abs(actual - expected) <= max(absolute, relative * abs(expected))
        return math.isfinite(expected) and abs(actual - expected) <= max(
            absolute, relative * abs(expected)
        )


def approx(expected: Any, rel: float | None = None, abs: float | None = None) -> Any:
    """As `pytest.approx`, for numbers and containers of numbers."""
    return _Approx(expected, rel, abs)


def fail(reason: str = "") -> None:
    """As `pytest.fail`."""
    raise AssertionError(reason)


class _Mark:
    def __getattr__(self, name: str) -> Callable[..., Any]:
        def decorate(*args: Any, **kwargs: Any) -> Any:
            return args[0] if len(args) == 1 and callable(args[0]) else lambda function: function

        return decorate


def module() -> types.ModuleType:
    """Return a module with these names."""
    made = types.ModuleType("pytest")
    vars(made).update(raises=raises, approx=approx, fail=fail, mark=_Mark())
    return made
