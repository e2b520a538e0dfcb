"""Asks the other side on behalf of its stand-ins; containers that both hold are kept alike."""

from __future__ import annotations

from itertools import count

from .sharing import MUTABLE, Shared
from .wire import Broken

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .peer import Peer

_peers: list[Peer] = []

before_call: Callable[[], Any] = lambda: None  # noqa: E731
after_call: Callable[[], Any] = lambda: None  # noqa: E731
"""What to do around a call of the other side; set by the tests' side."""

_shared = Shared()
"""What this side gave or was given and still uses."""
_numbers = count()


def connect(peer: Peer) -> None:
    """Ask this one from now on: a process has one channel."""
    _peers[:] = [peer]


def peer() -> Peer:
    """Return this end of the channel."""
    return _peers[0]


def ask(operation: str, *operands: Any) -> Any:
    """Return the answer to one question; shared containers are made alike on the way."""
    asked = peer()
    with asked.lock:
        if not _shared.told:
            return asked.ask(operation, *operands)
        changes = _shared.changes()  # of what is let go as well: `f(x).append(1)`
        _shared.let_go()
        live = list(_shared)
        _shared.told = bool(live)
        answer = asked.ask("sync", live, changes, operation, *operands)
        try:
            value, changes = answer
            _shared.apply(changes)
        except (TypeError, ValueError):
            raise Broken("garbage on the channel") from None
        return value


def returned(answer: Any) -> Any:
    """Return a value that came with its number, as the container it is here if it is one."""
    if type(answer) is not tuple or len(answer) != 2:
        raise Broken("garbage on the channel")
    value, number = answer
    if number is None:
        return value
    if number in _shared:
        return _shared.get(number)
    if type(number) is not int or type(value) not in MUTABLE:
        raise Broken("a container that is none")
    _shared.hold(number, value)
    return value


def fetch(operation: str, *operands: Any) -> Any:
    """Ask for a value; a container stays the other side's own: `node.children.append(x)`."""
    with peer().lock:
        return returned(ask(operation, *operands, next(_numbers)))


def call(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call what the other side holds; what it did to lists, dicts and sets is done to ours."""
    before_call()
    with peer().lock:
        given: list[Any] = []
        numbers: list[int | None] = []
        for value in (*args, *kwargs.values()):
            number = _shared.number_of(value) if type(value) in MUTABLE else None
            given.append(value if number is None else None)
            if number is None and type(value) in MUTABLE:
                number = next(_numbers)
                _shared.hold(number, value)
            numbers.append(number)
        value = fetch("call", function, given, list(kwargs), numbers)
    after_call()
    return value
