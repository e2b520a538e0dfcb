"""Lists, dicts and sets that both sides hold: they cross by value and are kept alike after that."""

from __future__ import annotations

from sys import getrefcount

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FLAT = frozenset((type(None), bool, int, float, str, bytes, tuple))
MUTABLE = (list, dict, set, bytearray)
_MOST = 100
_UNUSED = 2
"""References to a container that nobody but `Shared` holds: its own, and that of the question."""


class Shared:
    """Containers by the number that the other side knows them by, and as they were last sent."""

    def __init__(self) -> None:
        self._held: dict[int, list[Any]] = {}
        self.told = False  # the other side may hold numbers of ours

    def __contains__(self, number: object) -> bool:
        return number in self._held

    def __iter__(self) -> Any:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def number_of(self, value: Any) -> int | None:
        """Return the number of a container, by identity."""
        return next((n for n, entry in self._held.items() if entry[0] is value), None)

    def hold(self, number: int, value: Any) -> None:
        self._held[number] = [value, snapshot(value)]
        self.told = True

    def get(self, number: int) -> Any:
        return self._held[number][0]

    def let_go(self) -> None:
        """Forget what nobody here uses any more, and the oldest of too many."""
        for number in list(self._held):
            if getrefcount(self._held[number][0]) <= _UNUSED:
                del self._held[number]
        for number in list(self._held)[: max(0, len(self._held) - _MOST)]:
            del self._held[number]

    def keep(self, numbers: Iterable[int]) -> None:
        """Forget what the other side has forgotten."""
        for number in set(self._held) - set(numbers):
            del self._held[number]

    def changes(self) -> list[tuple[int, Any]]:
        """Return what is no longer as it was sent, by number."""
        found = []
        for number, entry in self._held.items():
            if not alike(*entry):
                entry[1] = snapshot(entry[0])
                found.append((number, entry[0]))
        return found

    def apply(self, changes: Iterable[tuple[int, Any]]) -> None:
        """Do here what was done there."""
        for number, now in changes:
            if number in self._held:
                entry = self._held[number]
                update(entry[0], now)
                entry[1] = snapshot(entry[0])


def alike(now: Any, then: Any) -> bool:
    """Compare by type and value without asking an `==` of the program's objects."""
    pairs = [(now, then)]
    while pairs:
        one, other = pairs.pop()
        if one is other:
            continue
        if type(one) is not type(other):
            return False
        if type(one) in (list, tuple, dict):
            if len(one) != len(other):
                return False
            if type(one) is dict:
                one, other = (_flat(value) for value in (one, other))
            pairs += [pair for pair in zip(one, other, strict=True) if pair[0] is not pair[1]]
        elif type(one) in (set, frozenset, bytearray, int, float, str, bytes, complex, bool):
            if one != other:
                return False
        else:
            return False
    return True


def _flat(value: dict[Any, Any]) -> list[Any]:
    return [part for item in value.items() for part in item]


def snapshot(value: Any, depth: int = 0) -> Any:
    """Return a copy that later changes of `value` do not reach."""
    if type(value) is list and depth < 50 and not _FLAT.issuperset(map(type, value)):
        return [snapshot(part, depth + 1) for part in value]
    if type(value) is dict and depth < 50:
        return {key: snapshot(part, depth + 1) for key, part in value.items()}
    return value.copy() if type(value) in MUTABLE else value


def update(mine: Any, now: Any) -> None:
    """Give a container its new content; keeps the containers inside it the same objects."""
    if type(mine) is not type(now) or type(mine) not in MUTABLE:
        raise TypeError("a container cannot become one of another type")
    if type(mine) is list:
        kept = zip(mine, now, strict=False)
        mine[:] = [_kept(old, new) for old, new in kept] + now[len(mine) :]
    elif type(mine) is dict:
        fresh = {key: _kept(mine.get(key), new) for key, new in now.items()}
        mine.clear()
        mine.update(fresh)
    elif type(mine) is set:
        mine.clear()
        mine.update(now)
    else:
        mine[:] = now


def _kept(old: Any, new: Any) -> Any:
    if type(old) is type(new) and type(old) in MUTABLE:
        update(old, new)
        return old
    return new
