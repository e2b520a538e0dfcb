r"""Compares families of numbers such as `\frac{\pi}{6} + k\pi` with k any integer."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from r1pipe.rewards.mathematics.equations import assignment, at_value
from r1pipe.rewards.mathematics.evaluation import context, identical, is_real, value_of
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, walk

MAX_CLASSES = 240
"""Residue classes that a union of families is written out into."""
_TINY = 1e-70

_BRACKETS = frozenset(["()", "[]", "(]", "[)"])
_LETTERS = frozenset("klmnpt")
_Z = r"(?:\\mathbb\s*\{?\s*Z\s*\}?|\\mathbf\s*\{?\s*Z\s*\}?|ℤ|\\Z(?![a-zA-Z])|Z(?![a-zA-Z]))"
_INTEGER = (
    r"(?:an?\s+|any\s+|some\s+|every\s+|all\s+|arbitrary\s+)*(?:integers?"
    r"|entier|ganze?\s+Zahl|entero)"
)
_CLAUSE = re.compile(
    r"(?:\s|\\[ ,;:]|\\q?quad|,|;|\\text\s*\{|\(|（|，|；|\$|\\\(|\\\))*"
    r"(?:(?:where|with|for|mit|avec|con|其中)\s*)?(?:any|all|every|some|each)?"
    r"(?:\s|\\[ ,;:]|\\q?quad|\\text\s*\{|\}|\$|\\\(|\\\)|integer\s|integers\s)*"
    r"(?<![a-zA-Z])(?P<name>[klmnpt])"
    r"(?:\s|\\text\s*\{|\}|\$|\\\(|\\\))*"
    rf"(?:(?:\\in(?![a-zA-Z])|∈|in)(?:\s|\\;|\\,)*{_Z}|(?:is|are|be|est(?:\s+un)?|es"
    rf"|ist(?:\s+eine)?)\s+{_INTEGER}"
    r"|an?\s+(?:arbitrary\s+)?integer|any\s+integer|为?(?:任意)?(?:是)?整数)"
    r"(?:\s|\}|\)|）|\$|\\\)|\.)*\Z"
)
_FOR_INTEGER = re.compile(
    r"(?:\s|\\[ ,;:]|,|\\text\s*\{|\()*(?:where|with|for)\s+(?:any|all|every|some|each|an|the)?\s*"
    r"integers?(?:\s|\}|\$)*(?P<name>[klmnpt])(?:\s|\}|\)|\$|\.)*\Z"
)
_BUILDER = re.compile(
    r"\\?\{\s*(?:[a-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||\\mid"
    r"|:)\s*)?(?P<body>.*?)\s*\\?\}",
    re.DOTALL,
)


def split_index(text: str) -> tuple[str, str | None]:
    r"""Return a text without its `, k \in \mathbb{Z}`, and the letter of that index if any."""
    if len(text) > 400:
        return text, None
    text = " ".join(text.split()).replace("\\left", "").replace("\\right", "").strip().strip("$")
    built = _BUILDER.fullmatch(text)
    inner = built["body"] if built and text.count("{") == text.count("}") else text
    for pattern in (_FOR_INTEGER, _CLAUSE):
        found = pattern.search(inner)
        if found and found.start():
            body = inner[: found.start()].rstrip("|: \\,;")
            return body.removesuffix("\\mid"), found["name"]
    return text, None


def is_family(node: Node, index: str | None) -> bool:
    """True for a family: one with an index set, or multiples of pi added to a fixed one."""
    items = _members(node)
    if items is None:
        return False
    for item in items:
        names = names_in(item)
        if item.op == "seq":
            ends = item.args
            whole = len(ends) == 2 and item.value in _BRACKETS and all(map(_turns, ends))
            if not (whole and all(names_in(end) == {index} for end in ends)):
                return False
            continue
        if len(names) != 1 or not names <= _LETTERS or (index and names != {index}):
            return False
        if index is None and (item.op != "add" or not _turns(item)):
            return False
    return True


def _turns(node: Node) -> bool:
    return any(one.op == "degree" or one.value == "pi" for one in walk(node))


def same_family(answer: Node, answer_index: str | None, gold: Node, gold_index: str | None) -> bool:
    """True where two families describe the same numbers.

    Without an index set on either side only the letter of the index may differ.
    """
    given, wanted = _members(answer), _members(gold)
    if given is None or wanted is None or not _same_name(answer, gold):
        return False
    indexed = all(len(names_in(item)) == 1 and names_in(item) <= _LETTERS for item in given)
    if not indexed or (answer_index and not is_family(answer, answer_index)):
        return False
    if answer_index is None and not all(map(_turns, given)) and not _solves(answer, gold):
        return False
    if gold_index is None and answer_index is None:
        # Perhaps a formula for the k-th number, so a shifted index would change it.
        renamed = [_renamed(item) for item in given]
        return len(given) == len(wanted) and all(
            any(identical(one, _renamed(other)) for one in renamed) for other in wanted
        )
    if any(item.op == "seq" for item in wanted):
        return len(given) == len(wanted) and all(
            any(_same_interval(one, other) for one in given) for other in wanted
        )
    return _same_classes(_classes(given), _classes(wanted))


def _solves(answer: Node, gold: Node) -> bool:
    """True for `x = 7k + 3` without a word on k, where the gold says `x =` with its index."""
    return answer.op == gold.op == "rel" and _name(answer) is not None is not _name(gold)


def _same_interval(answer: Node, gold: Node) -> bool:
    """True where both ends are shifted by the same whole number of steps."""
    if answer.op != "seq" or answer.value != gold.value or len(answer.args) != 2:
        return False
    ends: list[tuple[Any, Any]] = []
    for end in (*answer.args, *gold.args):
        (name,) = names_in(end)
        found = _progression(end, name, 1, 0)
        if found is None:
            return False
        ends.append(found)
    steps = [abs(_real(step)) for _, step in ends]
    if any(abs(step - steps[0]) > _TINY for step in steps):
        return False
    shifts = [_real(ends[at][0]) - _real(ends[at + 2][0]) for at in (0, 1)]
    turns = shifts[0] / steps[0]
    return abs(shifts[0] - shifts[1]) < _TINY and abs(turns - context().nint(turns)) < _TINY


def _renamed(node: Node) -> Node:
    if node.op == "sym":
        return Node("sym", (), "k")
    return Node(node.op, tuple(map(_renamed, node.args)), node.value)


def _same_name(answer: Node, gold: Node) -> bool:
    names = [_name(node) for node in (answer, gold)]
    return None in names or names[0] == names[1]


def _name(node: Node) -> str | None:
    first = node.args[0] if node.op == "list" else node
    split = assignment(first)
    return str(split[0].value) if split else None


def _members(node: Node) -> list[Node] | None:
    """Return the expressions of `x = a + k\\pi or x = b + k\\pi`, with `±` written out."""
    from r1pipe.rewards.mathematics.shapes import has_choice_of_signs, signs_chosen

    items = node.args if node.op == "list" else (node,)
    found: list[Node] = []
    for item in items:
        if item.op == "rel":
            split = assignment(item)
            if split is None:
                return None
            item = split[1]
        found += signs_chosen(item) if has_choice_of_signs(item) else [item]
    return found


def _classes(items: list[Node]) -> list[tuple[Any, Any]]:
    """Return start and step of each arithmetic progression; raises Unreadable for others."""
    classes: list[tuple[Any, Any]] = []
    for item in items:
        (name,) = names_in(item)
        for stride in (1, 2):
            found = [_progression(item, name, stride, shift) for shift in range(stride)]
            if all(one is not None for one in found):
                classes += [one for one in found if one is not None]
                break
        else:
            raise Unreadable("no arithmetic progression")
    return classes


def _progression(node: Node, name: str, stride: int, shift: int) -> tuple[Any, Any] | None:
    values = [value_of(at_value(node, name, stride * turn + shift)) for turn in range(-3, 4)]
    if not all(map(is_real, values)):
        return None
    step = values[4] - values[3]
    if step == 0 or any(
        abs(values[at + 1] - values[at] - step) > _TINY for at in range(len(values) - 1)
    ):
        return None
    return values[3], step


def _same_classes(first: list[tuple[Any, Any]], second: list[tuple[Any, Any]]) -> bool:
    unit = _real(second[0][1])
    ratios = [_ratio(step, unit) for _, step in (*first, *second)]
    period = Fraction(
        math.lcm(*(ratio.numerator for ratio in ratios)),
        math.gcd(*(ratio.denominator for ratio in ratios)),
    )
    sides = [_residues(side, unit, period) for side in (first, second)]
    return all(
        all(any(_congruent(one, other, period) for other in there) for one in here)
        for here, there in (sides, sides[::-1])
    )


def _real(value: Any) -> Any:
    own = context()
    if isinstance(value, Fraction):
        return own.mpf(value.numerator) / value.denominator
    return own.re(value)


def _ratio(step: Any, unit: Any) -> Fraction:
    quotient = abs(_real(step) / unit)
    ratio = Fraction(context().nstr(quotient, 30)).limit_denominator(1000)
    if not ratio or abs(quotient - _real(ratio)) > _TINY:
        raise Unreadable("steps without a common multiple")
    return ratio


def _residues(side: list[tuple[Any, Any]], unit: Any, period: Fraction) -> list[Any]:
    found: list[Any] = []
    for start, step in side:
        ratio = _ratio(step, unit)
        count = period / ratio
        if count.denominator != 1 or count > MAX_CLASSES or len(found) > MAX_CLASSES:
            raise Unreadable("too many classes")
        own = context()
        size = own.mpf(ratio.numerator) / ratio.denominator
        found += [_real(start) / unit + size * turn for turn in range(int(count))]
    return found


def _congruent(one: Any, other: Any, period: Fraction) -> bool:
    own = context()
    turns = (one - other) / (own.mpf(period.numerator) / period.denominator)
    return abs(turns - own.nint(turns)) < _TINY
