"""Numbers that are written as words: `twenty-one`, `three quarters`, `2 million`, `三`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from r1pipe.rewards.mathematics.nodes import num
from r1pipe.rewards.mathematics.units import unit_named

if TYPE_CHECKING:
    from r1pipe.rewards.mathematics.tokens import Token

_SMALL = {
    word: value
    for value, word in enumerate(
        [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
        "eighteen", "nineteen",
    ]
    )
}  # fmt: skip
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_FOREIGN = {
    word: value
    for words in (
        "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать"
        " тринадцать четырнадцать пятнадцать шестнадцать семнадцать восемнадцать девятнадцать"
        " двадцать",
        "nul eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn"
        " fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig",
        "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze"
        " seize dix-sept dix-huit dix-neuf vingt",
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez onze doce trece catorce quince"
        " dieciséis diecisiete dieciocho diecinueve veinte",
    )
    for value, word in enumerate(words.split())
}
_FOREIGN |= dict(
    zip(
        [
            "тридцать",
            "сорок",
            "пятьдесят",
            "шестьдесят",
            "семьдесят",
            "восемьдесят",
            "девяносто",
            "сто",
        ],
        range(30, 101, 10),
        strict=True,
    )
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20,
    "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS |= {f"{word}s": value for word, value in _PARTS.items()} | {"halves": 2}
_CHINESE = dict(zip("零一二三四五六七八九", range(10), strict=True)) | {"两": 2, "〇": 0}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_SCALES = {"万": 10**4, "亿": 10**8}


def merge_number_words(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens with each run of number words as one number."""
    merged: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        value, used = None, 1
        if token.kind == "word" or token.text in ("a", "A"):
            value, used = _english(tokens, at)
            if value is None:
                value, used = chinese_number(token.text), 1
            if value is None and token.text.lower() in _FOREIGN:
                value, used = _foreign(tokens, at)
            if value is None and (split := _number_and_unit(token.text)):
                merged.append(replace(token, kind="num", node=num(split[0]), quoted=False))
                merged.append(replace(token, text=split[1], spaced=False))
                at += 1
                continue
        elif token.kind == "num" and token.node is not None and token.node.op == "num":
            following = tokens[at + 1]
            if following.kind == "word" and following.text.lower() in _SCALES:
                value, used = token.node.value * _SCALES[following.text.lower()], 2
            elif following.kind == "word" and following.text in _CHINESE_SCALES:
                value, used = token.node.value * _CHINESE_SCALES[following.text], 2
        if value is None:
            merged.append(token)
        else:
            merged.append(replace(token, kind="num", node=num(Fraction(value)), quoted=False))
        at += used if value is not None else 1
    return merged


def _foreign(tokens: Sequence[Token], at: int) -> tuple[Fraction | None, int]:
    """Return the value of a number word of another language; Russian ones may be two words."""
    value = _FOREIGN[tokens[at].text.lower()]
    following = _FOREIGN.get(tokens[at + 1].text.lower(), 0)
    if 20 <= value < 100 and 0 < following < 10:
        return Fraction(value + following), 2
    return Fraction(value), 1


def _english(tokens: Sequence[Token], at: int) -> tuple[Fraction | None, int]:
    """Return the value of the number words from `at` on, and how many tokens they take."""
    words: list[str] = []
    ends: list[int] = []
    start = at
    while at < len(tokens) and len(words) < 30:
        word = tokens[at].text.lower()
        if tokens[at].text == "-" and words and (words[-1] in _TENS or words[-1] in _SMALL):
            following = tokens[at + 1].text.lower()
            if following not in _PARTS and (words[-1] in _SMALL or following not in _SMALL):
                break
        elif tokens[at].kind in ("word", "sym") and _is_number_word(word):
            words.append(word)
            ends.append(at)
        else:
            break
        at += 1
    while words and words[-1] == "and":
        words.pop()
        ends.pop()
    if words == ["half"] and tokens[at].text.lower() in ("a", "an"):
        return Fraction(1, 2), 2
    if words == ["half", "a"]:
        return Fraction(1, 2), 2
    if words == ["dozen"]:
        return Fraction(12), 1
    if not words or words[0] in ("and", "hundred", *_SCALES):
        return None, 1
    value = _value_of(words)
    return (value, ends[-1] - start + 1) if value is not None else (None, 1)


def _is_number_word(word: str) -> bool:
    return (
        word in _SMALL or word in _TENS or word in _SCALES or word in _PARTS
        or word in ("and", "a", "hundred")
    )  # fmt: skip


def _value_of(words: list[str]) -> Fraction | None:
    """Return the value of English number words in their usual order, else None."""
    if len(words) > 3 and words[-3:-1] == ["and", "a"] and words[-1] in _PARTS:
        whole = _value_of(words[:-3])
        return None if whole is None else whole + Fraction(1, _PARTS[words[-1]])
    if len(words) == 2 and words[0] == "a" and words[1] in ("hundred", *_SCALES):
        # `a thousand`, but not `a thousand and one`, which few would write so.
        return Fraction(_SCALES.get(words[1], 100))
    if words[0] == "a":
        return Fraction(1, _PARTS[words[1]]) if len(words) == 2 and words[1] in _PARTS else None
    if "a" in words:
        return None
    total, group, last = 0, 0, ""
    for index, word in enumerate(words):
        if word in _PARTS:
            if index != len(words) - 1:
                return None
            count = total + group
            if index == 0:
                if word not in ("half", "quarter"):
                    return None
                count = 1
            return Fraction(count, _PARTS[word]) if "and" not in words else None
        if word == "and":
            if last not in ("hundred", "scale"):
                return None
            continue
        if word in _SMALL:
            if last == "small" or (last == "tens" and not 0 < _SMALL[word] < 10):
                return None
            group += _SMALL[word]
            last = "small"
        elif word in _TENS:
            if last in ("small", "tens"):
                return None
            group += _TENS[word]
            last = "tens"
        elif word == "hundred":
            if not 0 < group < 100:
                return None
            group *= 100
            last = "hundred"
        else:
            if not group:
                return None
            total, group, last = total + group * _SCALES[word], 0, "scale"
    return Fraction(total + group)


def _number_and_unit(text: str) -> tuple[Fraction, str] | None:
    """Split `五厘米` into its number and its unit, None for other words."""
    if unit_named(text):
        return None
    for length in range(min(len(text) - 1, 10), 0, -1):
        value = chinese_number(text[:length])
        if value is not None:
            return (value, text[length:]) if unit_named(text[length:]) else None
    return None


def chinese_number(text: str) -> Fraction | None:
    """Return the value of a number in Chinese characters, also `五分之三`, else None."""
    if len(text) > 30:
        return None
    if text.startswith("负"):
        value = chinese_number(text[1:])
        return None if value is None else -value
    if text == "一半":
        return Fraction(1, 2)
    if "分の" in text:
        text = text.replace("分の", "分之")
    if "分之" in text:
        bottom, _, top = text.partition("分之")
        below, above = _chinese_integer(bottom), _chinese_integer(top)
        return Fraction(above, below) if above is not None and below else None
    value = _chinese_integer(text)
    return None if value is None else Fraction(value)


def _chinese_integer(text: str) -> int | None:
    total, group, digit = 0, 0, None
    if not text:
        return None
    if len(text) > 1 and all(char in _CHINESE for char in text):
        return int("".join(str(_CHINESE[char]) for char in text))
    for char in text:
        if char in _CHINESE:
            if digit:
                return None
            digit = _CHINESE[char]
        elif char in _CHINESE_UNITS:
            group += (1 if digit is None else digit) * _CHINESE_UNITS[char]
            digit = None
        elif char in _CHINESE_SCALES:
            total += (group + (digit or 0)) * _CHINESE_SCALES[char]
            group, digit = 0, None
        else:
            return None
    return total + group + (digit or 0)
