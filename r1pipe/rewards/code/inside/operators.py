"""The operators of objects that stand-ins pass on, by what may be passed on with them."""

from __future__ import annotations

_ARITHMETIC = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "divmod"),
    *("and", "or", "xor", "lshift", "rshift"),
)
GUARDED = tuple(
    f"__{name}__"
    for name in (
        *_ARITHMETIC,
        *(f"r{name}" for name in _ARITHMETIC),
        *(f"i{name}" for name in _ARITHMETIC if name != "divmod"),
        *("eq", "ne", "lt", "le", "gt", "ge", "contains"),
    )
)
"""Operators whose other operand may be what a test expects."""
FREE = tuple(
    f"__{name}__"
    for name in (
        *("neg", "pos", "abs", "invert", "int", "float", "complex", "index", "bool", "bytes"),
        *("round", "trunc", "floor", "ceil", "format", "fspath"),
        *("len", "length_hint", "iter", "next", "reversed"),
        *("getitem", "setitem", "delitem", "missing", "call", "enter", "exit"),
    )
)
OPERATORS = (*GUARDED, *FREE)
PREDICATES = frozenset(
    (
        *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower"),
        *("isnumeric", "isprintable", "isspace", "istitle", "isupper", "startswith", "endswith"),
        *("issubset", "issuperset", "isdisjoint", "is_integer"),
    )
)
"""Methods of builtins that take or imply what is expected and say yes or no."""
