"""Reads the column `verification`: the tests of one row, in each form that data sets have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1pipe.rewards.code.snippets import BadSnippet, compile_snippet

_DIGITS = 4000
"""Python's `int` refuses more than 4,300 digits at once."""
_NESTING = 200


class BadTests(ValueError):
    """The tests of a row cannot be used; says why."""


@dataclass(frozen=True)
class InputTest:
    """A run of the whole program: what it reads on stdin and must print."""

    stdin: str
    stdout: str
    tolerance: float | None = None


@dataclass(frozen=True)
class CallTest:
    """A call of a function and what it must return (`Class.method` calls a static one)."""

    function: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    returns: Any = None
    tolerance: float | None = None
    wrapped: bool = False
    """`returns` is a list of one value, and that value is right too (APPS writes both)."""


@dataclass(frozen=True)
class AssertTest:
    """A snippet of Python with asserts about what the program defines."""

    source: str


Test = InputTest | CallTest | AssertTest


def read_tests(verification: Any) -> tuple[Test, ...]:
    """Return the tests of a row; raises BadTests where there are none or one is unusable.

    A list, or JSON text of it, of these mappings (a `tolerance` may stand in the first two):

        {"stdin": "3 4\\n", "stdout": "7\\n"}
        {"call": "add", "args": [1, 2], "kwargs": {}, "returns": 3}
        {"assert": "assert add(1, 2) == 3"}     any snippet with asserts; or the snippet itself

    Also read: open-r1's {"language", "test_cases": [{"input", "output", "type", "fn_name"}]} and
    the {"inputs", "outputs", "fn_name"} of APPS and TACO.
    """
    if isinstance(verification, str):
        verification = _from_json(verification)
    tests = tuple(_tests(verification))
    if not tests:
        raise BadTests("there is no test")
    for number, test in enumerate(tests, 1):
        if isinstance(test, AssertTest):
            try:
                compile_snippet(test.source)
            except BadSnippet as error:
                raise BadTests(f"test {number} {error}") from None
    if all(isinstance(test, InputTest) and not test.stdout.strip() for test in tests):
        raise BadTests("every test expects no output at all, so a program that does nothing passes")
    return tests


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        if _is_snippet(text):
            return [text]
        raise BadTests(f"neither JSON nor a snippet with asserts ({error})") from None


def _is_snippet(text: str) -> bool:
    try:
        compile_snippet(text)
    except BadSnippet:
        return False
    return True


def _integer(text: str) -> int:
    """Return the integer of any number of digits."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    value = 0
    for start in range(0, len(digits), _DIGITS):
        part = digits[start : start + _DIGITS]
        value = value * 10 ** len(part) + int(part)
    return sign * value


def _tests(value: Any) -> Iterator[Test]:
    if isinstance(value, Mapping):
        value = _without_nones(value)
        if "test_cases" in value:
            _require_python(value)
            yield from _each(_one_of_cases, _list(value, "test_cases"))
        elif "inputs" in value or "outputs" in value:
            yield from _paired(value)
        else:
            yield _one(value)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        yield from _each(_one, value)
    else:
        raise BadTests(f"expected a list of tests, got {_short(value)}")


def _each(read: Any, items: Sequence[Any]) -> Iterator[Test]:
    for number, item in enumerate(items, 1):
        try:
            yield read(item)
        except BadTests as error:
            raise BadTests(f"test {number}: {error}") from None


def _without_nones(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Drop what a column of mixed tests fills up with None; an expected `None` stays."""
    return {key: part for key, part in value.items() if part is not None or key == "returns"}


def _one(item: Any) -> Test:
    if isinstance(item, str):
        return _assertion(item)
    if not isinstance(item, Mapping):
        raise BadTests(f"expected a mapping or a snippet, got {_short(item)}")
    item = _without_nones(item)
    kinds = [key for key in ("assert", "call", "stdout") if key in item]
    if len(kinds) != 1:
        said = (
            f"it has {' and '.join(kinds)}" if kinds else f"its keys are {sorted(map(str, item))}"
        )
        raise BadTests(f"a test has one of `assert`, `call` and `stdout`; {said}")
    if kinds == ["assert"]:
        return _assertion(item["assert"], item.get("entry_point"))
    if kinds == ["stdout"]:
        stdin = item.get("stdin", "")
        return InputTest(_text(stdin, "stdin"), _text(item["stdout"], "stdout"), _tolerance(item))
    if "returns" not in item:
        raise BadTests("a test with `call` has no `returns`")
    args, kwargs = item.get("args", []), item.get("kwargs", {})
    return _call(item["call"], args, item["returns"], kwargs=kwargs, tolerance=_tolerance(item))


def _assertion(source: Any, entry_point: Any = None) -> AssertTest:
    if not isinstance(source, str) or not source.strip():
        raise BadTests(f"`assert` is {_short(source)}")
    if entry_point is not None:  # HumanEval: the snippet defines `check(candidate)`
        source = f"{source}\ncheck({entry_point})\n"
    return AssertTest(source)


def _call(
    name: Any,
    args: Any,
    returns: Any,
    *,
    kwargs: Any = None,
    tolerance: float | None = None,
    wrapped: bool = False,
) -> CallTest:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise BadTests(f"`call` is {_short(name)}, not the name of a function")
    if not isinstance(args, (list, tuple)):
        raise BadTests(f"`args` is {_short(args)}, not a list")
    if not isinstance(kwargs or {}, dict) or not all(isinstance(key, str) for key in kwargs or {}):
        raise BadTests(f"`kwargs` is {_short(kwargs)}, not a mapping of names")
    for what, value in (("args", list(args)), ("kwargs", kwargs or {}), ("returns", returns)):
        if not is_plain(value):
            raise BadTests(f"`{what}` is not plain data: {_short(value)}")
    return CallTest(name, list(args), dict(kwargs or {}), returns, tolerance, wrapped)


def is_plain(value: Any) -> bool:
    """Return whether a value is plain data, by exact type all the way down, not nested too deep."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        kind = type(item)
        if kind in (list, tuple, set, frozenset):
            parts = list(item)
        elif kind is dict:
            parts = [*item.keys(), *item.values()]
        elif item is None or kind in (bool, int, float, complex, str, bytes, bytearray):
            continue
        else:
            return False
        if depth > _NESTING:
            return False
        pending += [(part, depth + 1) for part in parts]
    return True


def _one_of_cases(item: Any) -> Test:
    """Read a case of open-r1's format: {"input", "output", "type", "fn_name"}."""
    if not isinstance(item, Mapping) or not {"input", "output"} <= item.keys():
        raise BadTests(f"a test case has `input` and `output`, got {_short(item)}")
    name = item.get("fn_name")
    kind = item.get("type") or ("function_call" if name else "stdin_stdout")
    if kind == "stdin_stdout":
        return InputTest(_text(item["input"], "input"), _text(item["output"], "output"))
    if kind != "function_call":
        raise BadTests(f"`type` is {_short(kind)}, not stdin_stdout or function_call")
    output, args = item["output"], item["input"]
    if isinstance(output, str):
        output = _value(output)
    if isinstance(args, str):
        args = [_value(line) for line in args.split("\n") if line.strip()]
    return _call(name, args, output, wrapped=_is_wrapped(item["output"]))


def _is_wrapped(output: Any) -> bool:
    return isinstance(output, list) and len(output) == 1


def _value(text: str) -> Any:
    """Return the JSON value of a line; a line that is none stands for itself."""
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return text


def _paired(value: Mapping[str, Any]) -> Iterator[Test]:
    """Read the format of APPS and TACO: {"inputs": [...], "outputs": [...], "fn_name": ...}."""
    _require_python(value)
    inputs, outputs = _list(value, "inputs"), _list(value, "outputs")
    if len(inputs) != len(outputs):
        raise BadTests(f"{len(inputs)} inputs for {len(outputs)} outputs")
    name = value.get("fn_name")
    # APPS puts what a function returns into a list of its own, but not in every row.
    wrapped = all(map(_is_wrapped, outputs))
    for number, (given, expected) in enumerate(zip(inputs, outputs, strict=True), 1):
        try:
            if name is None:
                yield InputTest(_text(given, "inputs"), _text(expected, "outputs"))
            else:
                args = _arguments(given)
                if isinstance(expected, str):
                    yield _call(name, args, expected)
                else:
                    yield _call(name, args, expected, wrapped=wrapped)
        except BadTests as error:
            raise BadTests(f"test {number}: {error}") from None


def _arguments(given: Any) -> Any:
    if isinstance(given, str):
        return [_value(line) for line in given.split("\n") if line.strip()]
    return given


def _require_python(value: Mapping[str, Any]) -> None:
    language = value.get("language", "python")
    if language not in ("python", "python3", "py"):
        raise BadTests(f"the language is {_short(language)}; only Python can be run")


def _list(value: Mapping[str, Any], key: str) -> Sequence[Any]:
    items = value.get(key)
    if not isinstance(items, (list, tuple)):
        raise BadTests(f"`{key}` is {_short(items)}, not a list")
    return items


def _text(value: Any, name: str) -> str:
    if isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise BadTests(f"`{name}` is {_short(value)}, not text")
    return value


def _tolerance(item: Mapping[str, Any]) -> float | None:
    value = item.get("tolerance")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise BadTests(f"`tolerance` is {_short(value)}, not a number from 0 on")
    return float(value)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # digits beyond Python's limit, or deep nesting
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
