"""Finds an answer that only repeats the calculation which the question asks for."""

from __future__ import annotations

import re

_MAX_ANSWER = 500
_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/"})
_DASHES = str.maketrans(dict.fromkeys("−–‐‑﹣－", "-"))
_FRACTION = re.compile(
    r"\\[dtc]?frac\s{0,9}(?:\{([^{}]{0,99})\}|(\d))\s{0,9}(?:\{([^{}]{0,99})\}|(\d))"
)
_REWRITES = (
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])|\*\*"), lambda m: "^" if m[0] == "**" else "*"),
    (re.compile(r"\\div(?![A-Za-z])|(?<=\d)\s?:\s?(?=\d)"), lambda m: "/"),
    (re.compile(r"\\sqrt(?![A-Za-z])|√"), lambda m: "sqrt"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ()\[\]]|[$`]"), lambda m: ""),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), lambda m: ""),
    (re.compile(r"[{}]"), lambda m: "(" if m[0] == "{" else ")"),
    (re.compile(r"\s+"), lambda m: " "),
    (re.compile(r" ?([-+*/^]) ?"), lambda m: m[1]),
    (re.compile(r"(?<=\() | (?=\))"), lambda m: ""),
)
_CALCULATION = re.compile(r"(?:sqrt|[-+*/^().!\d])+")
_OPERATION = re.compile(r"[\d!)][-+*/^]|\d!|sqrt")


def restates(answer: str, gold: str, prompt: str) -> bool:
    """True where `answer` is a calculation that `prompt` asks for and `gold` does not state.

    `84/12`, `17 × 23` and `\\frac{84}{12}` restate "What is 84 / 12?" and the like. The whole
    calculation counts, not a part of it: in "What is 1/2 + 0?" the answer `1/2` is a result.
    """
    if len(answer) > _MAX_ANSWER or not any(char.isdigit() for char in answer):
        return False
    asked = _plain(answer.strip().rstrip(".")).rpartition("=")[2].strip()
    if not _CALCULATION.fullmatch(asked) or not _OPERATION.search(asked):
        return False
    bare = _bare(asked)
    if bare == _bare(_plain(gold).strip()):
        return False
    return any(_bare(found) == bare for found in _CALCULATION.findall(_plain(prompt)))


def _plain(text: str) -> str:
    """Return `text` with one spelling for each operation and no space around it."""
    text = _FRACTION.sub(_over, text.translate(_SIGNS).translate(_DASHES))
    for pattern, spelling in _REWRITES:
        text = pattern.sub(spelling, text)
    return text


def _over(match: re.Match[str]) -> str:
    return f"{match[1] or match[2] or ''}/{match[3] or match[4] or ''}"


def _bare(calculation: str) -> str:
    """Return a calculation without brackets and what punctuation left at its ends."""
    return re.sub(r"[()]", "", calculation).strip("+*/^.").rstrip("-!")
