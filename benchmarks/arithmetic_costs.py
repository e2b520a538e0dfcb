"""What the stages of a run cost: minutes, tokens trained, tokens sampled."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from r1pipe.report.records import RunRecord, StageRecord


@dataclass(frozen=True)
class Cost:
    """Of one stage, or of several one after the other."""

    seconds: float
    trained: int
    """Tokens of prompts and completions that went through a backward pass."""
    sampled: int
    writing: float
    """Seconds spent on writing them."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.trained + other.trained,
            self.sampled + other.sampled,
            self.writing + other.writing,
        )

    @property
    def sampled_per_second(self) -> float:
        return self.sampled / self.writing if self.writing else 0.0

    def cells(self) -> list[str]:
        """Minutes, millions of tokens trained and sampled, tokens sampled a second of writing."""
        speed = f"{self.sampled_per_second:,.0f}" if self.sampled else "–"
        tokens = [f"{n / 1e6:.2f}" if n else "–" for n in (self.trained, self.sampled)]
        return [f"{self.seconds / 60:.2f}", *tokens, speed]


def on_a_gpu(run: RunRecord) -> bool:
    """Whether a GPU was there; a run that did not note its machine is taken to have had one."""
    noted = [stage.gpus for stage in run.stages if stage.gpus is not None]
    return any(noted) or not noted


def cost_of(stage: StageRecord, cpu: bool = False) -> Cost:
    """Return what a stage cost, from its manifest and its metrics; `cpu`: in its processes' time.

    That is the same with other work beside it, as the clock's is not.
    """
    timings = stage.timings
    seconds = timings.get("cpu_s" if cpu else "wall_s", 0.0)
    counted = [row["num_tokens"] for row in stage.history if row.get("num_tokens")]
    trained = int(counted[-1]) if counted else 0
    if stage.kind in ("sample", "eval"):
        writing = timings.get("generate_s", 0.0)
        return Cost(seconds, 0, round(timings.get("tokens_per_second", 0.0) * writing), writing)
    sampled = writing = 0.0
    before = 0
    for row in stage.history:
        steps, before = row.get("step", before) - before, row.get("step", before)
        took = (row.get("generate_time") or 0.0) * steps
        writing += took
        sampled += took * (row.get("generated_tokens_per_second") or 0.0)
    return Cost(seconds, trained, round(sampled), writing)


def busy_minutes(stages: Sequence[StageRecord]) -> float:
    """Return the minutes in which at least one stage was at work.

    A run of several sittings has gaps that do not count; a stage that was killed counts with its
    last attempt.
    """
    spans = []
    for stage in stages:
        if stage.created and stage.seconds:
            end = datetime.datetime.fromisoformat(stage.created).timestamp()
            spans.append((end - stage.seconds, end))
    busy, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 60
