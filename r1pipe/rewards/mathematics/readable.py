"""Says whether a gold answer is sound: its brackets close, and it is more than letters."""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.atoms import GREEK, OPAQUE
from r1pipe.rewards.mathematics.nodes import BadGold, Node, walk
from r1pipe.rewards.mathematics.tokens import FUNCTIONS

_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_KNOWN = OPAQUE | GREEK | FUNCTIONS | frozenset(
    [
        "frac", "sqrt", "cbrt", "binom", "text", "mathbb", "begin", "end", "pi", "infty",
        "emptyset", "cup", "cap", "setminus", "times", "cdot", "div", "pm", "mp", "dots",
        "degree", "angle", "triangle", "vec", "hat", "bar", "overline", "overrightarrow",
        "langle", "rangle", "lfloor", "rfloor", "lceil", "rceil", "mod", "bmod", "pmod", "not",
        "land", "lor", "mathfrak", "mathscr", "ddot", "circ",
    ]
)  # fmt: skip
_BEYOND = OPAQUE | {"dots", "circ", "ddot", "mathbb"}
_GIVEN = re.compile(r"\w\s*\|\s*\w")
_EMPTY_BRACES = re.compile(r"\{\s*\}")

_SHORT_WORDS = frozenset(
    [
        "no", "on", "to", "so", "of", "if", "is", "it", "in", "an", "am", "pm", "as", "at", "be",
        "by", "do", "go", "he", "hi", "me", "my", "ok", "or", "up", "us", "we", "ha", "oh", "ja",
        "si", "da", "ne", "ni", "no", "ah",
    ]
)  # fmt: skip
"""Two letters that are a word rather than a product."""


def is_only_words(tree: Node) -> bool:
    """True for a tree that is nothing but letters, which are text and no product."""
    if tree.op == "list":
        return all(map(is_only_words, tree.args))
    if tree.op == "add" and any(one.op == "word" for one in walk(tree)):
        # A hyphen: `x-axis`.
        return True
    if tree.op == "mul" and tree.value == "letters" and len(tree.args) == 2:
        return "".join(str(arg.value) for arg in tree.args).lower() in _SHORT_WORDS
    return (
        tree.op == "word"
        or (tree.op == "mul" and tree.value == "letters")
        or (tree.op == "mul" and all(map(is_only_words, tree.args)))
        or (
            tree.op == "sym"
            and len(tree.value) > 1
            and tree.value.isalpha()
            and tree.value.isupper()
        )
    )


def require_balance(text: str, gold: str) -> None:
    """Raise BadGold where the braces or the sized brackets of `text` do not close."""
    depth = 0
    escaped = False
    for char in text:
        if not escaped and char in "{}":
            depth += 1 if char == "{" else -1
        if depth < 0:
            break
        escaped = char == "\\" and not escaped
    if depth or text.count("\\left") - text.count("\\leftarrow") != (
        text.count("\\right") - text.count("\\rightarrow")
    ):
        raise BadGold(f"gold answer {gold!r} has brackets that do not close")


def is_opaque(text: str) -> bool:
    """True for sound mathematics beyond the grammar (integrals, logic), compared as text only."""
    commands = set(_COMMAND.findall(text))
    if not commands <= _KNOWN or not (commands & _BEYOND or _GIVEN.search(text)):
        return False
    whole = not _EMPTY_BRACES.search(text) and text[-1] not in "=+-*/^_<>|(,"
    return whole and all(text.count(one) == text.count(other) for one, other in ("()", "[]", "{}"))
