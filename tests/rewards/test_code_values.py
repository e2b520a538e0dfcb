"""What is read from a program: values by exact type, garbage, and the comparison with the tests."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.rewards.code.comparing import same_output, same_value
from r1pipe.rewards.code.inside import wire
from r1pipe.rewards.code.program import program_in
from r1pipe.rewards.code.snippets import BadSnippet, compile_snippet

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(codec=None))
    | st.binary()
)
KEYS = st.recursive(SCALARS, lambda keys: st.lists(keys, max_size=3).map(tuple), max_leaves=5)
VALUES = st.recursive(
    SCALARS,
    lambda values: (
        st.lists(values)
        | st.lists(values).map(tuple)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.dictionaries(KEYS, values, max_size=4)
    ),
    max_leaves=20,
)


def send(value: Any) -> bytes:
    return wire.encode(value, lambda out, item: pytest.fail(f"{item!r} is plain"))


def plain(tag: bytes, head: tuple[Any, ...], items: list[Any]) -> Any:
    return wire.make_plain(tag, items)


@given(VALUES)
def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    arrived = wire.decode(send(value), plain)
    assert type(arrived) is type(value)
    assert "nan" in repr(value) or arrived == value


@pytest.mark.parametrize(
    "value",
    [
        list(range(100)),
        [-(2**63), 2**63 - 1] * 50,
        [2**63] * 100,
        [2**70, 1] * 50,
        [0.5, math.inf] * 50,
        [True, False] * 50,
        [1, True] * 50,
        [1, 1.0] * 50,
        [list(range(100))] * 100,
    ],
)
def test_long_lists_arrive_as_they_were_sent(value: list[Any]) -> None:
    arrived = wire.decode(send(value), plain)
    assert arrived == value
    assert [type(item) for item in arrived] == [type(item) for item in value]
    assert same_value(send(value), value)
    assert not same_value(send(value), [*value, 1])
    assert not same_value(send(value), [*value[:-1], "1"])


@given(VALUES)
def test_a_value_is_the_same_as_itself(value: Any) -> None:
    has_nan = "nan" in repr(value)  # as a key a NaN is equal to nothing
    assert has_nan or same_value(send(value), value)


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else(data: bytes) -> None:
    for made in (plain, lambda tag, head, items: (tag, head, items)):
        try:
            wire.decode(data, made)
        except wire.Broken:
            continue
    with contextlib.suppress(wire.Broken):
        same_value(data, [1, {"a": 2}])


@given(VALUES, st.data())
def test_a_damaged_value_is_refused_or_another(value: Any, data: st.DataObject) -> None:
    sent = send(value)
    at = data.draw(st.integers(0, len(sent) - 1))
    damaged = sent[:at] + bytes([data.draw(st.integers(0, 255))]) + sent[at + 1 :]
    for text in (damaged, sent[:at], sent + b"N"):
        try:
            wire.decode(text, plain)
        except wire.Broken:
            continue


def test_size_bombs_are_refused() -> None:
    many = b"l" + (3_000_000).to_bytes(4, "little") + b"N" * 3_000_000
    with pytest.raises(wire.Broken):
        wire.decode(many, plain)
    for tag in (b"l", b"I", b"D", b"d", b"s", b"i"):
        with pytest.raises(wire.Broken):
            wire.decode(tag + b"\xff\xff\xff\x7f" + bytes(100), plain)
    with pytest.raises(wire.Broken):
        same_value(send(list(range(1_000_000))), [1, 2])
    nested: Any = ()
    for _ in range(100_000):
        nested = (nested,)
    with pytest.raises(wire.Broken):
        wire.decode(b"e\1\0\0\0" + send(nested), plain)
    with pytest.raises(wire.Broken):
        same_value(send(list(range(1000))), [1, 2])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(wire.TooLarge):
        send(endless)


@pytest.mark.parametrize(
    ("value", "expected", "equal"),
    [
        (3, 3, True),
        (3.0, 3, True),
        (3, 3.0, True),
        (True, 1, False),
        (1, True, False),
        (0, False, False),
        ("3", 3, False),
        (None, 0, False),
        (b"a", "a", False),
        ((1, 2), [1, 2], True),
        ([1, 2], (1, 2), False),
        ({1, 2}, [1, 2], False),
        ({1, 2}, {2, 1}, True),
        (frozenset({1}), {1}, True),
        ({True}, {1}, False),
        ([[1], (2,)], [[1], [2]], True),
        ([1, 2, 3], [1, 2], False),
        ([2, 1], [1, 2], False),
        ({"a": (1,)}, {"a": [1]}, True),
        ({1: 2}, {"1": 2}, True),
        ({1: 2, "1": 2}, {"1": 2}, False),
        ({1: 2, "1": 3}, {"1": 2, "2": 3}, False),
        ({True: 1}, {"true": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({(1, 2): 3}, {(1, 2): 3}, True),
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (2.9999999999999996, 3, False),
        (1e-13, 0.0, True),
        (1e-13, 1e-14, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (10**400, 1e300, False),
        (1 + 2j, 1 + 2j, True),
        (1, 1 + 0j, False),
        (-0.0, 0, True),
    ],
)
def test_values_are_equal_by_type(value: Any, expected: Any, equal: bool) -> None:
    assert same_value(send(value), expected) is equal


def test_integers_of_any_size() -> None:
    assert same_value(send(10**5000), 10**5000)
    assert not same_value(send(10**5000), 10**5000 + 1)
    assert not same_value(send(10**5000), 1e308, tolerance=0.1)


def test_tolerance_and_wrapping() -> None:
    assert same_value(send(0.334), 0.333, tolerance=0.01)
    assert same_value(send([1, 0.334]), [1, 0.333], tolerance=0.01)
    assert not same_value(send(0.35), 0.333, tolerance=0.01)
    assert not same_value(send(True), 1.0, tolerance=0.1)
    assert same_value(send(3), [3], wrapped=True)
    assert same_value(send([3]), [3], wrapped=True)
    assert not same_value(send(3), [3])


@pytest.mark.parametrize(
    ("printed", "expected", "equal"),
    [
        (b"7\n", "7", True),
        (b"7", "7\n\n", True),
        (b"a \r\nb\t\n\n", "a\nb", True),
        (b"a\n\nb", "a\nb", False),
        (b"\na", "a", False),
        (b" a", "a", False),
        (b"a  b", "a b", False),
        (b"b\na", "a\nb", False),
        (b"a", "a\nb", False),
        (b"a\nb\nc", "a\nb", False),
        (b"3.0", "3", False),
        (b"", "", True),
        (b"\xff", "\ufffd", False),
        (b"a\x0bb", "a\nb", False),
    ],
)
def test_output_is_compared_line_by_line(printed: bytes, expected: str, equal: bool) -> None:
    assert same_output(printed, expected) is equal


def test_output_with_a_tolerance() -> None:
    assert same_output(b"x = 0.33333 1", "x = 0.333 1.0", tolerance=1e-2)
    assert not same_output(b"x = 0.5 1", "x = 0.333 1", tolerance=1e-2)
    assert not same_output(b"y = 0.333", "x = 0.333", tolerance=1e-2)
    assert not same_output(b"nan", "0.3", tolerance=1e-2)
    assert not same_output(b"0.3 0.3", "0.3", tolerance=1e-2)


@given(st.text(st.sampled_from("`~ \n\rpy ab#")))
def test_any_answer_is_cut_in_linear_time(text: str) -> None:
    program = program_in(text)
    assert program is None or isinstance(program, str)


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("text\n```python\nx = 1\n```\ntext", "x = 1\n"),
        ("```python\nx = 1", "x = 1\n"),
        ("```\nx = 1\n```\n```text\n1\n```", "x = 1\n"),
        ("~~~py\nx = 1\n~~~", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("1. So:\n   ```python\n   if x:\n       y()\n   ```", "if x:\n    y()\n"),
        ("```python title=a\nx = 1\n```", "x = 1\n"),
        ("```bash\nls\n```", None),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\n"),
    ],
)
def test_the_program_of_an_answer(answer: str, program: str | None) -> None:
    assert program_in(answer) == program


@pytest.mark.parametrize(
    ("snippet", "problem"),
    [
        ("f(1)", "no assert"),
        ("x = 3\nassert x == 3", "takes no name"),
        ("assert (", "Python"),
        ("import nowhere_to_be_found\nassert f()", "nowhere_to_be_found"),
        ("assert " + "(" * 500 + ")" * 500, "Python"),
        ("assert f('\0')", "Python"),
    ],
)
def test_a_snippet_that_is_no_test_is_refused(snippet: str, problem: str) -> None:
    with pytest.raises(BadSnippet, match=problem):
        compile_snippet(snippet)


@pytest.mark.parametrize(
    ("snippet", "shadowed"),
    [
        ("assert sum(10, 15) == 25", ("sum",)),
        ("assert sorted(f([2, 1])) == [1, 2]", ()),
        ("import solution\nassert len(solution.f()) == 1", ()),
        ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", ()),
    ],
)
def test_builtins_are_pythons_own_beside_a_name_of_the_program(
    snippet: str, shadowed: tuple[str, ...]
) -> None:
    assert compile_snippet(snippet)[2] == shadowed
