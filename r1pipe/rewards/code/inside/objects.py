"""Carries out what the other side asks of the objects that were lent to it."""

from __future__ import annotations

from . import values
from .operators import OPERATORS
from .peer import describe
from .sharing import MUTABLE, Shared

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


served = Shared()
"""What the other side gave or was given and still uses."""


def numbered(value: Any, number: int) -> tuple[Any, int | None]:
    """Return a value with its number if it is a container; the other side may have it already."""
    if type(value) not in MUTABLE:
        return value, None
    known = served.number_of(value)
    if known is not None:
        return None, known
    served.hold(number, value)
    return value, number


def call(
    function: Any, given: list[Any], names: list[str], numbers: list[int | None], number: int
) -> tuple[Any, int | None]:
    """Call with arguments of which the last ones have names; known containers by their number."""
    values_: list[Any] = []
    for value, known in zip(given, numbers, strict=True):
        if known is not None and known in served:
            value = served.get(known)
        elif known is not None:
            served.hold(known, value)
        values_.append(value)
    split = len(values_) - len(names)
    named = dict(zip(names, values_[split:], strict=True))
    return numbered(function(*values_[:split], **named), number)


def synchronised(serve: Callable[[str, Sequence[Any]], Any], operands: Sequence[Any]) -> Any:
    """Take over what was done to shared containers, answer, and tell what was done to them."""
    live, changes, operation, *rest = operands
    served.apply(changes)
    served.keep(live)
    return serve(operation, rest), served.changes()


def _operate(name: str, target: Any, *operands: Any) -> Any:
    if name not in OPERATORS:
        raise AttributeError(name)
    if name == "__contains__":  # which an object may only be able to by being iterated
        return operands[0] in target
    method = getattr(type(target), name)
    return method(target, *operands)


def _copy(target: Any, deep: bool) -> Any:
    import copy

    return copy.deepcopy(target) if deep else copy.copy(target)


def _run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": call,
    "getattr": lambda target, name, number: numbered(getattr(target, name), number),
    "setattr": setattr,
    "delattr": delattr,
    "operate": _operate,
    "class": lambda number: describe(number, OPERATORS),
    "content": lambda target: values.content(target, mutable=True),
    "repr": repr,
    "str": str,
    "hash": hash,
    "list": list,
    "dir": dir,
    "copy": _copy,
    "send": lambda generator, value: generator.send(value),
    "run": _run,
}
