"""Splits answers to several questions: `(a) 3 (b) 5`."""

from __future__ import annotations

import re

_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
_MARK = re.compile(
    r"(?:^|(?<=[\s,;.，；。*}$)]))(?:[Pp]art\s+|\*\*)?"
    r"(?:[(（]\s*(?P<round>[a-h]|[1-8]|[iv]{1,4})\s*[)）]|(?P<half>[a-h]|[iv]{1,4})\))"
    r"(?:\*\*)?\s*[:.]?\s*"
)


def parts_of(text: str) -> list[str] | None:
    """Return what stands behind `(a)`, `(b)`, … (or 1, 2 or i, ii) in order.

    The parts themselves may stand in any order, as each has its mark. None without marks.
    """
    text = text.strip()
    text = text[1:-1] if text.startswith("$") and text.endswith("$") else text
    marks = list(_MARK.finditer(text))
    if not 2 <= len(marks) <= 8 or marks[0].start() != 0:
        return None
    names = [mark["round"] or mark["half"] for mark in marks]
    count = len(names)
    series = (list("abcdefgh"[:count]), list("12345678"[:count]), list(_ROMAN[:count]))
    ordered = next((one for one in series if sorted(names) == sorted(one)), None)
    if ordered is None:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    found = [
        text[mark.end() : end].strip(" \t\n,;，；*") for mark, end in zip(marks, ends, strict=True)
    ]
    found = [re.sub(r"[\s,;]*\band\Z", "", one) for one in found]
    found = [found[names.index(name)] for name in ordered]
    return found if all(found) and all(one.count("$") % 2 == 0 for one in found) else None


def in_order(text: str, count: int) -> list[str] | None:
    """Return the parts of an answer that leaves the marks out: `3; 5` or one per line."""
    for separator in (r"\n+", r"[;；]", r",(?!\d{3})|，|\band\b"):
        found = [one.strip() for one in re.split(separator, text)]
        if len(found) == count and all(found) and not re.search(r"[()\[\]{}]", "".join(found)):
            return found
    return None
