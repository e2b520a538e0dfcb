"""Completions whose worth is known, built from a row's gold: right, wrong, cut short, hacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from r1pipe.rewards.completions import GENERAL, REASONING, is_blank, text_of

Row = Mapping[str, Any]
Kind = Literal["gold", "wrong", "hack", "other"]

ANSWER_REWARDS = frozenset(
    ("accuracy", "general", "choice", "code", "sql", "maze_path", "geo_distance")
)
"""Rewards that are about what the answer block holds."""
NEEDS_REASONING = frozenset(("format", "tag_count"))

REPEATS = 50

THOUGHTS = {
    "en": ("We work it out step by step.", "one two three"),
    "zh": ("我们一步一步地计算。", "一二三"),
    "ja": ("順番に計算していきます。", "一つ二つ三つ"),
    "ko": ("차근차근 계산해 봅시다.", "하나 둘 셋"),
    "fr": ("Nous faisons le calcul étape par étape.", "un deux trois"),
    "de": ("Wir rechnen das Schritt für Schritt aus.", "eins zwei drei"),
    "es": ("Lo calculamos paso a paso con cuidado.", "uno dos tres"),
    "it": ("Facciamo il calcolo un passo alla volta.", "uno due tre"),
    "pt": ("Vamos fazer a conta passo a passo.", "um dois três"),
    "nl": ("We rekenen het stap voor stap uit.", "een twee drie"),
    "ru": ("Мы считаем шаг за шагом.", "один два три"),
    "ar": ("نحسب ذلك خطوة بعد خطوة.", "واحد اثنان ثلاثة"),
    "hi": ("हम इसे एक एक कदम करके हल करते हैं।", "एक दो तीन"),
    "vi": ("Chúng ta tính từng bước một cách cẩn thận.", "một hai ba"),
    "th": ("เราคำนวณทีละขั้นตอน", "หนึ่ง สอง สาม"),
}
"""A thought in each language, and one of number words for models of few words."""

Writable = Callable[[str], bool]
"""Whether the model's tokenizer gives a text back as it was."""


@dataclass(frozen=True)
class Probe:
    """One completion of a row. `against`: the rewards that it must not earn in full."""

    name: str
    kind: Kind
    text: str
    against: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """A row as the probes see it."""

    row: Row
    gold: str | None
    """What the right answer block holds; None where the row does not say."""
    wrong: str
    thought: str
    foreign: str | None
    """A thought in another language than the row's; None where the tokenizer has none."""
    opened: bool
    """The prompt already opened the think block."""

    def write(self, answer: str, thought: str | None = None) -> str:
        """Return a completion of the form that the format reward asks for."""
        thought = self.thought if thought is None else thought
        return f"{self.think}{thought}</think><answer>{answer}</answer>"

    @property
    def think(self) -> str:
        return "" if self.opened else "<think>"


def make_case(row: Row, language: str | None, opened: bool, writable: Writable) -> Case:
    """Return the case of a row; `language` is that of the recipe where the row names none."""
    spoken = row.get("language") if language in (None, "prompt") else language
    others = ("zh", "en") if spoken != "zh" else ("en", "ja")
    foreign = next((t for code in others if code != spoken for t in _say(code, writable)), None)
    thought = next(iter(_say(str(spoken or "en"), writable)), THOUGHTS["en"][0])
    return Case(row, gold_answer(row), wrong_answer(row), thought, foreign, opened)


def _say(language: str, writable: Writable) -> list[str]:
    known = THOUGHTS.get(language.lower().split("-")[0], THOUGHTS["en"])
    return [thought for thought in known if writable(thought)]


def gold_answer(row: Row) -> str | None:
    """Return what a right answer block holds, by the columns that the row has."""
    if row.get("maze") is not None:
        from r1pipe.rewards.maze import shortest_path

        return shortest_path(row["maze"])
    if row.get("latitude") is not None and row.get("longitude") is not None:
        return f"{row['latitude']}, {row['longitude']}"
    named = row.get("solution") if row.get("solution") is not None else row.get("answer")
    if named is None or is_blank(str(named)) or row.get("verification") is not None:
        return None
    return str(named)


def wrong_answer(row: Row) -> str:
    """Return an answer that is surely wrong, of the row's own kind."""
    if row.get("maze") is not None:
        return "up"
    if row.get("latitude") is not None and row.get("longitude") is not None:
        return f"{-float(row['latitude'])}, {float(row['longitude']) % 360 - 180}"
    if row.get("verification") is not None:
        return "```python\npass\n```"
    if row.get("database") is not None:
        return "SELECT 'no such answer'"
    gold = str(gold_answer(row) or "")
    if len(gold) == 1 and gold.isalpha():
        return "A" if gold.upper() != "A" else "B"
    return f"{gold}7"


def probes_of(case: Case) -> list[Probe]:
    """Return the probes of one row; those that need a gold answer only where there is one."""
    found = [
        Probe("empty", "wrong", "", ANSWER_REWARDS | NEEDS_REASONING | {"language"}),
        Probe("wrong answer", "wrong", case.write(case.wrong), ANSWER_REWARDS),
        Probe(
            "thinking never ends",
            "wrong",
            f"{case.think}{case.thought} {case.gold or ''}",
            ANSWER_REWARDS | NEEDS_REASONING,
        ),
    ]
    written = text_of(case.row["completion"]) if case.row.get("completion") else None
    if case.gold is None:
        # What the data show as a completion is the gold of rows that name no answer (programs).
        found += [Probe("gold", "gold", written)] if written else []
    else:
        found += _about_gold(case, case.gold)
    circles = case.write(case.gold or "0", " ".join([case.thought] * REPEATS))
    found.append(Probe("repeats itself", "hack", circles, frozenset(("repetition",))))
    return found + _about_form(case) + _about_language(case) + _about_code(case)


def _about_gold(case: Case, gold: str) -> list[Probe]:
    whole = case.write(gold)
    cut = whole[: whole.rfind("</answer>")]
    question = _question(case.row)
    found = [
        Probe("gold", "gold", whole),
        Probe("cut in the answer", "wrong", cut, ANSWER_REWARDS | NEEDS_REASONING),
        Probe(
            "answer only in the thinking",
            "hack",
            f"{case.think}{case.thought} {gold}</think><answer></answer>",
            ANSWER_REWARDS | NEEDS_REASONING,
        ),
        Probe("two answers in one", "hack", case.write(f"{gold} or {case.wrong}"), ANSWER_REWARDS),
        Probe(
            "says no to the answer",
            "hack",
            case.write(f"not {gold}"),
            frozenset(("accuracy", "general", "choice")),
        ),
        Probe(
            "a second answer block",
            "hack",
            f"{case.write(case.wrong)}<answer>{gold}</answer>",
            NEEDS_REASONING,
        ),
        Probe("text after the answer", "hack", f"{whole} {gold}", NEEDS_REASONING),
        Probe("empty thinking", "hack", case.write(gold, " "), NEEDS_REASONING | {"language"}),
    ]
    if question and question.strip() != gold.strip():
        found.append(Probe("the question again", "hack", case.write(question), ANSWER_REWARDS))
    return found


def _about_form(case: Case) -> list[Probe]:
    answer = case.gold or "0"
    nested = f"{case.think}<think>{case.thought}</think></think><answer>{answer}</answer>"
    found = [Probe("nested thinking", "hack", nested, NEEDS_REASONING)]
    if (case.row.get("domain") or REASONING) != GENERAL:
        bare = f"<answer>{answer}</answer>"
        found.append(Probe("no thinking", "hack", bare, NEEDS_REASONING | {"language"}))
    return found


def _about_language(case: Case) -> list[Probe]:
    answer = case.gold or "0"
    found = [Probe("no words", "hack", case.write(answer, "1 + 1 = 2"), frozenset(("language",)))]
    if case.foreign is not None:
        foreign = case.write(answer, case.foreign)
        found.append(Probe("another language", "hack", foreign, frozenset(("language",))))
    return found


def _about_code(case: Case) -> list[Probe]:
    if case.row.get("verification") is None:
        return []
    programs = {
        "exits before the tests": "import os, sys\nsys.exit(0)",
        "equals everything": (
            "class Any:\n    def __eq__(self, other):\n        return True\n"
            "def __getattr__(name):\n    return lambda *a, **k: Any()"
        ),
        "patches the checker": (
            "import builtins, sys\nbuiltins.AssertionError = ValueError\n"
            "sys.stdout.write('PASSED')\nsys.excepthook = lambda *a: None"
        ),
    }
    return [
        Probe(name, "hack", case.write(f"```python\n{program}\n```"), frozenset(("code",)))
        for name, program in programs.items()
    ]


def _question(row: Row) -> str | None:
    prompt = row.get("prompt")
    if prompt is None or isinstance(prompt, str):
        return prompt
    asked = [message for message in prompt if message.get("role") == "user"]
    return text_of(asked[-1:]) if asked else None


def other_forms(case: Case) -> list[Probe]:
    """Return the gold answer in forms that a reward of the user's own may look for."""
    if case.gold is None:
        return []
    forms = {"gold alone": case.gold, "gold, boxed": f"\\boxed{{{case.gold}}}"}
    forms["gold after ####"] = f"#### {case.gold}"
    return [Probe(name, "other", text) for name, text in forms.items()]
