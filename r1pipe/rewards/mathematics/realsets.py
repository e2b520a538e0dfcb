"""Sets of real numbers: intervals, inequalities, finite sets, their unions and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key
from typing import Any

from r1pipe.rewards.mathematics.equations import at_value
from r1pipe.rewards.mathematics.evaluation import agree, context, is_real, value_of
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in

_INTERVALS = {"()": (False, False), "[]": (True, True), "(]": (False, True), "[)": (True, False),
              "][": (False, False), "]]": (False, True), "[[": (True, False)}  # fmt: skip
_INFINITY = "oo"
_REVERSED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


@dataclass(frozen=True)
class Piece:
    """An interval; an end is None where there is none."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


@dataclass(frozen=True)
class RealSet:
    """Disjoint pieces in order, and the variable they were written for, if any."""

    pieces: tuple[Piece, ...]
    variable: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RealSet) or len(self.pieces) != len(other.pieces):
            return False
        if self.variable and other.variable and self.variable != other.variable:
            return False
        return all(map(_same_piece, self.pieces, other.pieces))


def _same_piece(one: Piece, other: Piece) -> bool:
    if (one.low_closed, one.high_closed) != (other.low_closed, other.high_closed):
        return False
    return _same_end(one.low, other.low) and _same_end(one.high, other.high)


def _same_end(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return agree(one, other)


def _order(one: Any, other: Any) -> int:
    if agree(one, other):
        return 0
    if not (isinstance(one, Fraction) and isinstance(other, Fraction)):
        own = context()
        one, other = (own.re(_float(side)) for side in (one, other))
    return -1 if one < other else 1


def _float(value: Any) -> Any:
    if isinstance(value, Fraction):
        return context().mpf(value.numerator) / value.denominator
    return value


def _low_order(one: Piece, other: Piece) -> int:
    if one.low is None or other.low is None:
        return (other.low is None) - (one.low is None)
    return _order(one.low, other.low) or other.low_closed - one.low_closed


def union(sets: Sequence[RealSet]) -> RealSet:
    """Return the union, with touching pieces joined."""
    pieces = sorted((piece for one in sets for piece in one.pieces), key=cmp_to_key(_low_order))
    joined: list[Piece] = []
    for piece in pieces:
        if not joined or not _touch(joined[-1], piece):
            joined.append(piece)
            continue
        last = joined[-1]
        high, closed = last.high, last.high_closed
        if high is not None:
            order = 1 if piece.high is None else _order(piece.high, high)
            if order > 0:
                high, closed = piece.high, piece.high_closed
            elif order == 0:
                closed = closed or piece.high_closed
        joined[-1] = Piece(last.low, last.low_closed, high, closed)
    return RealSet(tuple(joined), _variable(sets))


def _variable(sets: Sequence[RealSet]) -> str | None:
    names = {one.variable for one in sets if one.variable}
    if len(names) > 1:
        raise Unreadable("sets of different variables")
    return names.pop() if names else None


def _touch(one: Piece, other: Piece) -> bool:
    """True where `other`, which starts no earlier, leaves no gap after `one`."""
    if one.high is None or other.low is None:
        return True
    order = _order(other.low, one.high)
    return order < 0 or (order == 0 and (one.high_closed or other.low_closed))


def complement(one: RealSet) -> RealSet:
    """Return all real numbers that are not in the set."""
    pieces: list[Piece] = []
    low, low_closed = None, False
    for piece in one.pieces:
        if piece.low is not None:
            pieces.append(Piece(low, low_closed, piece.low, not piece.low_closed))
        low, low_closed = piece.high, not piece.high_closed
        if low is None:
            break
    else:
        pieces.append(Piece(low, low_closed, None, False))
    return RealSet(tuple(piece for piece in pieces if not _is_void(piece)), one.variable)


def _is_void(piece: Piece) -> bool:
    if piece.low is None or piece.high is None:
        return False
    order = _order(piece.low, piece.high)
    return order > 0 or (order == 0 and not (piece.low_closed and piece.high_closed))


def intersection(sets: Sequence[RealSet]) -> RealSet:
    """Return the intersection."""
    return complement(union([complement(one) for one in sets]))


ALL = RealSet((Piece(None, False, None, False),))
NONE = RealSet(())


def real_set(node: Node) -> RealSet | None:
    """Return the set of real numbers that a node writes, None where it writes none."""
    try:
        return _set(node)
    except Unreadable:
        return None


def _set(node: Node) -> RealSet:
    if node.op == "set":
        if node.value in ("R", "empty"):
            return ALL if node.value == "R" else NONE
    elif node.op == "seq":
        return _finite(node) if node.value == "{}" else _interval(node)
    elif node.op == "union":
        return union([_set(arg) for arg in node.args])
    elif node.op == "inter":
        return intersection([_set(arg) for arg in node.args])
    elif node.op == "minus":
        return intersection([_set(node.args[0]), complement(_set(node.args[1]))])
    elif node.op == "rel":
        return _relation(node)
    elif node.op == "list":
        return _combination(node)
    elif node.op == "builder":
        return _builder(node)
    raise Unreadable("no set of real numbers")


def _end(node: Node) -> Any:
    """Return the value of an end of an interval; None for an infinite one."""
    if names_in(node):
        raise Unreadable("an end with a variable")
    value = value_of(node)
    if not is_real(value):
        raise Unreadable("a complex end")
    return value


def _infinite(node: Node) -> int:
    sign, node = (-1, node.args[0]) if node.op == "neg" else (1, node)
    return sign if node.op == "const" and node.value == _INFINITY else 0


def _interval(node: Node) -> RealSet:
    if len(node.args) != 2 or node.value not in _INTERVALS:
        raise Unreadable("no interval")
    low_closed, high_closed = _INTERVALS[node.value]
    low, high = node.args
    if _infinite(low) > 0 or _infinite(high) < 0:
        raise Unreadable("infinity on the wrong side")
    if (_infinite(low) and low_closed) or (_infinite(high) and high_closed):
        raise Unreadable("a closed infinite end")
    piece = Piece(
        None if _infinite(low) else _end(low), low_closed,
        None if _infinite(high) else _end(high), high_closed,
    )  # fmt: skip
    if _is_void(piece):
        raise Unreadable("an interval that ends before it starts")
    return RealSet((piece,))


def _finite(node: Node) -> RealSet:
    values = [_end(arg) for arg in node.args]
    return union([RealSet((Piece(value, True, value, True),)) for value in values])


def _name(node: Node) -> str | None:
    return node.value if node.op == "sym" else None


def _relation(node: Node) -> RealSet:
    """Read an inequality that says something of one variable alone."""
    items, signs = list(node.args), list(node.value)
    if signs == ["in"]:
        inner, name = _set(items[1]), _name(items[0])
        if name is None:
            raise Unreadable("no variable")
        return RealSet(inner.pieces, name)
    distance = _distance(items, signs)
    if distance is not None:
        return distance
    names = [name for item in items if (name := _name(item))]
    if len(names) != 1 or "in" in signs:
        raise Unreadable("not solved for one variable")
    place = next(index for index, item in enumerate(items) if _name(item))
    parts: list[RealSet] = []
    for index, sign in enumerate(signs):
        if index + 1 == place:
            sign, other = _REVERSED[sign], items[index]
        elif index == place:
            other = items[index + 1]
        else:
            raise Unreadable("a chain that leaves its variable")
        parts.append(_half_line(sign, other))
    directions = {sign.rstrip("=") for sign in signs}
    if len(signs) > 1 and directions not in ({"<"}, {">"}):
        raise Unreadable("a chain in two directions")
    return RealSet(intersection(parts).pieces, names[0])


def _distance(items: list[Node], signs: list[str]) -> RealSet | None:
    """Read `|x - 2| < 3`; None for another inequality, and for `|2x| < 6`, which is unsolved."""
    if len(items) != 2 or {items[0].op, items[1].op} & {"abs"} != {"abs"}:
        return None
    (sign,) = signs
    if items[1].op == "abs":
        items, sign = items[::-1], _REVERSED.get(sign, "")
    names = names_in(items[0])
    if sign not in ("<", "<=", ">", ">=") or len(names) != 1 or names & {"z", "w"}:
        # |z| < 3 is a disc where z is a complex number.
        return None
    (name,), inside, size = names, items[0].args[0], _end(items[1])
    start, first, third = (value_of(at_value(inside, name, turn)) for turn in (0, 1, 3))
    if not agree(third - start, 3 * (first - start)) or not agree(abs(first - start), Fraction(1)):
        return None
    if _order(size, Fraction(0)) <= 0:
        return None
    middle = -start * (first - start)
    closed = sign.endswith("=")
    near = RealSet((Piece(middle - size, closed, middle + size, closed),), name)
    if sign[0] == "<":
        return near
    inner = RealSet((Piece(middle - size, not closed, middle + size, not closed),), name)
    return RealSet(complement(inner).pieces, name)


def _half_line(sign: str, node: Node) -> RealSet:
    if _infinite(node):
        if (sign == "<" and _infinite(node) > 0) or (sign == ">" and _infinite(node) < 0):
            return ALL
        raise Unreadable("compared with infinity")
    value = _end(node)
    point = RealSet((Piece(value, True, value, True),))
    if sign == "=":
        return point
    if sign == "!=":
        return complement(point)
    if sign[0] == "<":
        return RealSet((Piece(None, False, value, sign == "<="),))
    return RealSet((Piece(value, sign == ">=", None, False),))


def _combination(node: Node) -> RealSet:
    """Read relations joined by `or` (union) or by `and` and commas (intersection)."""
    if not any(item.op == "rel" for item in node.args):
        raise Unreadable("a list of values")
    variable = None
    parts: list[RealSet] = []
    for item in node.args:
        if item.op == "rel":
            one = _relation(item)
            variable = one.variable
        else:
            # `x = 1 or 2`, `x ≠ 1, 2`: the relation before goes on.
            previous = node.args[len(parts) - 1]
            if previous.op != "rel" or previous.value not in (("=",), ("!=",)) or not variable:
                raise Unreadable("a list of values")
            one = RealSet(_half_line(previous.value[0], item).pieces, variable)
        parts.append(one)
    joints = set(node.value)
    if joints == {"or"}:
        return union(parts)
    if "or" in joints:
        raise Unreadable("`and` and `or` without brackets")
    both = intersection(parts)
    both = RealSet(both.pieces, _variable(parts))
    # "x < 1, x > 2" cannot mean both at once.
    return union(parts) if not both.pieces and "and" not in joints else both


def _builder(node: Node) -> RealSet:
    bound, condition = node.args
    name = _name(bound)
    conditions = [condition]
    if bound.op == "rel" and bound.value == ("in",):
        name = _name(bound.args[0])
        conditions.append(bound)
    if name is None:
        raise Unreadable("no bound variable")
    sets = [_set(one) for one in conditions]
    if any(one.variable not in (None, name) for one in sets):
        raise Unreadable("a condition on something else")
    return RealSet(intersection(sets).pieces)
