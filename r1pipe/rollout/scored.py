"""Completions with their text and rewards: what sampling and evaluation have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1pipe.data.prompts import wrap_prompt
from r1pipe.rewards.combining import name_of
from r1pipe.rewards.completions import call_arguments
from r1pipe.rollout.engine import Engine
from r1pipe.schema import Data, Sampling

Record = dict[str, Any]


def write_and_score(
    engine: Engine,
    rows: Sequence[Mapping[str, Any]],
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    rewards: Sequence[Callable[..., list[float | None]]],
    data: Data,
    on_done: Callable[[int], None] | None = None,
) -> list[Record]:
    """Return one record per completion, `num_samples` in a row for each of `rows`:

    {row: index in `rows`, completion, length (tokens), truncated, rewards: {name: value or None}}.
    """
    written = engine.generate(prompt_ids, sampling, seed, on_done)
    ends = set(engine.end_ids)
    records: list[Record] = []
    for number, completions in enumerate(written):
        for ids in completions:
            text = engine.tokenizer.decode(ids, skip_special_tokens=True)
            cut = not ids or ids[-1] not in ends
            records.append(
                {"row": number, "completion": text, "length": len(ids), "truncated": cut}
            )
    ids = [completion for completions in written for completion in completions]
    scores = score(rewards, rows, records, data, ids)
    for place, record in enumerate(records):
        record["rewards"] = {name: values[place] for name, values in scores.items()}
    return records


def score(
    rewards: Sequence[Callable[..., list[float | None]]],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Record],
    data: Data,
    completion_ids: Sequence[Sequence[int]],
) -> dict[str, list[float | None]]:
    """Return {reward's name: one value per record}, called as TRL's GRPO trainer calls them."""
    if not records:
        return {name_of(reward): [] for reward in rewards}
    shown = [{**row, "prompt": wrap_prompt(row["prompt"], data)} for row in rows]
    arguments = call_arguments(
        [shown[record["row"]] for record in records], [record["completion"] for record in records]
    )
    return {
        name_of(reward): reward(completion_ids=completion_ids, **arguments) for reward in rewards
    }
