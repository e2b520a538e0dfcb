"""Exact and high-precision values of expressions, and whether two of them are identical.

Rational expressions are computed in exact fractions. Anything else is computed with 100 digits and
must agree to 80 of them; expressions with variables must do so at every one of nine points.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from functools import cache
from typing import Any

from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, walk

DIGITS = 100
AGREEING_DIGITS = 80
MAX_BITS = 100_000
"""Largest exact integer that a power or a factorial may make."""
MAX_FACTORIAL = 2000
TRIALS = range(9)
_WHOLE_TRIALS = range(9, 25)
"""Small whole numbers, for expressions with factorials that few other points suit."""
_COMPARED = 3
"""Points at which two expressions must both have a real value to be called identical."""

Value = Any  # Fraction, or a real or complex number of mpmath


@cache
def context() -> Any:
    """Return a private mpmath context, so that nobody else's precision is changed."""
    import mpmath

    own = mpmath.MPContext()
    own.dps = DIGITS
    return own


def value_of(node: Node, trial: int = 0) -> Value:
    """Return the value of an expression at one point; raises Unreadable where it has none."""
    try:
        return _value(node, trial)
    except (ArithmeticError, ValueError, TypeError, NotImplementedError) as error:
        raise Unreadable(f"no value: {error}") from error


def exact(node: Node) -> Fraction | None:
    """Return the rational value of a constant expression, or None."""
    if names_in(node):
        return None
    try:
        value = value_of(node)
    except Unreadable:
        return None
    return value if isinstance(value, Fraction) else None


def _value(node: Node, trial: int) -> Value:
    op = node.op
    if op == "num":
        return node.value
    if op == "sym":
        return _point(node.value, trial)
    if op == "base":
        return Fraction(int(*node.value))
    if op == "const":
        return _constant(node.value)
    if op == "apply":
        inner = ",".join(str(_value(arg, trial)) for arg in node.args)
        return _point(f"{node.value}({inner})", trial)
    if op in (
        "word",
        "set",
        "builder",
        "matrix",
        "list",
        "rel",
        "quantity",
        "pm",
        "mp",
        "ratio",
        "opaque",
        "piecewise",
        "piece",
    ):
        raise Unreadable(f"{op} has no value")
    if op == "seq" and (node.value != "[]" or len(node.args) != 1):
        raise Unreadable("brackets have no value")
    args = [_value(arg, trial) for arg in node.args]
    operation = _OPERATIONS.get(op)
    if operation is None:
        raise Unreadable(f"{op} has no value")
    if op == "func":
        return _function(node.value, args)
    return operation(*args)


def _point(name: str, trial: int) -> Fraction:
    """Return the value of a variable: positive, negative and whole ones, always the same."""
    number = int.from_bytes(hashlib.sha256(f"{name}|{trial}".encode()).digest()[:4], "big")
    if trial < 4:
        return Fraction(1 + number % 391, 197)
    if trial < 6:
        return -Fraction(1 + number % 391, 197)
    return Fraction(2 + number % 37) if trial < 9 else Fraction(1 + number % 12)


def _constant(name: str) -> Value:
    own = context()
    if name == "oo":
        raise Unreadable("infinity has no value")
    return {"pi": +own.pi, "e": +own.e, "i": own.mpc(0, 1)}[name]


def _number(value: Value) -> Value:
    """Return a value as a number of mpmath."""
    if isinstance(value, Fraction):
        return context().mpf(value.numerator) / value.denominator
    return value


def _both(left: Value, right: Value) -> tuple[Value, Value]:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left, right
    return _number(left), _number(right)


def _add(*terms: Value) -> Value:
    total: Value = Fraction(0)
    for term in terms:
        left, right = _both(total, term)
        total = left + right
    return total


def _multiply(*factors: Value) -> Value:
    product: Value = Fraction(1)
    for factor in factors:
        left, right = _both(product, factor)
        product = left * right
    return product


def _divide(top: Value, bottom: Value) -> Value:
    if bottom == 0:
        raise Unreadable("division by zero")
    left, right = _both(top, bottom)
    return left / right


def _power(base: Value, exponent: Value) -> Value:
    if not isinstance(exponent, Fraction):
        if base == 0:
            raise Unreadable("power of zero")
        if abs(context().mpc(exponent)) > 10**6:
            raise Unreadable("exponent too large")
        return context().power(_number(base), exponent)
    if exponent.denominator == 1:
        if base == 0 and exponent < 0:
            raise Unreadable("division by zero")
        if abs(exponent) > MAX_BITS:
            raise Unreadable("exponent too large")
        if isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > MAX_BITS and abs(base) != 1:
                raise Unreadable("power too large")
        return base ** int(exponent)
    if exponent.denominator > 10**6 or abs(exponent.numerator) > 10**6:
        raise Unreadable("exponent too large")
    return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))


def _root(radicand: Value, degree: Value) -> Value:
    """Return a root: exact where it is rational, real for an odd root of a negative number."""
    if not isinstance(degree, Fraction):
        return _power(radicand, _divide(Fraction(1), degree))
    if degree.denominator != 1 or not 0 < degree < 10**6:
        return _power(radicand, 1 / degree)
    count = int(degree)
    if isinstance(radicand, Fraction):
        if radicand < 0 and count % 2:
            return _multiply(Fraction(-1), _root(-radicand, degree))
        if radicand >= 0:
            top = _integer_root(radicand.numerator, count)
            bottom = _integer_root(radicand.denominator, count)
            if top is not None and bottom is not None:
                return Fraction(top, bottom)
    own = context()
    number = _number(radicand)
    if count == 2:
        return own.sqrt(number)
    if own.im(number) == 0 and own.re(number) < 0 and count % 2:
        return -own.root(-own.re(number), count)
    return own.root(number, count) if count < 1000 else own.power(number, own.mpf(1) / count)


def _integer_root(number: int, degree: int) -> int | None:
    if number in (0, 1):
        return number
    if number.bit_length() < degree:
        return None
    if degree == 2:
        root = math.isqrt(number)
    else:
        low, high = 1, 1 << (number.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
        root = low
    return root if root**degree == number else None


def _whole(value: Value, largest: int = 10**4000) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or abs(value) > largest:
        raise Unreadable("not a whole number")
    return int(value)


def _factorial(value: Value) -> Value:
    number = _whole(value, MAX_FACTORIAL)
    if number < 0:
        raise Unreadable("factorial of a negative number")
    return Fraction(math.factorial(number))


def _floor(value: Value) -> Value:
    return Fraction(
        math.floor(value) if isinstance(value, Fraction) else int(context().floor(value))
    )


def _ceil(value: Value) -> Value:
    return -_floor(_multiply(Fraction(-1), value))


def _function(name: str, args: list[Value]) -> Value:
    own = context()
    if name in ("gcd", "lcm"):
        return Fraction(getattr(math, name)(*(_whole(arg) for arg in args)))
    if name in ("max", "min"):
        if any(isinstance(arg, own.mpc) for arg in args):
            raise Unreadable("order of complex numbers")
        return {"max": max, "min": min}[name](args, key=_number)
    if name == "binom":
        return Fraction(math.comb(_whole(args[0], 5000), _whole(args[1], 5000)))
    if name in ("log", "lg") and len(args) <= 2:
        base = _number(args[1]) if len(args) == 2 else own.mpf(10)
        return own.log(_positive(args[0])) / own.log(_positive(base))
    if name == "log":
        raise Unreadable("arguments of log")
    if len(args) != 1:
        raise Unreadable(f"arguments of {name}")
    number = _number(args[0])
    if name == "ln":
        return own.log(_positive(number))
    if name == "exp":
        return _power(+own.e, args[0])
    if name == "cis":
        return own.cos(number) + own.mpc(0, 1) * own.sin(number)
    if name in ("Re", "Im"):
        return own.re(number) if name == "Re" else own.im(number)
    function = getattr(own, _MPMATH.get(name, ""), None)
    if function is None or abs(number) > 10**6:
        raise Unreadable(f"no value of {name}")
    return function(number)


def _positive(value: Value) -> Value:
    if value == 0:
        raise Unreadable("logarithm of zero")
    return _number(value)


_MPMATH = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "arccot": "acot", "arg": "arg", "arg_": "arg",
}  # fmt: skip


def _modulo(left: Value, right: Value) -> Value:
    return Fraction(_whole(left) % _whole(right))


_OPERATIONS: dict[str, Any] = {
    "neg": lambda value: -value, "add": _add, "mul": _multiply, "div": _divide, "pow": _power,
    "root": _root, "fact": _factorial, "abs": lambda value: abs(value), "floor": _floor,
    "ceil": _ceil, "mod": _modulo, "func": _function,
    "percent": lambda value: _divide(value, Fraction(100)),
    "degree": lambda value: _multiply(value, context().pi / 180),
    "seq": lambda value: value,
}  # fmt: skip


def agree(left: Value, right: Value) -> bool:
    """True where two values are equal: exactly, or to the digits that both have."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = _number(left), _number(right)
    size = max(abs(left), abs(right))
    return abs(left - right) <= size * context().mpf(10) ** -AGREEING_DIGITS


def is_real(value: Value) -> bool:
    """True for a value without an imaginary part."""
    if isinstance(value, Fraction):
        return True
    imaginary = abs(context().im(value))
    return imaginary <= abs(value) * context().mpf(10) ** -AGREEING_DIGITS


def is_complex(node: Node) -> bool:
    """True where the imaginary unit occurs."""
    return any(one.op == "const" and one.value == "i" for one in walk(node))


def identical(left: Node, right: Node) -> bool:
    """True where two expressions have the same value wherever both have a real one."""
    if left == right:
        return True
    if names_in(left) != names_in(right):
        return False
    if not names_in(left):
        return agree(value_of(left), value_of(right))
    any_value = is_complex(left) or is_complex(right)
    compared = 0
    for trial in (*TRIALS, *_WHOLE_TRIALS):
        if trial in _WHOLE_TRIALS and compared >= _COMPARED:
            break
        try:
            values = value_of(left, trial), value_of(right, trial)
        except Unreadable:
            continue
        if not any_value and not all(map(is_real, values)):
            continue
        if not agree(*values):
            return False
        compared += 1
    return compared >= _COMPARED


def proportional(left: Node, right: Node, positive: bool = False) -> bool:
    """True where one expression is a constant multiple of the other (`positive`: above 0)."""
    if names_in(left) != names_in(right) or not names_in(left):
        return False
    ratio: Value = None
    compared = 0
    for trial in TRIALS:
        try:
            top, bottom = value_of(left, trial), value_of(right, trial)
            if not (is_real(top) and is_real(bottom)) or bottom == 0:
                continue
            quotient = _divide(top, bottom)
        except Unreadable:
            continue
        if quotient == 0 or (ratio is not None and not agree(quotient, ratio)):
            return False
        ratio = quotient
        compared += 1
    return compared >= _COMPARED and not (positive and context().re(_number(ratio)) < 0)


def cleared(node: Node) -> Node:
    """Return the numerator of a sum of fractions, so that `y - 3/x` becomes `x y - 3`."""
    return _over(node, 0)[0]


def _over(node: Node, depth: int) -> tuple[Node, Node]:
    one = Node("num", (), Fraction(1))
    if depth > 40 or node.op not in ("add", "neg", "mul", "div"):
        return node, one
    parts = [_over(arg, depth + 1) for arg in node.args]
    if node.op == "neg":
        return Node("neg", (parts[0][0],)), parts[0][1]
    if node.op == "div":
        (top, under), (bottom, above) = parts
        return Node("mul", (top, above)), Node("mul", (under, bottom))
    if node.op == "mul":
        return Node("mul", tuple(p[0] for p in parts)), Node("mul", tuple(p[1] for p in parts))
    if all(part[1] == one for part in parts):
        return Node("add", tuple(part[0] for part in parts)), one
    terms = tuple(
        Node("mul", (part[0], *(other[1] for j, other in enumerate(parts) if j != i)))
        for i, part in enumerate(parts)
    )
    return Node("add", terms), Node("mul", tuple(part[1] for part in parts))
