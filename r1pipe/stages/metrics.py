"""Appends what a trainer logs to metrics.jsonl, and tells the driver how far it is."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from r1pipe.stages.context import Progress

TIMING = "timing"
_SHOWN = ("loss", "reward", "completions/mean_length", "kl")


class MetricsFile(TrainerCallback):
    """One JSON object per logged step, with nothing twice after a resume.

    Wall-clock figures stand under `timing`; the rest is a function of config and seed.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self._shown: dict[str, float] = {}
        self._tokens, self._time = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        keep_rows(self._path, state.global_step)
        known = [row["num_tokens"] for row in state.log_history if row.get("num_tokens")]
        self._tokens, self._time = int(known[-1]) if known else 0, time.perf_counter()
        self._progress.update("train", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._progress.update("train", state.global_step, state.max_steps, **self._shown)
        if state.global_step >= state.max_steps:  # tokens and curve to the end, however it divides
            control.should_log = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, **split_timing(logs)}
        if logs.get("num_tokens"):
            now = time.perf_counter()
            rate = (logs["num_tokens"] - self._tokens) / max(now - self._time, 1e-9)
            row[TIMING]["tokens_per_second"] = round(rate, 1)
            self._tokens, self._time = logs["num_tokens"], now
        self._shown = {
            name.split("/")[-1]: row[name] for name in _SHOWN if row.get(name) is not None
        }
        self._shown |= {k: v for k, v in row[TIMING].items() if k == "tokens_per_second"}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def split_timing(logs: dict[str, Any]) -> dict[str, Any]:
    """Return the logged values with wall-clock ones under `timing` and non-finite ones as null."""
    values: dict[str, Any] = {}
    timing: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        is_time = name.endswith(("_time", "_per_second", "_speed", "runtime")) or name.startswith(
            "profiling/"
        )
        (timing if is_time else values)[name] = value
    return {**values, TIMING: timing}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a metrics file; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def keep_rows(path: Path, last_step: int) -> None:
    """Drop rows after `last_step` from a metrics file: the steps that are about to run again."""
    rows = [row for row in read_rows(path) if row.get("step", 0) <= last_step]
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    os.replace(aside, path)
