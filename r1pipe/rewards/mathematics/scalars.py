"""Compares numbers, quantities and expressions."""

from __future__ import annotations

from fractions import Fraction

from r1pipe.rewards.mathematics.evaluation import exact, identical, is_complex, value_of
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, num, walk
from r1pipe.rewards.mathematics.units import (
    ANGLE_DEGREE,
    RADIAN,
    Unit,
    resolve_pounds,
    same_dimension,
)

PERCENT = Unit(Fraction(1, 100), (("percent", Fraction(1)),))
_FAMILIES = {
    "sin": "angle", "cos": "angle", "tan": "angle", "cot": "angle", "sec": "angle",
    "csc": "angle", "cis": "angle", "log": "logarithm", "ln": "logarithm", "lg": "logarithm",
    "exp": "power",
    "arcsin": "inverse", "arccos": "inverse", "arctan": "inverse", "arccot": "inverse",
    "sinh": "hyperbolic", "cosh": "hyperbolic", "tanh": "hyperbolic",
}  # fmt: skip
_WORK = frozenset(["fact", "abs", "floor", "ceil", "mod", "apply", "func"])


def is_value(node: Node) -> bool:
    r"""True for a number that is written out: nothing is left to compute.

    Digits, signs, p/q (also unreduced), mixed numbers, a \times 10^n, percent, numbers in a base.
    """
    if node.op == "neg":
        inner = node.args[0]
        return inner.op != "neg" and is_value(inner)
    if node.op in ("num", "base"):
        return True
    if node.op == "const":
        return node.value == "oo"
    if node.op == "div":
        return node.value != "div" and all(_is_signed_number(arg) for arg in node.args)
    if node.op == "mul" and node.value == "times" and len(node.args) == 2:
        return _is_signed_number(node.args[0]) and _is_power_of_ten(node.args[1])
    return _is_power_of_ten(node)


def _is_signed_number(node: Node) -> bool:
    return node.op == "num" or (node.op == "neg" and node.args[0].op == "num")


def _is_power_of_ten(node: Node) -> bool:
    if node.op != "pow" or node.args[0] != num(10):
        return False
    exponent = node.args[1]
    return _is_signed_number(exponent) and exact(exponent).denominator == 1  # type: ignore


def peel(node: Node) -> tuple[Node, Unit | None]:
    """Split a quantity into its number and its unit; the sign stays with the number."""
    if node.op == "neg":
        inner, unit = peel(node.args[0])
        return Node("neg", (inner,)), unit
    if node.op == "quantity":
        return node.args[0], node.value
    if node.op == "percent":
        return node.args[0], PERCENT
    if node.op == "degree":
        return node.args[0], ANGLE_DEGREE
    return node, None


def same_scalar(answer: Node, gold: Node) -> bool:
    """True where two scalars, with or without units, are the same."""
    given, given_unit = peel(answer)
    wanted, wanted_unit = peel(gold)
    if given_unit is None and wanted_unit is None:
        return same_number(given, wanted)
    if wanted_unit is None:
        if given_unit is PERCENT:
            return same_number(_scaled(given, PERCENT.factor), wanted, is_value(given))
        if given_unit == ANGLE_DEGREE and same_number(_radians(given), wanted, is_value(given)):
            return True
        return same_number(given, wanted)
    if given_unit is None:
        if wanted_unit is PERCENT:
            return same_number(given, _scaled(wanted, PERCENT.factor))
        if wanted_unit == ANGLE_DEGREE and same_number(given, _radians(wanted)):
            return True
        return same_number(given, wanted)
    return _same_quantity(given, given_unit, wanted, wanted_unit)


def _same_quantity(given: Node, unit: Unit, wanted: Node, wanted_unit: Unit) -> bool:
    if {unit, wanted_unit} == {ANGLE_DEGREE, RADIAN}:
        sides = [_radians(given) if unit == ANGLE_DEGREE else given]
        sides.append(_radians(wanted) if wanted_unit == ANGLE_DEGREE else wanted)
        return _finished(given, wanted) and identical(sides[0], sides[1])
    unit, wanted_unit = resolve_pounds(unit, wanted_unit), resolve_pounds(wanted_unit, unit)
    if not same_dimension(unit, wanted_unit):
        return False
    if unit.factor == wanted_unit.factor:
        return same_number(given, wanted)
    factor = unit.factor / wanted_unit.factor
    return same_number(_scaled(given, factor), wanted, is_value(given))


def _scaled(node: Node, factor: Fraction) -> Node:
    """Return `node` times an exact factor, as a plain number where it is one."""
    value = exact(node) if is_value(node) else None
    return Node("mul", (node, num(factor)), "exact") if value is None else num(value * factor)


def _radians(node: Node) -> Node:
    return Node("degree", (node,))


def same_number(answer: Node, gold: Node, answer_is_value: bool | None = None) -> bool:
    """True where two expressions without units are equal and the answer is carried out.

    A gold that is a plain number wants one; a symbolic gold takes any equal expression.
    """
    if _infinite(answer) or _infinite(gold):
        return _infinite(answer) == _infinite(gold)
    if gold.op == "base" and answer.op == "base":
        return answer.value[1] == gold.value[1] and exact(answer) == exact(gold)
    if gold.op == "base" and gold.value[1] != 10:
        return False
    if is_value(gold):
        if not (is_value(answer) if answer_is_value is None else answer_is_value):
            return False
        value = exact(answer)
        return value is not None and value == exact(gold)
    if not _finished(answer, gold):
        return False
    return _same_antiderivative(answer, gold) or identical(answer, gold)


_VARIABLES = frozenset(["x", "y", "z", "t", "u", "v", "w", "s", "r", "theta"])
_CONSTANTS = ("C", "c", "K", "k", "C_1", "c_1", "C_0", "const", "constant")


def _same_antiderivative(answer: Node, gold: Node) -> bool:
    """True for `F(x) + C` in another letter, or with another constant inside F."""
    (wanted, name), (given, other) = _without_constant(gold), _without_constant(answer)
    if name != "C" or other is None or wanted is None or given is None:
        return False
    names = names_in(wanted)
    if len(names) != 1 or not names <= _VARIABLES or names_in(given) != names:
        return False
    difference = Node("add", (given, Node("neg", (wanted,))))
    values = []
    for trial in range(4, 9):
        for points in (trial, trial - 4):
            try:
                values.append(value_of(difference, points))
            except Unreadable:
                continue
    # The logarithm of a negative number has an imaginary part, which is constant too.
    return len(values) > 3 and all(_close(value, values[0]) for value in values)


def _close(one: object, other: object) -> bool:
    return abs(one - other) < 1e-60  # type: ignore[operator]


def _without_constant(node: Node) -> tuple[Node | None, str | None]:
    """Split `F(x) + C` into F(x) and the letter of its constant, which stands there once."""
    if node.op != "add":
        return None, None
    letters = [one for one in node.args if one.op in ("sym", "word") and one.value in _CONSTANTS]
    rest = tuple(one for one in node.args if one not in letters)
    if len(letters) != 1 or not rest or letters[0].value in names_in(Node("add", rest)):
        return None, None
    return (rest[0] if len(rest) == 1 else Node("add", rest)), str(letters[0].value)


def _infinite(node: Node) -> int:
    """Return the sign of an infinity, 0 for anything else."""
    sign = 1
    if node.op == "neg":
        sign, node = -1, node.args[0]
    return sign if node.op == "const" and node.value == "oo" else 0


def _finished(answer: Node, gold: Node) -> bool:
    r"""False where the answer leaves work (a function of constants) that the gold has done."""
    done = _work_in(gold, of_constants=False)
    if any(one.op == "pow" and is_complex(one.args[1]) for one in walk(gold)):
        # e^{i\theta} and cos + i sin are two spellings of the polar form.
        done.add("angle")
    return all(kind in done for kind in _work_in(answer, of_constants=True))


def _work_in(node: Node, of_constants: bool) -> set[str]:
    found: set[str] = set()
    # `2!` in n!/((n-2)! 2!) belongs to a formula, so it is no work left.
    formula = any(one.op == "fact" and names_in(one) for one in walk(node))
    for one in walk(node):
        if of_constants and formula and one.op == "fact":
            continue
        if of_constants and names_in(one):
            continue
        if one.op == "func":
            family = _FAMILIES.get(one.value, one.value)
            if family != "power":
                found.add(str(family))
        elif one.op in _WORK and not (one.op in ("abs", "fact") and names_in(one)):
            found.add(one.op)
    return found


def _total(node: Node) -> tuple[Node, Unit | None]:
    """Return number and unit of a calculation with quantities, such as `60 km / 2 h`."""
    if node.op not in ("add", "mul", "div") or not any(one.op == "quantity" for one in walk(node)):
        return peel(node)
    parts = [_total(arg) for arg in node.args]
    plain = Node(node.op, tuple(part for part, _ in parts), node.value)
    units = [unit for _, unit in parts]
    if node.op == "add":
        if any(unit != units[0] for unit in units):
            raise Unreadable("a sum of different units")
        return plain, units[0]
    total = Unit(Fraction(1), ())
    for index, unit in enumerate(units):
        if unit is not None:
            total = total * (unit**-1 if node.op == "div" and index else unit)
    return plain, total if total.dimension else None


def all_equal(nodes: list[Node]) -> bool:
    """True where the members of a chain of equalities have one value and one unit."""
    first, unit = _total(nodes[0])
    for node in nodes[1:]:
        other, other_unit = _total(node)
        scale, other_scale = _factor(unit, other_unit)
        if scale is None or other_scale is None:
            return False
        try:
            if not identical(_times(first, scale), _times(other, other_scale)):
                return False
        except Unreadable:
            return False
    return True


def _factor(unit: Unit | None, other: Unit | None) -> tuple[Fraction | None, Fraction | None]:
    if unit is PERCENT or other is PERCENT:
        left = PERCENT.factor if unit is PERCENT else Fraction(1)
        right = PERCENT.factor if other is PERCENT else Fraction(1)
        plain = unit in (None, PERCENT) and other in (None, PERCENT)
        return (left, right) if plain else (None, None)
    if unit is None or other is None:
        return Fraction(1), Fraction(1)
    if not same_dimension(unit, other):
        return None, None
    return unit.factor, other.factor


def _times(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else Node("mul", (node, num(factor)), "exact")


def constant(node: Node) -> object:
    """Return the real value of a constant without unit; raises Unreadable for anything else."""
    if names_in(node):
        raise Unreadable("not a constant")
    return value_of(node)
