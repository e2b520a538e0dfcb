"""Decides whether an answer is the gold answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from r1pipe.rewards.mathematics import clock, families, parts, phrases, words
from r1pipe.rewards.mathematics.atoms import GREEK, OPAQUE
from r1pipe.rewards.mathematics.comparing import same_answer
from r1pipe.rewards.mathematics.equations import same_congruence
from r1pipe.rewards.mathematics.evaluation import exact
from r1pipe.rewards.mathematics.nodes import BadGold, Node, Unreadable, names_in, walk
from r1pipe.rewards.mathematics.reading import tree_of
from r1pipe.rewards.mathematics.scalars import is_value, peel
from r1pipe.rewards.mathematics.spelling import clean
from r1pipe.rewards.mathematics.tokens import FUNCTIONS

MAX_GOLD = 20_000
"""Characters; a gold answer is short, and a longer one is a mistake in the data."""

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
_DECIMAL_COMMA = re.compile(
    r"[+−-]?\s*[€$£]?\s*\d+,(?:\d{1,2}|\d{4,})\s*(?:\\?%|[€$£]|[^\W\d_]+[²³]?)?"
)

_INDEXED = re.compile(
    r"(?:[\s,，;]|\\q?quad|\\[ ,;])*[(（]?\s*n\s*(?:\\in(?![a-z])|∈)\s*(?:\\mathbb|\\mathbf)?\s*"
    r"\{?\s*(?:N|ℕ|Z(?=\}?\s*[\^_]))\s*\}?\s*(?:[\^_]\s*\{?\s*[*+]\s*\}?)?\s*[)）]?\Z"
)
"""The index set of a sequence, `n \\in \\mathbb{N}^*`."""
_RUNS = re.compile(r"\s{3,}")
_SAID_TWICE = re.compile(
    r"(\S.{0,60}?)\$?(?:\s|\\[ ,;:]|\\q?quad)+(?:\\text\s*\{\s*)?"
    r"(?:\((?:or|i\.e\.|that is|which is|equivalently|=)?,?\s*(.{1,60})\)"
    r"|,?\s*(?:or|i\.e\.,?|or equivalently,?|equivalently,?)(?:\s|\}|\\[ ,;])+(.{1,60}))\s*\}?"
)
"""`42 (forty-two)`, `1/2 or 0.5`: one value in two spellings."""

_SHORT_WORDS = frozenset(
    [
        "no", "on", "to", "so", "of", "if", "is", "it", "in", "an", "am", "pm", "as", "at", "be",
        "by", "do", "go", "he", "hi", "me", "my", "ok", "or", "up", "us", "we", "ha", "oh", "ja",
        "si", "da", "ne", "ni", "no", "ah",
    ]
)  # fmt: skip
"""Two letters that are a word rather than a product."""
_APPROXIMATELY = re.compile(
    r"(?:[A-Za-z]\w*\s*)?(?:\\approx|≈|≃|\\simeq|~|\\sim)(?![a-zA-Z])\s*"
    r"|(?:is\s+)?(?:about|approximately|approx\.?|roughly|around|circa|ca\.|约|大约|约为)\s*",
    re.IGNORECASE,
)
_COUNT = r"(?:\d|one|two|three|four|five|six)"
_PLACES = re.compile(
    rf"[\s,;~\\]*(?:\\text\s*\{{)?\s*\(?\s*(?:(?:correct|accurate|rounded|given)?\s*(?:to|at"
    rf"|with)\s+)?"
    rf"(?:(?:the\s+)?nearest\s+(?:tenth|hundredth|thousandth|cent|penny|{_COUNT} decimal places?)"
    rf"|{_COUNT}\s*(?:decimal\s+places?|decimals?|d\.?\s?p\.?|s\.?\s?f\.?"
    rf"|sig(?:nificant)?\.?\s+fig(?:ure)?s?))"
    r"\s*\)?\s*\}?\Z",
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"[^/\\=(\[{]*\d[.,]\d+\D*|[^/=]*\d\.\d+\s*\\[%,; a-z{}]*")
_TUPLE = re.compile(r"\([^()]*,")

_BEYOND = OPAQUE | {"dots", "circ", "ddot", "mathbb"}
_GIVEN = re.compile(r"\w\s*\|\s*\w")
_EMPTY_BRACES = re.compile(r"\{\s*\}")

Kind = Literal[
    "choice",
    "letters",
    "time",
    "date",
    "division",
    "text",
    "tree",
    "opaque",
    "family",
    "parts",
]


@dataclass(frozen=True)
class Gold:
    """What a gold answer was read as."""

    kind: Kind
    text: str
    value: Any = None
    tree: Node | None = None


def decide(answer: str, gold: str) -> bool:
    """Return whether `answer` is right. Raises BadGold; never raises on `answer`."""
    wanted = _read_gold(gold)
    if len(answer) > 4 * len(gold) + 2000:
        return False
    try:
        texts = _texts(_RUNS.sub(_one_space, answer))
        if wanted.kind == "choice":
            # The first letter named is the choice, whatever a later phrase names.
            texts = next(([text] for text in texts if words.choice(text)), texts)
        return any(_matches(text, wanted) for text in texts)
    except (Unreadable, ValueError, ArithmeticError, RecursionError, LookupError):
        return False


def _one_space(run: re.Match[str]) -> str:
    return "\n" if "\n" in run.group() else " "


def require_readable(gold: str) -> None:
    """Raise BadGold where a gold answer cannot be read."""
    _read_gold(gold)


def _texts(answer: str) -> list[str]:
    """Return what an answer may mean, from the whole text to the answer in it."""
    if not phrases.boxes(answer):
        return phrases.readings(answer)
    whole = phrases.readings(phrases.unboxed(answer))
    if any(tree_of(text) is not None for text in whole):
        return whole
    content = phrases.only_box(answer)
    return whole if content is None else [*whole, *phrases.readings(content)]


# Gold.


@lru_cache(maxsize=8192)
def _read_gold(gold: str) -> Gold:
    if len(gold) > MAX_GOLD:
        raise BadGold(f"gold answer of {len(gold)} characters is too long")
    text = phrases.trim(phrases.unboxed(phrases.trim(gold)))
    if not any(char.isalnum() or char in "∅∞{}ℝ∈°$√½" for char in text):
        raise BadGold(f"gold answer {gold!r} says nothing")
    _require_balance(text, gold)
    found = _special(text)
    if found is not None:
        return found
    tree = tree_of(text) or tree_of(text[:-60] + _INDEXED.sub("", text[-60:]))
    body, index = families.split_index(text)
    family = tree_of(body) if index else tree
    if family is not None and families.is_family(family, index):
        return Gold("family", text, index, family)
    if tree is not None and not _is_only_words(tree):
        return Gold("tree", text, tree=tree)
    for shorter in phrases.readings(text)[1:]:
        tree = tree_of(shorter)
        if tree is not None and not _is_only_words(tree) and text.endswith(shorter):
            return Gold("tree", shorter, tree=tree)
    if words.is_plain_text(text):
        return Gold("text", text, words.words_of(text))
    if _is_opaque(clean(text)):
        return Gold("opaque", text, _squeezed(text))
    raise BadGold(f"gold answer {gold!r} cannot be read as mathematics")


def _is_opaque(text: str) -> bool:
    """True for sound mathematics beyond the grammar (integrals, logic), compared as text only."""
    commands = set(_COMMAND.findall(text))
    if not commands <= _KNOWN or not (commands & _BEYOND or _GIVEN.search(text)):
        return False
    whole = not _EMPTY_BRACES.search(text) and text[-1] not in "=+-*/^_<>|(,"
    return whole and all(text.count(one) == text.count(other) for one, other in ("()", "[]", "{}"))


def _special(text: str) -> Gold | None:
    """Read choice letters, times and dates."""
    several = parts.parts_of(text)
    if several is not None:
        return Gold("parts", text, tuple(map(_read_gold, several)))
    found = words.gold_choice(text)
    if found is not None:
        rest = found[1]
        tree = tree_of(rest) if rest else None
        return Gold("choice", text, (found[0], rest), tree)
    several = words.letters(text, of_gold=True)
    if several is not None and not _TUPLE.match(text):
        return Gold("letters", text, several)
    division = words.quotient(text)
    if division is not None:
        return Gold("division", text, division)
    day = clock.date(text)
    if day is not None:
        return Gold("date", text, day)
    time = clock.time_of_day(text)
    if time is not None:
        return Gold("time", text, time, tree_of(text))
    return None


def _is_only_words(tree: Node) -> bool:
    """True for a tree that is nothing but letters, which are text and no product."""
    if tree.op == "list":
        return all(map(_is_only_words, tree.args))
    if tree.op == "add" and any(one.op == "word" for one in walk(tree)):
        # A hyphen: `x-axis`.
        return True
    if tree.op == "mul" and tree.value == "letters" and len(tree.args) == 2:
        return "".join(str(arg.value) for arg in tree.args).lower() in _SHORT_WORDS
    return (
        tree.op == "word"
        or (tree.op == "mul" and tree.value == "letters")
        or (tree.op == "mul" and all(map(_is_only_words, tree.args)))
        or (
            tree.op == "sym"
            and len(tree.value) > 1
            and tree.value.isalpha()
            and tree.value.isupper()
        )
    )


def _require_balance(text: str, gold: str) -> None:
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


# Answers.


def _matches(text: str, gold: Gold) -> bool:
    """Return whether one reading of an answer is the gold answer."""
    if not text:
        return False
    if _squeezed(text) == _squeezed(gold.text):
        return True
    if gold.kind == "choice":
        return _is_choice(text, gold)
    if gold.kind == "parts":
        given = parts.parts_of(text) or parts.in_order(text, len(gold.value)) or ()
        return len(given) == len(gold.value) and all(
            any(_matches(one, wanted) for one in phrases.readings(part))
            for part, wanted in zip(given, gold.value, strict=True)
        )
    if gold.kind == "letters":
        return words.letters(text) == gold.value
    if gold.kind == "division":
        return (words.quotient(text) or (_bare(text), "0")) == gold.value
    if gold.kind == "date":
        return clock.date(text) == gold.value
    if gold.kind == "time":
        time = clock.time_of_day(text)
        if time is not None:
            return clock.same_time(time, gold.value)
        return gold.tree is not None and _same_tree(text, gold.tree)
    if gold.kind == "text":
        return words.same_text(text, gold.text) or (
            words.words_of(words.meaning_of(text)) == words.words_of(words.meaning_of(gold.text))
        )
    if gold.kind == "opaque":
        return _squeezed(text) == gold.value
    assert gold.tree is not None
    if gold.kind == "family":
        return _is_family(text, gold)
    if _same_tree(text, gold.tree):
        return True
    indexed = _INDEXED.search(text[-60:])
    if indexed and "n" in names_in(gold.tree):
        return _same_tree(text[: len(text) - len(indexed.group())], gold.tree)
    about = _APPROXIMATELY.match(text)
    if about and _ROUNDED.fullmatch(gold.text) and "±" not in text:
        # The gold is a decimal, so it may be the rounded number that the answer says it is.
        text = text[about.end() :]
        if _same_tree(text, gold.tree):
            return True
    places = _PLACES.search(text[-80:])
    if places and _ROUNDED.fullmatch(gold.text):
        value = text[: len(text) - len(places.group())]
        if _same_tree(value, gold.tree):
            return True
    option = words.choice(text)
    if option is not None and option[1] and _same_tree(option[1], gold.tree):
        return True
    if _is_said_twice(text, gold.tree):
        return True
    division = words.quotient(text)
    return division is not None and division[1] == "0" and _same_tree(division[0], gold.tree)


def _is_said_twice(text: str, gold: Node) -> bool:
    said = _SAID_TWICE.fullmatch(text) if len(text) <= 200 else None
    if said is None or gold.op in ("list", "seq", "rel", "union", "congruence", "pm"):
        return False
    first, second = said[1].strip("$ ,"), (said[2] or said[3]).strip("$ ")
    one, other = tree_of(first), tree_of(second)
    if one is None or other is None or "base" in (one.op, other.op):
        return False
    if not same_answer(one, other) and not same_answer(other, one):
        # `24 km or 24 miles` for 24 without a unit.
        return False
    return first != second and _same_tree(first, gold) and _same_tree(second, gold)


def _is_family(text: str, gold: Gold) -> bool:
    whole = tree_of(gold.text)
    if whole is not None and _same_tree(text, whole):
        return True
    body, index = families.split_index(text)
    tree = tree_of(body)
    assert gold.tree is not None
    try:
        if tree is not None and tree.op == "congruence":
            return same_congruence(tree, gold.tree)
        return tree is not None and families.same_family(tree, index, gold.tree, gold.value)
    except Unreadable:
        return False


def _bare(text: str) -> str:
    return text.lstrip("0") or "0"


def _same_tree(text: str, gold: Node) -> bool:
    if gold.op == "ratio":
        text = re.sub(r"\s+to\s+", ":", text)
    tree = tree_of(text)
    if tree is not None and same_answer(tree, gold):
        return True
    number = peel(gold)[0]
    value = exact(number) if is_value(number) else None
    if value is not None and _DECIMAL_COMMA.fullmatch(text):
        # The decimal comma of most of Europe, where the gold is no whole number.
        tree = tree_of(text.replace(",", "."))
        return tree is not None and value.denominator > 1 and same_answer(tree, gold)
    return False


def _is_choice(text: str, gold: Gold) -> bool:
    letter, rest = gold.value
    found = words.choice(text)
    if found is None:
        return bool(rest) and (
            words.words_of(text) == words.words_of(rest)
            or (gold.tree is not None and _same_tree(text, gold.tree))
        )
    if found[0] != letter:
        return False
    if not found[1] or not rest:
        return True
    if words.words_of(found[1]) == words.words_of(rest):
        return True
    return gold.tree is not None and _same_tree(found[1], gold.tree)


def _squeezed(text: str) -> str:
    """Return the cleaned text with single spaces: the same text is the same answer."""
    return " ".join(clean(text).split())
