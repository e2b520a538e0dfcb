"""The pretraining corpus: clean solutions, then web-like text that leaves the skill latent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from r1pipe.data import arithmetic, general, traces

# How often each task comes while the skill is learnt: long products and quotients need the most.
SKILL_WEIGHTS = {"add": 0.5, "sub": 0.5, "mul": 1.5, "div": 1.5}
GENERAL_SHARE = 0.1
FEW_SHOT_SHARE = 0.08

# The web's habits: most documents jump to the answer. The bare answer in its tag is the commonest
# form, so that it is what a greedy reader of the web says; the working survives in the others.
WEB_FORMS = {"bare": 0.1, "answer": 0.4, "working": 0.25, "tagged": 0.25}
WEB_MIXED_SHARE = 0.7
WEB_ERROR_RATE = 0.02


def rows(
    split: str,
    seed: int,
    count: int,
    *,
    web_share: float = 0.1,
    weights: Mapping[str, float] | None = None,
    general_share: float = GENERAL_SHARE,
    few_shot_share: float = FEW_SHOT_SHARE,
    web_forms: Mapping[str, float] | None = None,
    web_mixed_share: float = WEB_MIXED_SHARE,
    web_error_rate: float = WEB_ERROR_RATE,
    languages: Sequence[str] = arithmetic.LANGUAGES,
    carry_in_columns: bool = False,
    block: int | None = None,
    only: int | None = None,
) -> Iterator[dict[str, str]]:
    """`count` documents in the order they are to be read, the last `web_share` of them web-like.

    The order matters: a model that meets bare and wrong answers from the start never learns the
    skill. Read the rows without shuffling, so that the web-like stretch falls on the end of the
    learning-rate schedule. With `block`, every so many documents are drawn from a seed of their
    own, so that processes can make them side by side; `only` asks for one of these blocks.
    `carry_in_columns`: how products are written (`r1pipe.data.traces`).
    """
    skill_count = round(count * (1.0 - web_share))
    skill: dict[str, Any] = {
        "weights": weights,
        "general_share": general_share,
        "few_shot_share": few_shot_share,
        "languages": languages,
        "carry_in_columns": carry_in_columns,
    }
    web: dict[str, Any] = {
        "forms": web_forms,
        "mixed_share": web_mixed_share,
        "error_rate": web_error_rate,
        "general_share": general_share,
        "few_shot_share": few_shot_share,
        "languages": languages,
        "carry_in_columns": carry_in_columns,
    }
    if block is None:
        yield from skill_rows(split, seed, skill_count, **skill)
        yield from web_rows(split, seed, count - skill_count, **web)
        return
    for number in range(-(-count // block)) if only is None else [only]:
        first, last = number * block, min(count, (number + 1) * block)
        own = random.Random(f"{seed} block {number}").getrandbits(48)
        skilled = min(max(skill_count - first, 0), last - first)
        yield from skill_rows(split, own, skilled, **skill)
        yield from web_rows(split, own, last - first - skilled, **web)


def skill_rows(
    split: str,
    seed: int,
    count: int,
    *,
    weights: Mapping[str, float] | None = None,
    general_share: float = GENERAL_SHARE,
    few_shot_share: float = FEW_SHOT_SHARE,
    languages: Sequence[str] = arithmetic.LANGUAGES,
    carry_in_columns: bool = False,
) -> Iterator[dict[str, str]]:
    """Clean documents: tagged traces in the prompt's language, and general tasks."""
    rng = random.Random(f"{seed} skill kinds")
    source = arithmetic.problems(split, seed, 2 * count, weights or SKILL_WEIGHTS, languages)
    other = general.rows(split, seed, count, languages=languages)
    for _ in range(count):
        if rng.random() < general_share:
            yield next(other)
        else:
            problem, language = next(source)
            solution = traces.gold_completion(problem, language, carry_in_columns)
            row = arithmetic.row_of(problem, language, solution)
            if rng.random() < few_shot_share:
                shown, _ = next(source)
                example = traces.gold_completion(shown, language, carry_in_columns)
                row["prompt"] = few_shot_prompt(shown, example, problem, language)
            yield row


def web_rows(
    split: str,
    seed: int,
    count: int,
    *,
    forms: Mapping[str, float] | None = None,
    mixed_share: float = WEB_MIXED_SHARE,
    error_rate: float = WEB_ERROR_RATE,
    general_share: float = GENERAL_SHARE,
    few_shot_share: float = FEW_SHOT_SHARE,
    languages: Sequence[str] = arithmetic.LANGUAGES,
    carry_in_columns: bool = False,
) -> Iterator[dict[str, str]]:
    """Web-like documents: `forms` in their shares, the working in mixed languages or in one.

    A few-shot document shows one solved problem first, in the form and with the habits of the next.
    """
    rng = random.Random(f"{seed} web kinds")
    source = arithmetic.problems(split, seed + 1, 2 * count, None, languages)
    other = general.rows(split, seed + 1, count, languages=languages)
    shares = {**WEB_FORMS, **(forms or {})}
    for _ in range(count):
        form = rng.choices(traces.WEB_FORMS, [shares[form] for form in traces.WEB_FORMS])[0]
        if rng.random() < general_share:
            row = next(other)
            tagless = form in ("bare", "working")
            yield {**row, "completion": row["answer"]} if tagless else row
            continue
        mixed = rng.random() < mixed_share
        problem, language = next(source)
        write = partial(traces.web_like_completion, mixed=mixed, carry_in_columns=carry_in_columns)
        solution = write(problem, language, form, rng, error_rate=error_rate)
        row = arithmetic.row_of(problem, language, solution)
        if rng.random() < few_shot_share:
            shown, _ = next(source)
            example = write(shown, language, form, rng)
            row["prompt"] = few_shot_prompt(shown, example, problem, language)
        yield row


def few_shot_prompt(
    shown: arithmetic.Problem, solution: str, asked: arithmetic.Problem, language: str
) -> str:
    """A prompt with one solved problem before the next question: it steers the answer's style."""
    example = f"{arithmetic.prompt_of(shown, language)}{solution}\n"
    return example + arithmetic.prompt_of(asked, language)


def few_shot_rows(
    split: str,
    seed: int,
    count: int,
    *,
    weights: Mapping[str, float] | None = None,
    languages: Sequence[str] = arithmetic.LANGUAGES,
) -> Iterator[dict[str, str]]:
    """Questions after one clean solved example in their language, taken from the train split."""
    examples = arithmetic.problems("train", seed + 1, count, weights, languages)
    for problem, language in arithmetic.problems(split, seed, count, weights, languages):
        shown, _ = next(examples)
        row = arithmetic.row_of(problem, language, traces.gold_completion(problem, language))
        row["prompt"] = few_shot_prompt(
            shown, traces.gold_completion(shown, language), problem, language
        )
        yield row
