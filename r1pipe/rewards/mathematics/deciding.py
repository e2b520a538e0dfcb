"""Decides whether an answer is the gold answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from r1pipe.rewards.mathematics import (
    clock,
    denials,
    families,
    labels,
    parts,
    phrases,
    statements,
    steps,
    words,
)
from r1pipe.rewards.mathematics.comparing import same_answer
from r1pipe.rewards.mathematics.equations import same_congruence
from r1pipe.rewards.mathematics.evaluation import exact
from r1pipe.rewards.mathematics.nodes import BadGold, Node, Unreadable, names_in
from r1pipe.rewards.mathematics.readable import is_only_words, is_opaque, require_balance
from r1pipe.rewards.mathematics.reading import tree_of
from r1pipe.rewards.mathematics.scalars import is_value, peel
from r1pipe.rewards.mathematics.spelling import clean

MAX_GOLD = 20_000
"""Characters; a gold answer is short, and a longer one is a mistake in the data."""

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
    r"|,?\s*(?:or equivalently,?|or|i\.e\.,?|that is,?|equivalently,?)"
    r"(?:\s|\}|\\[ ,;])+(.{1,60}))\s*\}?"
)
"""`42 (forty-two)`, `1/2 or 0.5`: one value in two spellings."""

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

_REFUSED = re.compile(
    r"(?:is|was|seems|looks)\s+(?:not\s+(?:\w+\s+)?(?:correct|right|answer)|wrong|incorrect|false"
    r"|impossible|eliminated|excluded|ruled out)\b|(?:isn't|cannot be|can't be)\b",
    re.IGNORECASE,
)
"""`(B) is not the answer`."""

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
    "labelled",
]


_WORDED = frozenset(["choice", "letters", "text"])
"""Kinds of gold answers whose words may deny: `(C) impossible`."""


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
    denied = denials.is_denied(answer) and not denials.is_denied(gold)
    if denied and wanted.kind not in _WORDED:
        return False
    try:
        texts = [phrases.trim(answer)] if denied else _texts(_RUNS.sub(_one_space, answer))
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
    require_balance(text, gold)
    found = _special(text)
    if found is not None:
        return found
    tree = tree_of(text) or tree_of(text[:-60] + _INDEXED.sub("", text[-60:]))
    body, index = families.split_index(text)
    family = tree_of(body) if index else tree
    if family is not None and families.is_family(family, index):
        return Gold("family", text, index, family)
    if tree is not None and not is_only_words(tree):
        return Gold("tree", text, tree=tree)
    for shorter in phrases.readings(text)[1:]:
        tree = tree_of(shorter)
        if tree is not None and not is_only_words(tree) and text.endswith(shorter):
            return Gold("tree", shorter, tree=tree)
    if words.is_plain_text(text):
        return Gold("text", text, words.words_of(text))
    if is_opaque(clean(text)):
        return Gold("opaque", text, _squeezed(text))
    raise BadGold(f"gold answer {gold!r} cannot be read as mathematics")


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
    pairs = labels.labelled(text)
    tree = tree_of(text) if pairs else None
    equations = tree is not None and all(one.op == "rel" for one in tree.args)
    if pairs is not None and not equations and all(len(label) > 1 for label, _ in pairs):
        try:
            values = {label: _read_gold(value) for label, value in pairs}
        except BadGold:
            return None
        if all(value.kind == "tree" for value in values.values()):
            return Gold("labelled", text, values)
    return None


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
    if gold.kind == "labelled":
        pairs = dict(labels.labelled(text) or ())
        return pairs.keys() == gold.value.keys() and all(
            any(_matches(one, gold.value[label]) for one in phrases.readings(value))
            for label, value in pairs.items()
        )
    if gold.kind == "letters":
        return words.letters(text) == gold.value
    if gold.kind == "division":
        return (words.quotient(text) or (_bare(text), "0")) == gold.value
    if gold.kind == "date":
        return clock.date(text) == gold.value
    if gold.kind == "time":
        time = clock.time_of_day(statements.stated_time(text) or text)
        if time is not None:
            return clock.same_time(time, gold.value)
        return gold.tree is not None and _same_tree(text, gold.tree)
    if gold.kind == "text":
        return _is_text(text, gold.text)
    if gold.kind == "opaque":
        return _squeezed(text) == gold.value
    assert gold.tree is not None
    if gold.kind == "family":
        return _is_family(text, gold)
    return _is_tree(text, gold.text, gold.tree)


def _is_text(text: str, gold: str) -> bool:
    day = statements.stated_day(text)
    name = words.plain(gold)
    if (day is not None and day == name) or statements.is_said_of(words.plain(text), name):
        return True
    return words.same_text(text, gold) or (
        words.words_of(words.meaning_of(text)) == words.words_of(words.meaning_of(gold))
    )


def _is_tree(text: str, written: str, gold: Node) -> bool:
    """Compare with a gold answer that is mathematics; `written` is its text."""
    if _same_tree(text, gold):
        return True
    if _is_worked_out(text, gold) or _is_listed_with_labels(text, gold):
        return True
    indexed = _INDEXED.search(text[-60:])
    if indexed and "n" in names_in(gold):
        return _same_tree(text[: len(text) - len(indexed.group())], gold)
    about = _APPROXIMATELY.match(text)
    if about and _ROUNDED.fullmatch(written) and "±" not in text:
        # The gold is a decimal, so it may be the rounded number that the answer says it is.
        text = text[about.end() :]
        if _same_tree(text, gold):
            return True
    places = _PLACES.search(text[-80:])
    if places and _ROUNDED.fullmatch(written):
        value = text[: len(text) - len(places.group())]
        if _same_tree(value, gold):
            return True
    option = words.choice(text)
    if option is not None and option[1] and _same_tree(option[1], gold):
        return True
    if _is_said_twice(text, gold):
        return True
    division = words.quotient(text)
    return division is not None and division[1] == "0" and _same_tree(division[0], gold)


def _is_worked_out(text: str, gold: Node) -> bool:
    """True where the last of several steps of arithmetic gives the gold value."""
    if gold.op in ("list", "seq", "rel", "union", "congruence", "pm"):
        return False
    last = steps.last_step(text)
    return last is not None and _same_tree(last, gold)


def _is_listed_with_labels(text: str, gold: Node) -> bool:
    """Compare `the maximum is 5 and the minimum is -1` with a bare list of values.

    Values of single letters (`x: 2, y: 3`) are compared with equations by their names.
    """
    if gold.op != "list":
        return False
    pairs = labels.labelled(text)
    if pairs is None:
        return False
    if any(one.op == "rel" for one in gold.args):
        named = all(len(label) == 1 for label, _ in pairs)
        return named and _same_tree(", ".join(f"{n} = {v}" for n, v in pairs), gold)
    return all(len(label) > 1 for label, _ in pairs) and _same_tree(
        ", ".join(value for _, value in pairs), gold
    )


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
    if found[0] != letter or _REFUSED.match(found[1]):
        return False
    if not found[1] or not rest:
        return True
    if words.words_of(found[1]) == words.words_of(rest):
        return True
    return gold.tree is not None and _same_tree(found[1], gold.tree)


def _squeezed(text: str) -> str:
    """Return the cleaned text with single spaces: the same text is the same answer."""
    return " ".join(clean(text).split())
