"""The programs of code_programs.yaml, and a few that YAML cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Case:
    """A program and the tests of its row."""

    name: str
    program: str
    verification: Any

    def __str__(self) -> str:
        return self.name


def calls(name: str, *pairs: tuple[list[Any], Any]) -> list[dict[str, Any]]:
    return [{"call": name, "args": args, "returns": returns} for args, returns in pairs]


def _verification(entry: dict[str, Any]) -> Any:
    if "io" in entry:
        return [{"stdin": stdin, "stdout": stdout} for stdin, stdout in entry["io"]]
    if "pairs" in entry:
        return calls(entry["call"], *entry["pairs"])
    if "asserts" in entry:
        return [{"assert": snippet} for snippet in entry["asserts"]]
    return entry["verification"]


_DOCUMENT = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _group(name: str) -> list[Case]:
    return [
        Case(case, (_DOCUMENT["always"] if "with" in entry else "") + entry["program"], tests)
        for case, entry in _DOCUMENT[name].items()
        for tests in [_verification(entry)]
    ]


SQUARE = calls("square", ([3], 9), ([5], 25))
HONEST = [
    *_group("honest"),
    Case("io one megabyte", "print('x' * 900_000)", [{"stdin": "", "stdout": "x" * 900_000}]),
    Case("call huge int", "def f(): return 10 ** 6000", calls("f", ([], 10**6000))),
    Case(
        "call nan",
        "def f(): return [float('nan'), float('inf')]",
        calls("f", ([], [float("nan"), float("inf")])),
    ),
    Case("call surrogate", "def f(): return '\\ud800'", calls("f", ([], "\ud800"))),
    Case(
        "call big list",
        "def f(n): return list(range(n))",
        calls("f", ([100_000], list(range(100_000)))),
    ),
]
HOSTILE = [
    *_group("hostile"),
    Case("nul byte", "def square(x): return x * x\0", SQUARE),
    Case("surrogate in the source", "def square(x): return '\ud800'", SQUARE),
]
HANGING = _group("hanging")
