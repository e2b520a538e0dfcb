"""Times of day and dates."""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.words import plain

_TIME = re.compile(
    r"(?:at )?(\d{1,2})(?:\s*[:.hH]\s*(\d{2}))?(?:\s*:\s*(\d{2}))?\s*(?:o'clock)?\s*"
    r"(am|pm|a\.\s?m\.?|p\.\s?m\.?|a\. ?m|p\. ?m)?(?:\s*(?:Uhr|h|hrs|hours|o'clock))?",
    re.IGNORECASE,
)
_CHINESE_TIME = re.compile(
    r"(上午|下午|晚上|早上|中午|凌晨)?\s*(\d{1,2})(?:点|时|:)\s*(?:(\d{1,2})分?|(半))?(?:钟|整)?"
)
_NAMED = {"noon": 720, "midnight": 0, "12 noon": 720, "12 midnight": 0, "正午": 720, "午夜": 0}
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun",
            "july jul", "august aug", "september sept sep", "october oct", "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_MONTH = r"([A-Za-z]{3,9})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
_DATES = (
    (re.compile(rf"{_WEEKDAY}{_MONTH}\s*{_DAY}(?:\s*,?\s+(\d{{4}}))?", re.IGNORECASE), "mdy"),
    (
        re.compile(
            rf"{_WEEKDAY}(?:the )?{_DAY}\s+(?:of )?{_MONTH}(?:,?\s+(\d{{4}}))?", re.IGNORECASE
        ),
        "dmy",
    ),
    (re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"), "ymd"),
    (re.compile(r"(\d{4})\s*年\s*(\d{1,2})\s*月\s*(\d{1,2})\s*[日号]"), "ymd"),
    (re.compile(r"(\d{1,2})\s*月\s*(\d{1,2})\s*[日号]"), "md"),
    (re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})"), "dmy"),
    (re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})"), "slashes"),
)

Date = tuple[int | None, int, int]


def time_of_day(text: str) -> tuple[int, bool] | None:
    """Return the seconds since midnight, and whether morning or afternoon is said.

    None for anything that is not a time; `3:30` is one, `3` and `3.30` alone are not.
    """
    text = plain(text)
    if text.casefold() in _NAMED:
        return _NAMED[text.casefold()] * 60, True
    match = _TIME.fullmatch(text)
    if match is None:
        return _chinese_time(text)
    hour, minute, second = (int(group or 0) for group in match.groups()[:3])
    half = (match[4] or "").lower()[:1]
    said = "o'clock" in text.lower()
    if not half and not said and (match[2] is None or not re.match(r"\d+\s*:", text)):
        return None
    if minute > 59 or second > 59 or hour > (12 if half else 24) or (half and not hour):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    # Twenty-four hour style says the half of the day: 15:30, 03:30.
    clear = bool(half) or hour > 12 or hour == 0 or text.startswith("0")
    return (hour % 24) * 3600 + minute * 60 + second, clear


def _chinese_time(text: str) -> tuple[int, bool] | None:
    match = _CHINESE_TIME.fullmatch(text)
    if match is None or (match[1] is None and ":" in text):
        return None
    hour = int(match[2])
    minute = 30 if match[4] else int(match[3] or 0)
    if hour > 24 or minute > 59:
        return None
    if match[1] in ("下午", "晚上") and hour < 12:
        hour += 12
    return (hour % 24) * 3600 + minute * 60, bool(match[1]) or hour > 12


def same_time(answer: tuple[int, bool], gold: tuple[int, bool]) -> bool:
    """True for the same time; a gold time that says its half of the day wants it said."""
    if answer[0] != gold[0]:
        return False
    return answer[1] or not gold[1]


def date(text: str) -> Date | None:
    """Return (year or None, month, day); None for what is no date or not a clear one."""
    text = plain(text).removeprefix("on ")
    if len(text) > 40:
        return None
    for pattern, order in _DATES:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        parts = dict(zip("ymd" if order == "ymd" else order, match.groups(), strict=False))
        if order == "slashes":
            first, second = int(match[1]), int(match[2])
            if first <= 12 and second <= 12 and first != second:
                return None
            month, day = (first, second) if second > 12 or first == second else (second, first)
            return _checked(int(match[3]), month, day)
        month = parts["m"]
        number = int(month) if month.isdigit() else _MONTHS.get(month.lower())
        if number is None:
            continue
        year = parts.get("y")
        return _checked(int(year) if year else None, number, int(parts["d"]))
    return None


def _checked(year: int | None, month: int, day: int) -> Date | None:
    return (year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
