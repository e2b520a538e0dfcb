"""Reads the time, the day or the name that a sentence states: `The train arrives at 9:05 AM.`"""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.denials import is_denied
from r1pipe.rewards.mathematics.sentences import HEDGING
from r1pipe.rewards.mathematics.units import set_of

_MAX_TEXT = 120
_DAYS = (
    "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|January|February|March|April|May"
    "|June|July|August|September|October|November|December"
)
_WORDS = r"(?P<words>[A-Za-z]+(?: [A-Za-z]+){0,9})"
_TIME = re.compile(
    rf"{_WORDS} (?P<joint>at|is|was) (?:exactly )?"
    r"(?P<value>\d{1,2}(?::\d{2})? ?(?:[AaPp]\.? ?[Mm]\.?)?)"
)
_DAY = re.compile(rf"{_WORDS} (?P<joint>on|in|is|was|be)(?: an?)? (?P<value>{_DAYS})")
_NAME = re.compile(r"(?P<name>[A-Z][a-z]+) (?P<verb>[a-z]+)(?P<rest>(?: [a-z]+){0,8})")
_NOT_SAID = set_of(
    "yesterday tomorrow "
    "minutes hours past to next previous following day days week weeks month months"
)
_STATING = set_of(
    "is was has had won wins finished finishes ran runs got gets scored scores came comes earned"
    " earns ate eats paid pays weighs read reads sold sells did does owns lives drives"
)
_LOSING = set_of("behind last least lost loses lowest worst lying liar slowest loser")
_ALLOWED = set_of("first most one longer double")
_NO_NAMES = set_of(
    "yes no true false none all both every each any never always infinity undefined everyone"
    " nobody someone anyone it he she they we you this that there here what which who"
)


def stated_time(text: str) -> str | None:
    """Return the one time that a sentence states, None for anything else."""
    found = _TIME.fullmatch(text.strip().rstrip("!")) or _TIME.fullmatch(text.strip(" .!"))
    return found["value"] if found and _is_plain(text, found["words"], _NOT_SAID) else None


def stated_day(text: str) -> str | None:
    """Return the one weekday or month that a sentence states, None for anything else."""
    found = _DAY.fullmatch(text.strip(" .!"))
    if found is None or re.search(rf"\b(?:{_DAYS})\b", found["words"]):
        return None
    several = _NOT_SAID - set_of("day month")
    return found["value"] if _is_plain(text, found["words"], several) else None


def is_said_of(text: str, name: str) -> bool:
    """True where the text is a statement of which `name`, one capitalised word, is the subject."""
    found = _NAME.fullmatch(text.strip(" .!"))
    if found is None or found["name"] != name or name.lower() in _NO_NAMES | HEDGING:
        return False
    words = set(found["rest"].split())
    if found["verb"] not in _STATING or words & ((HEDGING - _ALLOWED) | _LOSING):
        return False
    return not is_denied(text) and "?" not in text


def _is_plain(text: str, words: str, refused: frozenset[str]) -> bool:
    said = words.lower().split()
    if len(text) > _MAX_TEXT or is_denied(text) or "?" in text:
        return False
    asks = said[0] in ("is", "was", "does", "did", "will", "if", "let", "suppose", "when")
    return not asks and not (HEDGING | refused).intersection(said)
