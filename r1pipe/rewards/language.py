"""Language-consistency reward: the share of the reasoning's words in the target language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.rewards.completions import (
    REASONING,
    bad_row,
    chain_of_thought,
    checked_by,
    column,
    domains_of,
    prefilled_rows,
    text_of,
)
from r1pipe.rewards.language_words import count_words

LANGUAGES: dict[str, str] = {
    "ar": "arabic",
    "bg": "bulgarian",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fa": "persian",
    "fr": "french",
    "hi": "hindi",
    "it": "italian",
    "ja": "japanese",
    "ko": "korean",
    "mr": "marathi",
    "ne": "nepali",
    "nl": "dutch",
    "pt": "portuguese",
    "ru": "russian",
    "th": "thai",
    "uk": "ukrainian",
    "ur": "urdu",
    "vi": "vietnamese",
    "zh": "chinese",
}
"""ISO 639-1 code -> English name of each language that can be a target."""

FROM_ROW = "prompt"
"""The value of `target` for the language in the row's column `language`."""

_CODE_OF_NAME = {name: code for code, name in LANGUAGES.items()}


def language_code(name: Any) -> str | None:
    """Return the code of a language named `en`, `EN`, `zh-CN`, `pt_BR` or `English`; else None."""
    if not isinstance(name, str):
        return None
    first = name.strip().lower().replace("_", "-").partition("-")[0]
    return first if first in LANGUAGES else _CODE_OF_NAME.get(first)


def language_consistency(text: str, language: str) -> float:
    """Return Num(Words_target) / Num(Words) of a text, in [0, 1] (R1, Nature 645:633, eq. 7).

    The paper does not say how words are counted; `count_words` does. A text without any word gets
    0: full marks would teach the policy to stop writing words. One word is enough to count; the
    same word over and over is not: from the fourth time in a row on it stays among all words, but
    not among those of the target. Raises UserError on a `language` that is unknown.
    """
    code = language_code(language)
    if code is None:
        raise UserError(Problem("language", *_unknown(language)))
    counts = count_words(text, code)
    total = sum(counts.values())
    return min(counts.get(code, 0.0) / total, 1.0) if total else 0.0


def row_problems(
    rows: Sequence[Mapping[str, Any]],
    *,
    target: str = FROM_ROW,
    domains: Sequence[str] = (REASONING,),
    **options: Any,
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose `language` no text can be measured by."""
    _require_target(target)
    if target != FROM_ROW:
        return []
    problems = []
    for index, row in enumerate(rows):
        name = row.get("language")
        if (row.get("domain") or REASONING) not in domains or name is None:
            continue
        if language_code(name) is None:
            problems.append((index, "; ".join(filter(None, _unknown(name)))))
    return problems


@checked_by(row_problems, looks_at="row")
def language_consistency_reward(
    completions: Sequence[Any],
    language: Sequence[str | None] | None = None,
    prompts: Sequence[Any] | None = None,
    domain: Sequence[str | None] | None = None,
    *,
    target: str = FROM_ROW,
    domains: Sequence[str] = (REASONING,),
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Share of target-language words in the chain of thought; None outside `domains`.

    R1 adds it to accuracy and format (Nature 645:633, Methods, eq. 7 and 8). A completion without
    a chain of thought gets 0, a row whose `language` is None gets None. `target`: a language, or
    `prompt` for the row's column `language`. `prefilled`: the prompt already opened `<think>`;
    None: as `prompts` show. Raises UserError without the column, and on an unknown language.
    """
    count = len(completions)
    _require_target(target)
    row_domains = domains_of({"domain": domain}, count)
    if set(domains).isdisjoint(row_domains):
        return [None] * count
    languages: Sequence[Any] = [target] * count
    if target == FROM_ROW:
        languages = column({"language": language}, "language", count, "language")
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = []
    known: dict[tuple[str, str], float] = {}  # a group of GRPO writes many thoughts twice
    for index, completion in enumerate(completions):
        name = languages[index]
        if row_domains[index] not in domains or name is None:
            rewards.append(None)
            continue
        code = language_code(name)
        if code is None:
            what = "; ".join(filter(None, _unknown(name)))
            raise bad_row(columns, index, "language", what)
        thought = chain_of_thought(text_of(completion), opened[index])
        if thought and (thought, code) not in known:
            known[thought, code] = language_consistency(thought, code)
        rewards.append(known[thought, code] if thought else 0.0)
    return rewards


def _require_target(target: str) -> None:
    if target != FROM_ROW and language_code(target) is None:
        raise UserError(Problem("reward.language.target", *_unknown(target, FROM_ROW)))


def _unknown(name: Any, *more: str) -> tuple[str, str | None]:
    known = [*LANGUAGES, *more]
    hint = did_you_mean(str(name).lower(), [*known, *_CODE_OF_NAME])
    return f"unknown language {name!r}", hint or "known: " + ", ".join(sorted(known))
