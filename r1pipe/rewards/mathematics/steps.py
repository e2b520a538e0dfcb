"""Reads several steps of arithmetic, of which the last one gives the answer."""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.equations import ends_of_chain
from r1pipe.rewards.mathematics.evaluation import exact
from r1pipe.rewards.mathematics.nodes import Node, names_in, walk
from r1pipe.rewards.mathematics.reading import tree_of
from r1pipe.rewards.mathematics.scalars import is_value, peel

MAX_STEPS = 10
_MAX_TEXT = 600
_SPLIT = re.compile(
    r"\s*(?:[;；，。\n]|,(?!\d{3}(?!\d))|\.\s|(?<=[\d$\s])and(?=[\s$])|\\Rightarrow|⇒|\bso\b)"
    r"\s*(?:(?:and|so|then|next|finally|thus|hence|therefore|now)\b[\s,:]*)*"
)

_CROSS = re.compile(r"(?<=\d)\s?[xX]\s?(?=\$?\d)")


def last_step(text: str) -> str | None:
    """Return the last of several true equations, each of which uses what came before.

    `16 - 7 = 9, 9 * 2 = 18` gives `9 * 2 = 18`; a list of answers, an untrue step, a step with a
    variable and steps that have nothing to do with each other give None.
    """
    if len(text) > _MAX_TEXT or text.count("=") < 2:
        return None
    text = _CROSS.sub("*", text)
    steps = [step for step in _SPLIT.split(text.strip(" .")) if step]
    if not 2 <= len(steps) <= MAX_STEPS:
        return None
    trees = [tree_of(step) for step in steps]
    wanted: list[object] = []
    for tree in reversed(trees):
        if tree is None or not _is_step(tree):
            return None
        result = exact(peel(tree.args[-1])[0])
        if wanted and result not in wanted:
            return None
        wanted += [one.value for arg in tree.args[:-1] for one in walk(arg) if one.op == "num"]
    return steps[-1]


def _is_step(node: Node) -> bool:
    """True for a true equation of numbers: something to work out, then its value."""
    if node.op != "rel" or set(node.value) != {"="} or names_in(node):
        return False
    first, last = peel(node.args[0])[0], peel(node.args[-1])[0]
    if any(one.op in ("word", "opaque", "list", "seq") for one in walk(node)):
        return False
    return (
        is_value(last) and (first.op == "div" or not is_value(first)) and bool(ends_of_chain(node))
    )
