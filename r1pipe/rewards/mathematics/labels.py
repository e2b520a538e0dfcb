"""Reads values that carry labels: `maximum 5, minimum -3`, `Alice has 12 and Bob has 7`."""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.denials import is_denied
from r1pipe.rewards.mathematics.sentences import HEDGING
from r1pipe.rewards.mathematics.units import set_of, unit_named

MAX_LABELS = 8
_MAX_TEXT = 400
_SPLIT = re.compile(r"\s*(?:[;；，、\n]|,(?!\d{3}(?!\d)))\s*(?:and\s+)?|\s+and\s+|\s*[和且]\s*")
_SEGMENT = re.compile(
    r"(?P<label>[^\W\d_](?:[^\W\d_]|[\s'’-])*?)\s*"
    r"(?P<joint>[:：=]|\b(?:is|are|was|were|has|had|have|gets|got|equals)\b|[为是]|(?<=\S)(?=\s))"
    r"\s*(?P<value>(?:\$\s?)?[-+−]?\s*(?:\\?[$€£])?(?:\d|\\(?:d?frac|sqrt|pi)|[√π]).*)",
    re.DOTALL,
)
_MORE = re.compile(
    r"[=<>]|\\(?:le|ge|ne|approx|pm)(?![a-z])|[^\W\d_]{2}.*\s\d|\bor\b|或", re.DOTALL
)
"""What makes a value more than one."""
_ALIASES = {
    "max": "maximum", "maximal": "maximum", "maxima": "maximum", "最大值": "maximum",
    "min": "minimum", "minimal": "minimum", "最小值": "minimum", "1st": "first", "2nd": "second",
}  # fmt: skip
_DROPPED = set_of("the a an value its final answer number")
_NOT_LABELS = set_of(
    "let by in on at of to for from with as divide add subtract multiply take consider choose"
    " either sqrt pi sin cos tan log ln mod gcd lcm binom frac text"
)
_QUALIFYING = HEDGING - set_of(
    "first second third fourth maximum minimum one two three other some larger smaller greater root"
)


def labelled(text: str) -> list[tuple[str, str]] | None:
    """Return the labels and values of a text that is two to eight such pairs, else None.

    A label is in small letters, without articles; a single letter keeps its case. Labels that
    occur twice, qualify their value (`about`, `not`, `or`) or are unit names give None.
    """
    if len(text) > _MAX_TEXT or "?" in text or is_denied(text):
        return None
    text = text.strip(" .。")
    found: list[tuple[str, str]] = []
    for segment in _SPLIT.split(text):
        match = _SEGMENT.fullmatch(segment.strip().strip("."))
        if match is None or len(found) == MAX_LABELS:
            return None
        label = _label(match["label"])
        value = match["value"].strip()
        if label is None or _MORE.search(value):
            return None
        if value.count("$") % 2 and not re.match(r"\$\s?[\d-]", value):
            return None
        found.append((label, value))
    labels = [label for label, _ in found]
    return found if len(found) > 1 and len(set(labels)) == len(labels) else None


def _label(text: str) -> str | None:
    words: list[str] = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text)
    folded = [_ALIASES.get(word.lower(), word.lower()) for word in words]
    if not 1 <= len(words) <= 6 or (_QUALIFYING | _NOT_LABELS).intersection(folded):
        return None
    if len(text) == 1:
        return text
    if len(words) == 1 and unit_named(text) and folded[0] not in ("minimum", "second"):
        return None
    kept = [word for word in folded if word not in _DROPPED]
    return " ".join(kept) or None
