"""Lists the elements of a set that a condition on whole numbers makes finite."""

from __future__ import annotations

import math
from fractions import Fraction

from r1pipe.rewards.mathematics.equations import assignment, at_value
from r1pipe.rewards.mathematics.evaluation import exact
from r1pipe.rewards.mathematics.nodes import Node, names_in, num
from r1pipe.rewards.mathematics.realsets import real_set

MAX_ELEMENTS = 200


def listed(node: Node) -> Node:
    r"""Return the set `{2, 4}` for `\{2k \mid 1 \le k \le 2, k \in \mathbb{Z}\}`, else `node`.

    The natural numbers need a lower bound of their own, since 0 may belong to them or not.
    """
    if node.op != "builder":
        return node
    bound, condition = node.args
    conditions = list(condition.args) if condition.op == "list" else [condition]
    if condition.op == "list" and "or" in condition.value:
        return node
    if bound.op == "rel" and bound.value == ("in",):
        conditions.append(bound)
        bound = bound.args[0]
    if bound.op == "sym":
        defined = [one for one in conditions if (split := assignment(one)) and split[0] == bound]
        if len(defined) == 1 and (split := assignment(defined[0])) is not None:
            bound = split[1]
            conditions.remove(defined[0])
    names = names_in(bound)
    if len(names) != 1:
        return node
    (name,) = names
    numbers = _whole_numbers(name, conditions)
    if not numbers:
        return node
    return Node("seq", tuple(_at(bound, name, value) for value in numbers), "{}")


def _whole_numbers(name: str, conditions: list[Node]) -> list[int] | None:
    kinds: set[str] = set()
    ranges: list[Node] = []
    for one in conditions:
        if names_in(one) != {name}:
            return None
        if one.op == "rel" and one.value == ("in",) and one.args[1].op == "set":
            kinds.add(str(one.args[1].value))
        else:
            ranges.append(one)
    if len(ranges) != 1 or len(kinds) != 1 or not kinds <= {"Z", "N"}:
        return None
    found = real_set(ranges[0])
    if found is None or len(found.pieces) != 1:
        return None
    (piece,) = found.pieces
    if piece.low is None or piece.high is None or (kinds == {"N"} and piece.low < 0):
        return None
    if not (isinstance(piece.low, Fraction) and isinstance(piece.high, Fraction)):
        return None
    if piece.high - piece.low > MAX_ELEMENTS:
        return None
    return [
        value
        for value in range(math.ceil(piece.low), math.floor(piece.high) + 1)
        if (piece.low_closed or value != piece.low) and (piece.high_closed or value != piece.high)
    ]


def _at(node: Node, name: str, value: int) -> Node:
    there = at_value(node, name, value)
    known = exact(there)
    return there if known is None else num(known)
