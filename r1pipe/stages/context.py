"""What a stage is given and what it returns."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1pipe.schema import StageBase


class Progress:
    """Tells the driver how far a stage is, through one small file replaced in place."""

    def __init__(self, path: Path, every: float = 0.3) -> None:
        self._path, self._every, self._last = path, every, 0.0

    def update(self, phase: str, done: int, total: int, **shown: float) -> None:
        """Record `done` of `total` units of `phase`; `shown` are figures for the progress line."""
        now = time.monotonic()
        if now - self._last < self._every and done < total:
            return
        self._last = now
        text = json.dumps({"phase": phase, "done": done, "total": total, "shown": shown})
        aside = self._path.with_suffix(".tmp")
        aside.write_text(text)
        os.replace(aside, self._path)


@dataclass(frozen=True)
class StageContext:
    """A stage's typed config and the folder its artifact is made in."""

    name: str
    stage: StageBase
    workdir: Path
    progress: Progress

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints"


@dataclass(frozen=True)
class Outcome:
    """What a stage leaves in its folder.

    `metrics` are functions of config and seed alone (compared bit for bit after a resume);
    `timings` (seconds, tokens per second, bytes) are not.
    """

    kind: Literal["model", "dataset", "evaluation"]
    metrics: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


def dropped_prompts(count: int) -> dict[str, int]:
    """Return the metric of prompts left out because they are too long; nothing where none were."""
    return {"prompts_dropped": count} if count else {}
