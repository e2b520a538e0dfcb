"""The tree that an answer is read into."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class Unreadable(ValueError):
    """A text that the grammar does not read; for an answer that means wrong."""


class BadGold(ValueError):
    """A gold answer that cannot be read: the row is at fault, not the model."""


@dataclass(frozen=True)
class Node:
    """One operation: its name, its operands, and a value where the name does not say all.

    Scalars: num (value: Fraction), sym (name), const (pi, e, i, oo), neg, add, mul, div (value:
    how it was written), pow, root (radicand, degree), pm, mp, fact, abs, floor, ceil, func (name),
    apply (an unknown function's name), mod, percent, degree, base (value: digits, base),
    scientific (value: Fraction), quantity (value: Unit).
    Others: seq (value: opening and closing bracket), list (value: how the items were joined), rel
    (value: the relation signs), union, inter, minus, matrix (value: row length), set (a named
    set), builder (bound part, condition), congruence (items, then the modulus), ratio, word
    (text), opaque (text that is only compared letter by letter).
    """

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None


def num(value: int | Fraction) -> Node:
    """Return the node of an exact number."""
    return Node("num", (), Fraction(value))


def walk(node: Node) -> list[Node]:
    """Return `node` and everything under it."""
    found, waiting = [], [node]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting.extend(one.args)
    return found


def names_in(node: Node) -> frozenset[str]:
    """Return the variables that occur in `node`."""
    return frozenset(one.value for one in walk(node) if one.op in ("sym", "apply"))
