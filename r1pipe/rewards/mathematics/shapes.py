"""What a tree says as a list of values, as assignments, as rows, or with `±` written out."""

from __future__ import annotations

from collections.abc import Sequence

from r1pipe.rewards.mathematics.equations import assignment, ends_of_chain
from r1pipe.rewards.mathematics.evaluation import exact, identical
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, num, walk
from r1pipe.rewards.mathematics.scalars import is_value

MAX_ITEMS = 200
"""Sets are compared item by item, so their number is limited."""


def has_choice_of_signs(node: Node) -> bool:
    return any(one.op in ("pm", "mp") for one in walk(node))


def signs_chosen(node: Node) -> list[Node]:
    """Return the two expressions that `±` stands for."""
    return [_with_sign(node, upper=True), _with_sign(node, upper=False)]


def _with_sign(node: Node, upper: bool) -> Node:
    if node.op in ("pm", "mp"):
        left, right = (_with_sign(arg, upper) for arg in node.args)
        if (node.op == "pm") != upper:
            right = Node("neg", (right,))
        return right if left.op == "num" and left.value == 0 else Node("add", (left, right))
    if not node.args:
        return node
    return Node(node.op, tuple(_with_sign(arg, upper) for arg in node.args), node.value)


def solutions_of(node: Node) -> Node:
    """Return a list of points for `x=1, y=2 or x=2, y=1`, a list for `{x=1, y=2}`, else `node`."""
    if node.op == "seq" and node.value == "{}" and all(arg.op == "rel" for arg in node.args):
        node = Node("list", node.args, (",",) * (len(node.args) - 1))
    if node.op != "list" or "or" not in node.value or set(node.value) == {"or"}:
        return node
    groups: list[list[Node]] = [[node.args[0]]]
    for joint, item in zip(node.value, node.args[1:], strict=False):
        if joint == "or":
            groups.append([])
        groups[-1].append(item)
    points: list[Node] = []
    for group in groups:
        found = assignments_of(Node("list", tuple(group), (",",)))
        if found is None or len(found) != len(groups[0]):
            return node
        points.append(Node("seq", in_order_of_names(found), "()"))
    return Node("list", tuple(points), ("or",))


def in_order_of_names(found: dict[Node, Node]) -> tuple[Node, ...]:
    """Return the values of assignments in the order of their names: x before y."""
    return tuple(found[name] for name in sorted(found, key=lambda name: str(name.value)))


def values_of(node: Node) -> list[Node] | None:
    """Return the values of a bare list, with `±` written out and `x =` left out.

    None where the items name different things or hold false chains.
    """
    items = node.args if node.op == "list" else (node,)
    values: list[Node] = []
    names: set[str] = set()
    for item in items:
        if item.op == "rel":
            ends = ends_of_chain(item)
            named = assignment(item)
            if not ends or item.value[0] == "in":
                return None
            if named is not None:
                names.add(stem(named[0]))
            item = ends[0]
        if item.op == "rel" or item.op == "congruence":
            return None
        values += signs_chosen(item) if has_choice_of_signs(item) else [item]
    return values if len(names) <= 1 and len(values) <= MAX_ITEMS else None


def stem(name: Node) -> str:
    return str(name.value).partition("_")[0] if name.op == "sym" else repr(name)


def assignments_of(node: Node) -> dict[Node, Node] | None:
    """Return what a list of assignments, or `(x, y) = (1, 2)`, gives to each name."""
    items = node.args if node.op == "list" else (node,)
    found: dict[Node, Node] = {}
    if node.op == "list" and "or" in node.value:
        return None
    for item in items:
        if item.op == "rel" and len(item.args) > 2 and set(item.value) == {"="}:
            *names, value = item.args
            if not all(name.op == "sym" and name not in found for name in names):
                return None
            found |= dict.fromkeys(names, value)
            continue
        split = assignment(item)
        if split is None:
            return None
        name, value = split
        if name.op == "seq":
            if value.op != "seq" or len(value.args) != len(name.args) or value.value != "()":
                return None
            pairs = list(zip(name.args, value.args, strict=True))
        else:
            pairs = [(name, value)]
        for one, its_value in pairs:
            if one in found:
                return None
            found[one] = its_value
    return found


def with_signs_chosen(items: Sequence[Node]) -> list[Node]:
    expanded: list[Node] = []
    for item in items:
        expanded += signs_chosen(item) if has_choice_of_signs(item) else [item]
    return expanded


def flat_operands(node: Node) -> list[Node]:
    found, waiting = [], [node]
    while waiting:
        one = waiting.pop()
        if one.op == node.op:
            waiting.extend(one.args)
        else:
            found.append(one)
    return found


def conditions_of(node: Node) -> tuple[Node, list[Node]]:
    """Return the bound expression and the conditions, with the one variable renamed."""
    bound, condition = node.args
    conditions = list(condition.args) if condition.op == "list" else [condition]
    if bound.op == "rel" and bound.value == ("in",):
        conditions.append(bound)
        bound = bound.args[0]
    names = names_in(bound)
    if len(names) == 1:
        (name,) = names
        bound = _renamed(bound, name)
        conditions = [_renamed(one, name) for one in conditions]
    return bound, conditions


def _renamed(node: Node, name: str) -> Node:
    if node.op == "sym":
        return Node("sym", (), "bound") if node.value == name else node
    return Node(node.op, tuple(_renamed(arg, name) for arg in node.args), node.value)


def rows_of(node: Node) -> list[tuple[Node, ...]] | None:
    """Return the rows of a matrix, also of one written `[[1, 2], [3, 4]]`."""
    if node.op == "matrix":
        width = node.value
        return [node.args[at : at + width] for at in range(0, len(node.args), width)]
    if (
        node.op == "seq"
        and node.value in ("[]", "()")
        and all(arg.op == "seq" and arg.value in ("[]", "()") for arg in node.args)
    ):
        return [arg.args for arg in node.args]
    return None


def alike_brackets(answer: Node, gold: Node) -> bool:
    """True where two kinds of brackets may hold the same thing."""
    if answer.value == gold.value:
        return True
    kinds = {answer.value, gold.value}
    if kinds in ({"()", "]["}, {"(]", "]]"}, {"[)", "[["}):
        return True
    if kinds == {"()", "<>"}:
        return True
    # With two items these would be intervals.
    return kinds <= {"()", "[]", "<>"} and len(gold.args) > 2


def is_set_of_one(node: Node) -> bool:
    """True for a set with one element."""
    if node.op != "seq" or node.value != "{}" or len(node.args) != 1:
        return False
    (only,) = node.args
    return only.op != "set" and (only.op, only.value) != ("seq", "{}")


def mixed_number(node: Node) -> Node | None:
    """Return the number of `3 and 1/2`, None for other lists."""
    if node.value != ("and",) or [arg.op for arg in node.args] != ["num", "div"]:
        return None
    whole, part = (exact(arg) for arg in node.args)
    if whole is None or part is None or whole.denominator != 1 or not 0 < part < 1 <= whole:
        return None
    return num(whole + part)


_UNIT_VECTORS = ("i", "j", "k")


def components(node: Node) -> Node | None:
    """Return the tuple of `2i - j + 5k`, the column of `(1, 2)^T`; None for anything else."""
    if node.op == "pow" and node.args[0].op in ("seq", "matrix") and node.args[1].value == "T":
        rows = rows_of(node.args[0])
        if rows is None:
            return Node("matrix", node.args[0].args, 1)
        return Node("matrix", tuple(item for column in zip(*rows, strict=False) for item in column),
                    len(rows))  # fmt: skip
    if node.op != "add":
        return None
    vector = _with_unit_vectors(node)
    names = names_in(vector)
    if not {"i", "j"} <= names or not names <= set(_UNIT_VECTORS):
        return None
    size = 3 if "k" in names else 2
    numbers = [_combined(vector, [int(at == own) for at in range(3)]) for own in range(size)]
    weights = (2, 3, 5)[:size]
    total = Node(
        "add", tuple(Node("mul", (num(w), one)) for w, one in zip(weights, numbers, strict=True))
    )
    try:
        linear = identical(_combined(vector, [2, 3, 5]), total)
        linear = linear and identical(_combined(vector, [0, 0, 0]), num(0))
    except Unreadable:
        return None
    values = [exact(one) for one in numbers]
    numbers = [one if v is None else num(v) for one, v in zip(numbers, values, strict=True)]
    return Node("seq", tuple(numbers), "()") if linear else None


def _with_unit_vectors(node: Node) -> Node:
    name = str(node.value)
    if node.op == "const" and name == "i":
        return Node("sym", (), "i")
    if node.op == "sym" and name.rpartition(" ")[0] in ("hat", "vec", "widehat"):
        return Node("sym", (), name.rpartition(" ")[2])
    return Node(node.op, tuple(map(_with_unit_vectors, node.args)), node.value)


def _combined(node: Node, values: Sequence[int]) -> Node:
    if node.op == "sym":
        return num(values[_UNIT_VECTORS.index(node.value)])
    return Node(node.op, tuple(_combined(arg, values) for arg in node.args), node.value)


def carried_into(node: Node) -> Node:
    r"""Return `\\frac12 (2, 4)` and `\\frac12 A` of a matrix A with the factor in the entries."""
    if node.op in ("rel", "list"):
        return Node(node.op, tuple(map(carried_into, node.args)), node.value)
    if node.op == "neg" and (inner := carried_into(node.args[0])).op == "matrix":
        return Node("matrix", tuple(_times(num(-1), one) for one in inner.args), inner.value)
    if node.op == "div" and len(node.args) == 2 and _is_rows(node.args[0]):
        factor, rows = Node("div", (num(1), node.args[1]), "/"), node.args[0]
    elif node.op == "mul" and len(node.args) == 2:
        factor, rows = node.args[0], carried_into(node.args[1])
    else:
        return node
    named = bool(names_in(factor)) and (rows.op != "matrix" or node.value == "letters")
    if not _is_rows(rows) or named or factor.op in _NO_FACTORS:
        return node
    return Node(rows.op, tuple(_times(factor, one) for one in rows.args), rows.value)


_NO_FACTORS = frozenset(
    ["seq", "matrix", "list", "rel", "set", "word", "quantity", "percent", "apply", "pm", "mp"]
)


def _is_rows(node: Node) -> bool:
    return node.op == "matrix" or (node.op == "seq" and node.value in ("()", "<>"))


def _times(factor: Node, entry: Node) -> Node:
    if is_value(factor) and is_value(entry):
        one, other = exact(factor), exact(entry)
        if one is not None and other is not None:
            return num(one * other)
    return Node("mul", (factor, entry), "times")
