"""Decides whether an answer is the gold answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from r1pipe.rewards.mathematics import clock, families, phrases, words
from r1pipe.rewards.mathematics.atoms import GREEK, OPAQUE
from r1pipe.rewards.mathematics.comparing import same_answer
from r1pipe.rewards.mathematics.evaluation import exact
from r1pipe.rewards.mathematics.grammar import parse
from r1pipe.rewards.mathematics.nodes import BadGold, Node, Unreadable, walk
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

_SAID_TWICE = re.compile(r"(\S[^()]{0,40}?)\s+\(([^()]*[^\W\d_][^()]*)\)")
"""`42 (forty-two)`: the second time in words."""

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
    rf"[\s,;~\\]*(?:\\text\s*\{{)?\s*\(?\s*(?:(?:correct|accurate|rounded|given)?\s*(?:to|at|with)\s+)?"
    rf"(?:(?:the\s+)?nearest\s+(?:tenth|hundredth|thousandth|cent|penny|{_COUNT} decimal places?)"
    rf"|{_COUNT}\s*(?:decimal\s+places?|decimals?|d\.?\s?p\.?|s\.?\s?f\.?|sig(?:nificant)?\.?\s+fig(?:ure)?s?))"
    r"\s*\)?\s*\}?\Z",
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"[^/\\=(\[{]*\d[.,]\d+\D*|[^/=]*\d\.\d+\s*\\[%,; a-z{}]*")
_TUPLE = re.compile(r"\([^()]*,")

_BEYOND = OPAQUE | {"dots", "circ", "ddot", "mathbb"}
_GIVEN = re.compile(r"\w\s*\|\s*\w")
_EMPTY_BRACES = re.compile(r"\{\s*\}")

_DOUBT = re.compile(r"\\(?:le|ge|ne|approx|pm|Rightarrow|iff|neg)(?![a-zA-Z])|\?|\bnot\b")

Kind = Literal[
    "choice", "letters", "time", "date", "division", "text", "tree", "opaque", "family"
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
        texts = _texts(answer)
        if wanted.kind == "choice":
            # The first letter named is the choice, whatever a later phrase names.
            texts = next(([text] for text in texts if words.choice(text)), texts)
        return any(_matches(text, wanted) for text in texts)
    except (Unreadable, ValueError, ArithmeticError, RecursionError, LookupError):
        return False


def require_readable(gold: str) -> None:
    """Raise BadGold where a gold answer cannot be read."""
    _read_gold(gold)


def _texts(answer: str) -> list[str]:
    """Return what an answer may mean, from the whole text to the answer in it."""
    if not phrases.boxes(answer):
        return phrases.readings(answer)
    whole = phrases.readings(phrases.unboxed(answer))
    if any(_tree(text) is not None for text in whole):
        return whole
    content = phrases.only_box(answer)
    return whole if content is None else [*whole, *phrases.readings(content)]


@lru_cache(maxsize=8192)
def _tree(text: str) -> Node | None:
    try:
        return _parsed(text)
    except Unreadable:
        return None


def _parsed(text: str) -> Node:
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
    return len(text) < 200 and not re.search(
        r"\b(?:not|or|either|if|because|since|but|so|then|maybe)\b|[,;\n<>]|\\ne\b|≠", label
    )


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
    tree = _tree(text)
    body, index = families.split_index(text)
    family = _tree(body) if index else tree
    if family is not None and families.is_family(family, index):
        return Gold("family", text, index, family)
    if tree is not None and not _is_only_words(tree):
        return Gold("tree", text, tree=tree)
    for shorter in phrases.readings(text)[1:]:
        tree = _tree(shorter)
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
    found = words.gold_choice(text)
    if found is not None:
        rest = found[1]
        tree = _tree(rest) if rest else None
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
        return Gold("time", text, time, _tree(text))
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
    about = _APPROXIMATELY.match(text)
    if about and _ROUNDED.fullmatch(gold.text) and "±" not in text:
        # The gold is a decimal, so it may be the rounded number that the answer says it is.
        text = text[about.end() :]
        if _same_tree(text, gold.tree):
            return True
    places = _PLACES.search(text)
    if places and _ROUNDED.fullmatch(gold.text) and _same_tree(text[: places.start()], gold.tree):
        return True
    option = words.choice(text)
    if option is not None and option[1] and _same_tree(option[1], gold.tree):
        return True
    said_twice = _SAID_TWICE.fullmatch(text)
    if said_twice and all(_same_tree(part, gold.tree) for part in said_twice.groups()):
        return True
    division = words.quotient(text)
    return division is not None and division[1] == "0" and _same_tree(division[0], gold.tree)


def _is_family(text: str, gold: Gold) -> bool:
    whole = _tree(gold.text)
    if whole is not None and _same_tree(text, whole):
        return True
    body, index = families.split_index(text)
    tree = _tree(body)
    assert gold.tree is not None
    try:
        return tree is not None and families.same_family(tree, index, gold.tree, gold.value)
    except Unreadable:
        return False


def _bare(text: str) -> str:
    return text.lstrip("0") or "0"


def _same_tree(text: str, gold: Node) -> bool:
    if gold.op == "ratio":
        text = re.sub(r"\s+to\s+", ":", text)
    tree = _tree(text)
    if tree is not None and same_answer(tree, gold):
        return True
    number = peel(gold)[0]
    value = exact(number) if is_value(number) else None
    if value is not None and _DECIMAL_COMMA.fullmatch(text):
        # The decimal comma of most of Europe, where the gold is no whole number.
        tree = _tree(text.replace(",", "."))
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
