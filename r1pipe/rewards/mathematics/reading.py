"""Reads one text as mathematics, also where only the ends of a chain of equalities are"
" readable."""

from __future__ import annotations

import re
from functools import lru_cache

from r1pipe.rewards.mathematics import words
from r1pipe.rewards.mathematics.grammar import parse
from r1pipe.rewards.mathematics.nodes import Node, Unreadable
from r1pipe.rewards.mathematics.spelling import clean

_ARITHMETIC = re.compile(r"\d[\d.,]*\s*(?:[xX×*÷/+-]|\\times|\\cdot|\\div)\s*\$?\d+\s*\Z")
_SUPPOSED = re.compile(r"(?:let|suppose|assume|assuming|if|say|try|given)\b[\s$\\]", re.IGNORECASE)
_DOUBT = re.compile(r"\\(?:le|ge|ne|approx|pm|Rightarrow|iff|neg)(?![a-zA-Z])|\?|\bnot\b")


@lru_cache(maxsize=8192)
def tree_of(text: str) -> Node | None:
    """Return the tree of one reading of an answer, None where the grammar does not fit."""
    try:
        return _parsed(text)
    except Unreadable:
        return None


def _parsed(text: str) -> Node:
    if _SUPPOSED.match(text):
        raise Unreadable("a supposition")
    cleaned = clean(words.meaning_of(text))
    exact, approx, _ = cleaned.partition("\\approx ")
    if approx and exact.strip():
        cleaned = exact.strip()
    try:
        return parse(cleaned)
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    except Unreadable:
        # A left side that the grammar does not read only names what comes after it.
        at = _first_equals(cleaned)
        left, right = cleaned[:at].strip(), cleaned[at + 1 :].strip()
        if at < 0 or not left or not right or not _is_label(left):
            raise
        label = Node("word", (), left)
        try:
            value = parse(right)
        except Unreadable:
            return _chain(cleaned)
        if value.op == "rel":
            return Node("rel", (label, *value.args), ("=", *value.value))
        return Node("rel", (label, value), ("=",))


def _chain(text: str) -> Node:
    """Read `S = \\sum k = 15`: members between the ends that cannot be read say nothing."""
    members = _members(text)
    if not 2 < len(members) < 12:
        raise Unreadable("no chain")
    *first, last = members
    nodes = [_tree_of_member(member) for member in first]
    return Node("rel", (*nodes, parse(last)), ("=",) * len(first))


def _tree_of_member(text: str) -> Node:
    try:
        return parse(text)
    except Unreadable:
        if not text or not _is_label(text) or _DOUBT.search(text):
            raise
        return Node("opaque", (), text)


def _members(text: str) -> list[str]:
    """Return what stands between the `=` outside brackets."""
    found: list[str] = []
    while (at := _first_equals(text)) >= 0:
        found.append(text[:at].strip())
        text = text[at + 1 :]
    return [*found, text.strip()]


def _first_equals(text: str) -> int:
    """Return the place of the first `=` outside brackets, -1 without any."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "=" and depth == 0:
            return at
    return -1


def _is_label(text: str) -> bool:
    label = text.lower()
    if len(text) >= 200 or _ARITHMETIC.search(text):
        return False
    return len(text) < 200 and not re.search(
        r"\b(?:not|or|either|if|because|since|but|so|then|maybe|let|suppose|assume|try|say)\b"
        r"|[,;\n<>]|\\ne\b|≠",
        label,
    )
