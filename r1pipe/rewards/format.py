"""Format rewards: one `<think>` block, then one `<answer>` block, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from r1pipe.rewards.completions import (
    GENERAL,
    TAG,
    checked_by,
    domains_of,
    is_blank,
    prefilled_rows,
    text_of,
)

THINK_THEN_ANSWER = ("<think>", "</think>", "<answer>", "</answer>")


def has_form(text: str, tags: Sequence[str]) -> bool:
    """True where `text` holds exactly these tags in this order and every block is filled.

    Outside the blocks only white space is allowed. `tags` may start with a closing tag: then the
    block was opened by the prompt. One scan over the text.
    """
    found = []
    for match in TAG.finditer(text):
        if len(found) == len(tags) or match.group() != tags[len(found)]:
            return False
        found.append(match.span())
    if len(found) != len(tags):
        return False
    spans = [(0, 0), *found] if tags[0].startswith("</") else found
    opened, closed = spans[::2], spans[1::2]
    inside = [text[start:end] for (_, start), (end, _) in zip(opened, closed, strict=True)]
    edges = [0, *(end for _, end in closed)], [*(start for start, _ in opened), len(text)]
    outside = [text[start:end] for start, end in zip(*edges, strict=True)]
    return not any(map(is_blank, inside)) and all(part.isspace() or not part for part in outside)


@checked_by(None, looks_at="row")
def format_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    *,
    answer_only_domains: Sequence[str] = (GENERAL,),
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 for `<think>…</think><answer>…</answer>` with both blocks filled, else 0.

    R1 (Nature 645:633, Methods) asks for the reasoning inside the tags; it counts each tag once
    here, because a second block is how a policy hedges. Where the prompt opened `<think>`, the
    completion starts inside the block and must not open another one. `prefilled` says so for all
    rows or for each; None reads it from `prompts`.

    Rows whose `domain` is one of `answer_only_domains` may leave the thinking out: R1's general
    data has a chain of thought for some prompts and none for a greeting, so both forms are right
    there, but not under a prompt that opened the block: an answer alone would stand inside it.
    """
    texts, opened = _read(completions, prompts, prefilled)
    domains = domains_of(columns, len(texts))
    answer_only = frozenset(answer_only_domains)
    return [
        float(_is_well_formed(text, inside, domain in answer_only))
        for text, inside, domain in zip(texts, opened, domains, strict=True)
    ]


@checked_by(None, looks_at="row")
def tag_count_reward(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    *,
    answer_only_domains: Sequence[str] = (GENERAL,),
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Graded form: 1 where `format_reward` gives 1, else 0.25 per tag in its place, at most 0.75.

    A tag counts where it appears exactly once, so repeating one gains nothing. Four tags in a
    wrong order, around nothing, or with text between them are not the form: counting alone pays
    full marks for those. A `<think>` the prompt opened counts as the completion's, unless it
    opens a second one or writes nothing at all. Options as for `format_reward`.
    """
    texts, opened = _read(completions, prompts, prefilled)
    domains = domains_of(columns, len(texts))
    answer_only = frozenset(answer_only_domains)
    return [
        1.0 if _is_well_formed(text, inside, domain in answer_only) else _share(text, inside)
        for text, inside, domain in zip(texts, opened, domains, strict=True)
    ]


def _read(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None,
    prefilled: bool | Sequence[bool] | None,
) -> tuple[list[str], list[bool]]:
    opened = prefilled_rows(prefilled, prompts, len(completions))
    return [text_of(completion) for completion in completions], opened


def _is_well_formed(text: str, prefilled: bool, answer_only: bool) -> bool:
    if prefilled:
        return has_form(text, THINK_THEN_ANSWER[1:])
    if has_form(text, THINK_THEN_ANSWER):
        return True
    return answer_only and has_form(text, THINK_THEN_ANSWER[2:])


def _share(text: str, prefilled: bool) -> float:
    found = Counter(match.group() for match in TAG.finditer(text))
    if prefilled and not is_blank(text):
        found["<think>"] += 1
    return min(0.25 * sum(found[tag] == 1 for tag in THINK_THEN_ANSWER), 0.75)
