"""`r1pipe rewards`: what a recipe may name under `reward`, with columns and options."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from r1pipe.errors import Problem, UserError
from r1pipe.registry import REWARDS

WIDTH = 100
NOTES = """
Every reward has a `weight`, and may have a `gate`: the name of a reward that must be 1.
In Python: `from r1pipe.rewards import accuracy_reward` (TRL's signature).
One in full: r1pipe rewards NAME. Does it hold on your data: r1pipe check recipe=FILE."""


def run_rewards(arguments: list[str]) -> int:
    """Print all rewards, or with a name the whole description of one; returns the exit code."""
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        raise UserError(Problem("rewards", "one name at most", "usage: r1pipe rewards [NAME]"))
    if arguments:
        print(describe(arguments[0]))
        return 0
    names = REWARDS.names()
    width = max(map(len, names)) + 2
    for name in names:
        registered = REWARDS.get(name)
        indent = " " * width
        print(f"{name:<{width}}{_first_line(registered)}")
        if columns := _columns(registered):
            print(f"{indent}columns: {', '.join(columns)}")
        if options := _options(registered):
            print(textwrap.fill("options: " + ", ".join(options), WIDTH, initial_indent=indent,
                                subsequent_indent=indent + "  ",
                                break_on_hyphens=False))  # fmt: skip
    print(NOTES)
    return 0


def describe(name: str) -> str:
    """Return the name, the Python object and its documentation."""
    registered = REWARDS.get(name)
    place = f"{registered.__module__}.{getattr(registered, '__qualname__', name)}"
    lines = [f"{name}: {place}", "", inspect.getdoc(registered) or "(not documented)"]
    if inspect.isclass(registered):
        lines += ["", inspect.getdoc(registered.__init__) or ""]
    lines += ["", f"columns: {', '.join(_columns(registered)) or '-'}"]
    lines += ["options:", *(f"  {option}" for option in _options(registered))]
    return "\n".join(lines).rstrip()


def _columns(registered: Any) -> list[str]:
    from r1pipe.rewards.building import columns_of

    return columns_of(registered)


def _options(registered: Any) -> list[str]:
    from r1pipe.rewards.building import options_of

    named, _ = options_of(registered)
    return [
        f"{name} (needed)" if option.default is option.empty else f"{name}={_yaml(option.default)}"
        for name, option in named.items()
    ]


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


def _first_line(registered: Any) -> str:
    return (inspect.getdoc(registered) or "").split("\n", 1)[0].rstrip()
