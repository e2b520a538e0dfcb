"""What would make a run with rewards learn nothing, found before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from r1pipe.data.prompts import Prompt, encode_prompts, render_prompt
from r1pipe.data.sources import prompts_within
from r1pipe.errors import Problem, UserError
from r1pipe.rewards.combining import Reward
from r1pipe.rewards.completions import opens_thinking
from r1pipe.rewards.format import THINK_THEN_ANSWER
from r1pipe.rewards.probes import ANSWER_REWARDS, NEEDS_REASONING, Case, Row, make_case
from r1pipe.rewards.trial import evenly, gold_data_problems, try_rewards
from r1pipe.schema import RewardTerm

MOST_ROWS = 128
"""Rows that probes are built on, evenly over the data."""
READS_TAGS = ANSWER_REWARDS | NEEDS_REASONING | {"language"}


def preflight(
    dataset: Any,
    tokenizer: Any,
    reward_terms: Mapping[str, RewardTerm | None],
    funcs: Sequence[Reward],
    max_completion_length: int,
    model_context: int | None,
) -> None:
    """Raise UserError with all that is wrong with prompts, template, rewards and gold answers.

    `dataset` has wrapped prompts and the columns that the rewards read; lengths are in tokens.
    """
    rows = [dict(row) for row in dataset]
    prompts = [row["prompt"] for row in evenly(rows, MOST_ROWS)]
    problems = template_problems(prompts, tokenizer, reward_terms)
    problems += reward_problems(rows, tokenizer, reward_terms, funcs)
    problems += _overlong_problems(reward_terms, max_completion_length)
    if model_context is not None:
        ids = encode_prompts(list(dataset["prompt"]), tokenizer)
        try:
            prompts_within(ids, model_context - max_completion_length, "error")
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def template_problems(
    prompts: Sequence[Prompt], tokenizer: Any, terms: Mapping[str, RewardTerm | None]
) -> list[Problem]:
    """Return where prompts or tokenizer defeat the rewards whatever the model writes.

    The tags have to survive the tokenizer, and `prefilled`, where a recipe insists on it, has to
    be what the rendered prompts say.
    """
    reading = [name for name, term in terms.items() if term is not None and name in READS_TAGS]
    problems = _tag_problems(tokenizer) if reading else []
    opened = [opens_thinking(render_prompt(prompt, tokenizer)) for prompt in prompts]
    for name in terms:
        prefilled = _option(terms, name, "prefilled")
        wrong = 0 if prefilled is None else opened.count(not prefilled)
        if wrong:
            does, place = ("does not open", "opens") if prefilled else ("opens", "does not open")
            what = f"it says that the prompt {place} `<think>`, but the prompt {does} it"
            what = f"{what} on {wrong} of {len(opened)} rows"
            hint = "leave the option out: the rewards look at the prompt themselves"
            problems.append(Problem(f"rewards.{name}.prefilled", what, hint))
    return problems


def _tag_problems(tokenizer: Any) -> list[Problem]:
    lost = [tag for tag in THINK_THEN_ANSWER if tag not in transcribed(tag, tokenizer)]
    if not lost:
        return []
    what = f"{', '.join(f'`{tag}`' for tag in lost)} do not survive: the rewards would never see it"
    hint = "add the tags as tokens that are not special (`special=False`), or use another tokenizer"
    return [Problem("model.load.tokenizer", what, hint)]


def reward_problems(
    rows: Sequence[Row],
    tokenizer: Any,
    terms: Mapping[str, RewardTerm | None],
    funcs: Sequence[Reward],
) -> list[Problem]:
    """Return which rewards cannot be trusted on these rows; gold data are checked on all of them.

    The rewards are tried on completions of known worth, built around the gold of some rows.
    """
    problems = gold_data_problems(rows, funcs)
    if problems:
        return problems
    some = evenly(rows, MOST_ROWS)
    trial = try_rewards(some, cases_of(some, tokenizer, terms), funcs, writable_by(tokenizer))
    return trial.problems


def cases_of(
    rows: Sequence[Row], tokenizer: Any, terms: Mapping[str, RewardTerm | None]
) -> list[Case]:
    """Return the rows, prompts as the model gets them, ready for probes."""
    spoken = _option(terms, "language", "target")
    writable = writable_by(tokenizer)
    told = [_option(terms, name, "prefilled") for name in terms]
    prefilled = next((value for value in told if value is not None), None)
    return [
        make_case(
            row,
            spoken,
            opens_thinking(render_prompt(row["prompt"], tokenizer))
            if prefilled is None
            else prefilled,
            writable,
        )
        for row in rows
    ]


def writable_by(tokenizer: Any) -> Callable[[str], bool]:
    """Return whether a text comes back from the tokenizer as the rewards will see it."""

    @lru_cache(maxsize=4096)
    def writable(text: str) -> bool:
        return transcribed(text, tokenizer).strip() == text.strip()

    return writable


def transcribed(text: str, tokenizer: Any) -> str:
    """Return what rewards see of a completion: encoded, and decoded without special tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True)


def _option(terms: Mapping[str, RewardTerm | None], name: str, option: str) -> Any:
    term = terms.get(name)
    return (term.model_extra or {}).get(option) if term is not None else None


def _overlong_problems(
    terms: Mapping[str, RewardTerm | None], max_completion_length: int
) -> list[Problem]:
    longest = _option(terms, "soft_overlong", "max_length")
    if longest is None or longest <= max_completion_length:
        return []
    what = f"{longest} tokens are never reached: completions end at {max_completion_length}"
    hint = "set it to `trainer.max_completion_length`"
    return [Problem("rewards.soft_overlong.max_length", what, hint)]
