"""Reads chains of equalities and assignments, and compares equations and congruences."""

from __future__ import annotations

from r1pipe.rewards.mathematics.evaluation import cleared, exact, identical, proportional
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, num, walk
from r1pipe.rewards.mathematics.scalars import all_equal, is_value, peel, same_scalar

_STRUCTURED = frozenset(
    ["seq", "set", "matrix", "union", "inter", "minus", "builder", "list", "pm", "piecewise"]
)
_MIRROR = {">": "<", ">=": "<="}


def is_name(node: Node) -> bool:
    """True for what only names a result: `x`, `f(2)`, `AB`, `P(A)`, `the area`, `|v|`, `∠A`."""
    if node.op in ("sym", "apply", "word"):
        return True
    if node.op == "mul":
        first, rest = node.args[0], node.args[1:]
        if _is_derivation(first):
            return True
        if node.value == "letters" or str(rest[-1].value).startswith("angle "):
            return True
        called = first.op == "sym" and first.value[:1].isupper()
        inverse = first.op == "pow" and first.args[0].op == "sym" and first.args[1].op == "neg"
        called = called or inverse
        return (
            node.value == "implicit"
            and called
            and len(rest) == 1
            and (rest[0].op in ("sym", "num", "seq") or is_name(rest[0]))
        )
    if node.op == "div":
        # A derivative: dy/dx.
        return all(
            arg.op == "mul" and arg.value == "letters" and arg.args[0].value == "d"
            for arg in node.args
        )
    if node.op in ("union", "inter", "minus"):
        # A set made of named ones: A ∩ B.
        return all(arg.op == "sym" and arg.value[:1].isupper() for arg in node.args)
    if node.op == "seq" and node.value == "[]" and len(node.args) == 1:
        # The area of a triangle: [ABC].
        return node.args[0].op == "sym" and len(node.args[0].value) > 2
    if node.op == "seq":
        return node.value == "()" and all(arg.op == "sym" for arg in node.args)
    if node.op == "abs":
        return is_name(node.args[0])
    if node.op == "pow":
        # An inverse or a transpose.
        return node.args[0].op == "sym" and node.args[0].value.isupper()
    if node.op == "func" and node.value == "det":
        return True
    return node.op == "func" and all(is_name(arg) for arg in node.args)


def _is_derivation(node: Node) -> bool:
    """True for the d/dx in front of what is to be differentiated."""
    if node.op != "div":
        return False
    top, bottom = node.args
    return top == Node("sym", (), "d") and (
        bottom.op == "mul" and bottom.value == "letters" and bottom.args[0] == top
    )


def assignment(node: Node) -> tuple[Node, Node] | None:
    """Split `x = 5` (or `5 = x`) into name and value; None for anything else."""
    if node.op != "rel" or node.value != ("=",):
        return None
    left, right = node.args
    if left.op == "func" and names_in(right):
        return None
    if is_name(left) and not _own_names(left) & names_in(right):
        return left, right
    if is_name(right) and not _own_names(right) & names_in(left):
        return right, left
    return None


def _own_names(name: Node) -> frozenset[str]:
    """Return the names that a result is called by: `f` alone for `f(x)`."""
    if name.op == "apply":
        return frozenset([name.value])
    if name.op == "div":
        return names_in(name.args[0]) - {"d"}
    if name.op == "mul" and name.value == "implicit":
        return frozenset() if _is_derivation(name.args[0]) else names_in(name.args[0])
    return names_in(name)


def ends_of_chain(node: Node, for_number: bool = False) -> list[Node]:
    """Return what a true chain of equalities ends and starts with; [] for a false one.

    One name at the start (or the end) is left out: `x = 2+3 = 5`. `for_number`: so is an
    expression of several variables, `a + b = 7`.
    """
    if node.op == "rel" and node.value == ("in",) and is_name(node.args[0]):
        return [node.args[1]]
    if node.op != "rel" or set(node.value) != {"="}:
        return []
    items = list(node.args)
    several = for_number and len(names_in(items[0])) > 1 and not any(map(names_in, items[1:]))
    named = is_name(items[0]) and not any(items[0] == item for item in items[1:])
    own = items[0].op == "sym" and len(items) == 2
    named = named and not (own and _own_names(items[0]) & names_in(items[1]))
    if named or several:
        # `a + b = 7` gives a value; `x + 2 = 7` is an equation that is still to be solved.
        items = items[1:]
        if not names_in(items[-1]):
            # A formula between the name and its value: A = πr² = 9π.
            items = [item for item in items if not names_in(item)]
    elif is_name(items[-1]):
        items = items[:-1]
    if not _says_nothing(items[-1]):
        # `1 + 2 + \\dots + 100` has no value: what can be read decides.
        items = [item for item in items if not _says_nothing(item)]
    if len(items) == 1:
        return items
    if any(item.op in _STRUCTURED for item in items):
        return [items[-1]] if all(item == items[-1] for item in items) else []
    if not all_equal(items):
        return []
    # A unit may stand at one of the members only.
    return [items[-1], items[0]]


def _says_nothing(node: Node) -> bool:
    return any(one.op == "opaque" or (one.op, one.value) == ("word", "dots") for one in walk(node))


def difference(node: Node) -> Node:
    """Return left minus right of a relation."""
    left, right = node.args
    return Node("add", (left, Node("neg", (right,))))


def same_equation(answer: Node, gold: Node) -> bool:
    """True where two equations or inequalities say the same up to a constant factor."""
    if answer.op != "rel" or gold.op != "rel" or len(answer.args) != 2 or len(gold.args) != 2:
        return False
    (given_sign,), (wanted_sign,) = answer.value, gold.value
    answer, given_sign = _upright(answer, given_sign)
    gold, wanted_sign = _upright(gold, wanted_sign)
    if given_sign != wanted_sign or given_sign not in ("=", "!=", "<", "<="):
        return False
    positive = given_sign in ("<", "<=")
    given, wanted = difference(answer), difference(gold)
    if proportional(given, wanted, positive):
        return True
    return not positive and proportional(cleared(given), cleared(wanted))


def _upright(node: Node, sign: str) -> tuple[Node, str]:
    if sign in _MIRROR:
        return Node("rel", (node.args[1], node.args[0]), (_MIRROR[sign],)), _MIRROR[sign]
    return node, sign


def same_order(answer: Node, gold: Node) -> bool:
    """True where two chains such as `a < b <= c` order the same things, from either side."""
    given, wanted = _steps(answer), _steps(gold)
    if given is None or wanted is None or len(given) != len(wanted):
        return False
    return all(
        any(
            sign == other_sign and identical(low, other_low) and identical(high, other_high)
            for low, sign, high in given
        )
        for other_low, other_sign, other_high in wanted
    )


def _steps(node: Node) -> list[tuple[Node, str, Node]] | None:
    """Return the pairs of neighbours of a chain, or of several joined by `and`, small to large."""
    items = node.args if node.op == "list" and "or" not in node.value else (node,)
    found: list[tuple[Node, str, Node]] = []
    for item in items:
        if item.op != "rel":
            return None
        for left, sign, right in zip(item.args, item.value, item.args[1:], strict=False):
            if sign not in ("<", "<=", ">", ">=", "="):
                return None
            upright = sign not in _MIRROR
            found.append((left, sign, right) if upright else (right, _MIRROR[sign], left))
    return found


def same_congruence(answer: Node, gold: Node) -> bool:
    """True where two congruences name the same residue classes."""
    given, wanted = _classes(answer), _classes(gold)
    if given[0] and wanted[0] and given[0] != wanted[0]:
        return False
    return given[1:] == wanted[1:]


def _classes(node: Node) -> tuple[str | None, frozenset[int], int]:
    """Return the variable, the residues and the modulus of a congruence or a list of them."""
    items = node.args if node.op == "list" else (node,)
    items = tuple(map(_with_parameter, items)) if len(items) <= 2 else items
    items = tuple(item for item in items if item.value != ("in",))
    items = tuple(Node("congruence", item.args) if item.op == "mod" else item for item in items)
    congruences = [item for item in items if item.op == "congruence"]
    if not congruences:
        raise Unreadable("no congruence")
    moduli = {abs(_whole(item.args[-1])) for item in congruences}
    if len(moduli) != 1 or 0 in moduli:
        raise Unreadable("moduli differ")
    (modulus,) = moduli
    name: str | None = None
    residues: set[int] = set()
    for item in items:
        if item.op == "congruence":
            sides = item.args[:-1]
        else:
            sides = item.args if item.op == "rel" and item.value == ("==",) else (item,)
        for side in sides:
            if side.op == "sym":
                if name not in (None, side.value):
                    raise Unreadable("two variables")
                name = side.value
            elif side.op in ("pm",):
                first, second = (_whole(arg) for arg in side.args)
                residues |= {(first + second) % modulus, (first - second) % modulus}
            else:
                residues.add(_whole(side) % modulus)
    if not residues:
        raise Unreadable("no residue")
    return name, frozenset(residues), modulus


def _with_parameter(node: Node) -> Node:
    """Return the congruence that `x = 7k + 3` stands for, where it is one."""
    split = assignment(node)
    if split is None or split[0].op != "sym" or len(names_in(split[1])) != 1:
        return node
    (name,) = names_in(split[1])
    start, first, second = (exact(at_value(split[1], name, value)) for value in (0, 1, 2))
    if start is None or first is None or second is None or second - first != first - start:
        return node
    step = first - start
    return Node("congruence", (split[0], num(start), num(step))) if step else node


def at_value(node: Node, name: str, value: int) -> Node:
    if node.op == "sym" and node.value == name:
        return num(value)
    return Node(node.op, tuple(at_value(arg, name, value) for arg in node.args), node.value)


def _whole(node: Node) -> int:
    value = exact(node)
    if value is None or value.denominator != 1:
        raise Unreadable("not a whole number")
    return int(value)


def same_ratio(answer: Node, gold: Node) -> bool:
    """True where two ratios are proportional; a ratio of two is also its fraction."""
    wanted = [exact(part) for part in gold.args]
    if answer.op == "ratio":
        given = [exact(part) for part in answer.args]
        if not all(is_value(peel(part)[0]) for part in answer.args):
            return False
    elif answer.op == "div" and answer.value != "div" and is_value(answer):
        given = [exact(part) for part in answer.args]
    else:
        return False
    if len(given) != len(wanted) or not all(given) or not all(wanted):
        return given == wanted and None not in given
    return all(
        one * wanted[0] == other * given[0]  # type: ignore[operator]
        for one, other in zip(given, wanted, strict=True)
    )


def same_named_value(answer: Node, gold: Node) -> bool:
    """True where both give the same value to the same name."""
    given, wanted = assignment(answer), assignment(gold)
    if given is None or wanted is None:
        return False
    return given[0] == wanted[0] and same_scalar(given[1], wanted[1])
