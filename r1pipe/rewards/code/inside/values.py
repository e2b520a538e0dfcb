"""Value classes of the standard library that cross a channel by value, and builtins by name."""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TO_PLAIN: dict[tuple[str, str], Callable[[Any], tuple[Any, ...]]] = {
    ("decimal", "Decimal"): lambda value: (str(value),),
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("datetime", "datetime"): lambda value: (value.isoformat(), value.fold),
    ("datetime", "date"): lambda value: (value.isoformat(),),
    ("datetime", "time"): lambda value: (value.isoformat(),),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("collections", "deque"): lambda value: (list(value), value.maxlen),
    ("collections", "Counter"): lambda value: (dict(value),),
    ("collections", "OrderedDict"): lambda value: (list(value.items()),),
    ("collections", "defaultdict"): lambda value: (dict(value),),
    ("builtins", "range"): lambda value: (value.start, value.stop, value.step),
    ("builtins", "slice"): lambda value: (value.start, value.stop, value.step),
    ("builtins", "ellipsis"): lambda value: (),
    ("builtins", "NotImplementedType"): lambda value: (),
    ("uuid", "UUID"): lambda value: (value.int,),
    ("numpy", "ndarray"): lambda value: (value.dtype.str, list(value.shape), value.tobytes()),
    ("pathlib", "PosixPath"): lambda value: (str(value),),
    ("pathlib", "PurePosixPath"): lambda value: (str(value),),
}


def _from_isoformat(name: str) -> Callable[..., Any]:
    def build(text: str, fold: int = 0) -> Any:
        import datetime

        value = getattr(datetime, name).fromisoformat(text)
        return value.replace(fold=fold) if fold else value

    return build


def _in_module(module: str, name: str) -> Callable[..., Any]:
    def build(*parts: Any) -> Any:
        __import__(module)
        return getattr(sys.modules[module], name)(*parts)

    return build


def _default_dict(items: dict[Any, Any]) -> Any:
    from collections import defaultdict

    return defaultdict(None, items)


def _array(kind: str, shape: list[int], data: bytes) -> Any:
    if kind[1:2] not in "biufc" or not kind[2:].isdigit():
        raise ValueError(kind)
    import numpy

    return numpy.frombuffer(data, kind).reshape(shape).copy()


def _uuid(number: int) -> Any:
    from uuid import UUID

    return UUID(int=number)


_FROM_PLAIN: dict[str, Callable[..., Any]] = {
    **{name: _in_module(module, name) for module, name in _TO_PLAIN if module != "builtins"},
    **{name: _from_isoformat(name) for name in ("datetime", "date", "time")},
    "defaultdict": _default_dict,
    "UUID": _uuid,
    "ndarray": _array,
    "numpy scalar": lambda *parts: _array(*parts)[()],
    "range": range,
    "slice": slice,
    "ellipsis": lambda: ...,
    "NotImplementedType": lambda: NotImplemented,
}


def to_parts(value: Any) -> tuple[str, tuple[Any, ...]] | None:
    """Return the name and the plain parts of an instance of a value class, else None."""
    kind = type(value)
    write = _TO_PLAIN.get((kind.__module__, kind.__qualname__))
    if write is not None and _is_the_real(kind):
        return kind.__qualname__, write(value)
    if kind.__module__ == "numpy" and is_number_of_numpy(kind):
        return "numpy scalar", (value.dtype.str, [], value.tobytes())
    if isinstance(value, BaseException) and getattr(builtins, kind.__name__, None) is kind:
        return f"error {kind.__name__}", (list(value.args), value.__cause__)
    return None


def is_number_of_numpy(kind: type) -> bool:
    """Return whether a class is one of numpy's own scalars."""
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    return isinstance(generic, type) and issubclass(kind, generic) and kind.__module__ == "numpy"


def _is_the_real(kind: type) -> bool:
    if kind.__module__ == "builtins":
        return True
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def from_parts(name: str, parts: Any) -> Any:
    """Return the instance that `to_parts` took apart; raises ValueError for anything else."""
    try:
        if name.startswith("error "):
            return _exception(name[6:], *parts)
        return _FROM_PLAIN[name](*parts)
    except Exception as error:
        raise ValueError(f"no such value: {error}") from None


def _exception(name: str, arguments: list[Any], cause: Any) -> BaseException:
    kind = getattr(builtins, name)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise ValueError(name)
    try:
        made = kind(*arguments)
    except TypeError:  # UnicodeDecodeError and ExceptionGroup take certain arguments only
        made = kind.__new__(kind)
        made.args = tuple(arguments)
    if cause is not None:
        made.__cause__ = cause
    return made


_NOT_BY_NAME = frozenset(
    (
        *("__import__", "compile", "eval", "exec", "exit", "quit", "breakpoint"),
        *("getattr", "setattr", "delattr", "globals", "locals", "vars", "super"),
        *("input", "open", "print"),
    )
)
_NAMED = (type, type(len), type(str.upper))
_MODULES = ("builtins", "operator", "_operator", "math")


def name_of(value: Any) -> str | None:
    """Return `module:name` of a builtin type or pure function that both sides have, else None."""
    if not issubclass(type(value), _NAMED):  # an object of a program may answer anything
        return None
    owner = getattr(value, "__objclass__", None)
    module = getattr(owner or value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if module not in _MODULES or not isinstance(name, str):
        return None
    return f"{module}:{name}" if find(f"{module}:{name}") is value else None


def find(name: str) -> Any:
    """Return the builtin of that name; None where it is none that may be named."""
    module, _, path = name.partition(":")
    if module not in _MODULES or path.split(".")[0] in _NOT_BY_NAME or path.count(".") > 1:
        return None
    if any(part.startswith("_") for part in path.split(".")):
        return None
    found: Any = __import__(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else None


_CONTENT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda value: int.__add__(value, 0)),
    (float, float.__pos__),
    (complex, complex.__pos__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)
_MUTABLE_CONTENT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (list, lambda value: list(list.__iter__(value))),
    (dict, lambda value: {key: dict.__getitem__(value, key) for key in dict.__iter__(value)}),
    (set, lambda value: set(set.__iter__(value))),
    (bytearray, lambda value: bytearray(bytearray.__iter__(value))),
)
IMMUTABLE = tuple(base for base, _ in _CONTENT)
MUTABLE = tuple(base for base, _ in _MUTABLE_CONTENT)


def content(value: Any, mutable: bool) -> Any:
    """Return what a subclass of a builtin holds, asking the builtin and not the subclass.

    None where it is no such subclass: an overridden `==` or `__iter__` has no say in its content.
    """
    for base, take in _MUTABLE_CONTENT if mutable else _CONTENT:
        if isinstance(value, base):
            return take(value)
    return None
