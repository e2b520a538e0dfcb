"""Cuts the program out of an answer."""

from __future__ import annotations

import re
import textwrap

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*$")
_PYTHON = frozenset({"python", "py", "python3", "py3", "{python}", "{.python}", "python2.7"})


def program_in(answer: str) -> str | None:
    """Return the last fenced Python block of an answer, or the whole answer without any fence.

    A block without a language counts where no block is labelled as Python; an answer that only
    has blocks of other languages has no program. A block that is never closed ends with the text.
    """
    blocks = _blocks(answer)
    if not blocks:
        return answer
    for accepted in (_PYTHON, frozenset({""})):
        found = [code for language, code in blocks if language in accepted]
        if found:
            return found[-1]
    return None


def _blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, code) of each fenced block, in order; one pass over the lines."""
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, str, str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if opened is None:
            match = _FENCE.match(line) if "```" in line or "~~~" in line else None
            if match:
                opened, lines = (match[1], match[2], match[3].lower()), []
        elif _closes(line, opened[1]):
            blocks.append((opened[2], _code(lines, opened[0])))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        blocks.append((opened[2], _code(lines, opened[0])))
    return blocks


def _closes(line: str, fence: str) -> bool:
    line = line.strip()
    return len(line) >= len(fence) and not line.strip(fence[0])


def _code(lines: list[str], indent: str) -> str:
    code = "\n".join(lines) + "\n"
    return textwrap.dedent(code) if indent else code
