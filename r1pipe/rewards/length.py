"""Length rewards: DAPO's soft overlong penalty and Kimi k1.5's length reward within a group."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.completions import checked_by, column, text_of

Unit = Literal["tokens", "characters"]
Correctness = Callable[..., Sequence[float | None]]
"""`(completions, solution=..., prompts=..., **columns)`: 1 for a right answer, less for a wrong
one, None where it does not apply."""


@checked_by(None, best=0.0, looks_at="row")
def soft_overlong_penalty(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    max_length: int = 20_480,
    cache: int = 4_096,
    unit: Unit = "tokens",
    **columns: Any,
) -> list[float | None]:
    """0 up to `max_length - cache`, then falling in a line to -1 at `max_length`; -1 beyond.

    DAPO (arXiv 2503.14476, eq. 13; there 16,384 tokens are expected and a cache of 4,096 follows,
    the defaults here). `max_length` is that of the completion and should be the longest the
    rollout allows: a completion that was cut off then gets -1. Lengths are tokens of the column
    `completion_ids`, or characters. Raises UserError without the column, and where `cache` is
    not between 0 and `max_length`.
    """
    if not 0 <= cache <= max_length or max_length < 1:
        what = f"cache ({cache}) is not between 0 and max_length ({max_length})"
        raise UserError(Problem("reward.soft_overlong.cache", what))
    expected = max_length - cache
    penalties: list[float | None] = []
    for length in _lengths(completions, completion_ids, unit, "soft_overlong"):
        if length <= expected:
            penalties.append(0.0)
        elif length > max_length:
            penalties.append(-1.0)
        else:
            penalties.append((expected - length) / cache)
    return penalties


def row_problems(
    rows: Sequence[Mapping[str, Any]], *, correctness: Correctness | None = None, **options: Any
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) as the reward that tells right from wrong does."""
    check = getattr(correctness or _accuracy(), "row_problems", None)
    return check(rows) if check else []


@checked_by(row_problems, best=None, looks_at="prompt")
def length_reward(
    completions: Sequence[Any],
    solution: Sequence[Any] | None = None,
    completion_ids: Sequence[Sequence[int]] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    unit: Unit = "tokens",
    prefilled: bool | Sequence[bool] | None = None,
    correctness: Correctness | None = None,
    **columns: Any,
) -> list[float | None]:
    """Shorter is better among the answers to one prompt: in [-0.5, 0.5] if right, [-0.5, 0] if not.

    Kimi k1.5 (arXiv 2501.12599, section 2.3.3): lambda = 0.5 - (length - shortest) / (longest -
    shortest) over the group; a right answer gets lambda, a wrong one min(0, lambda); a group of
    one length gets 0. A group is the completions of this call whose prompts are the same. With
    one completion a prompt (an evaluation, a sample) all rewards are 0, and a group that several
    processes share is compared in parts.

    `correctness` tells right (1) from wrong, by default `accuracy_reward` with the column
    `solution`; where it gives None the reward is None and the row is no part of its group.
    Lengths are tokens of `completion_ids`, or characters. Raises UserError without `prompts`, or
    without `completion_ids` where they are needed, and as `correctness` does.
    """
    groups = column({"prompts": prompts}, "prompts", len(completions), "length")
    lengths = _lengths(completions, completion_ids, unit, "length")
    verdicts = (correctness or _accuracy())(
        completions=completions,
        solution=solution,
        prompts=prompts,
        prefilled=prefilled,
        completion_ids=completion_ids,
        **columns,
    )
    bounds: dict[str, tuple[int, int]] = {}
    keys = [_key(prompt) for prompt in groups]
    for key, length, verdict in zip(keys, lengths, verdicts, strict=True):
        if verdict is not None:
            low, high = bounds.get(key, (length, length))
            bounds[key] = min(low, length), max(high, length)
    rewards: list[float | None] = []
    for key, length, verdict in zip(keys, lengths, verdicts, strict=True):
        if verdict is None:
            rewards.append(None)
            continue
        low, high = bounds[key]
        value = 0.5 - (length - low) / (high - low) if high > low else 0.0
        rewards.append(value if verdict >= 1 else min(0.0, value))
    return rewards


def _accuracy() -> Correctness:
    # Here, so that the rewards that need no verifier load without one.
    from r1pipe.rewards.accuracy import accuracy_reward

    return accuracy_reward


def _lengths(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None,
    unit: Unit,
    reward: str,
) -> list[int]:
    if unit == "characters":
        return [len(text_of(completion)) for completion in completions]
    if unit != "tokens":
        hint = "known: tokens, characters"
        raise UserError(Problem(f"reward.{reward}.unit", f"unknown unit {unit!r}", hint))
    if completion_ids is None:
        raise UserError(
            Problem(
                f"reward.{reward}",
                "lengths in tokens need `completion_ids`, which this call does not have",
                "the trainer passes them; elsewhere set unit: characters",
            )
        )
    ids = column({"completion_ids": completion_ids}, "completion_ids", len(completions), reward)
    return [len(row) for row in ids]


def _key(prompt: Any) -> str:
    # What JSON has no word for (an image in a message) is told apart by its representation.
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr)
