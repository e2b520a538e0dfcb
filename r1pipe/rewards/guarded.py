"""A reward that fails on a sample costs that sample, and stops the run when it happens often."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1pipe.errors import StageFailed, UserError
from r1pipe.rewards.combining import Reward, name_of

log = logging.getLogger(__name__)
WINDOW = 1000
"""Latest samples over which failures are counted."""
MOST_FAILED = 0.01
"""Share of a window that may fail before the run stops."""
FAILURES_FILE = "reward_failures.jsonl"
MOST_SAVED = 1000
"""Failed samples written to the file; beyond them only the count goes on."""


class GuardedReward:
    """`reward` for a trainer: finite numbers or None, whatever the reward does.

    A sample on which the reward raises, or is not a finite number, gets None (which TRL leaves out
    of the sum), is counted, and is written to `saved_to` with the traceback. StageFailed when more
    than 1 % of the last 1,000 samples failed, or every sample of a batch did: then the reward is
    broken, not the sample. UserError (bad data, bad config) passes through.
    """

    def __init__(self, reward: Reward, saved_to: Path | None = None) -> None:
        self.__name__ = name_of(reward)
        self.failures = 0
        self._reward, self._saved_to = reward, saved_to
        self._latest: deque[bool] = deque(maxlen=WINDOW)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        count = len(completions)
        try:
            values = self._finite(self._reward(completions=completions, **columns), count)
            failed: dict[int, str] = {}
        except UserError:
            raise
        except Exception:
            values, failed = self._one_by_one(completions, columns)
        self._latest.extend(index in failed for index in range(count))
        if failed:
            self._count(failed, completions, columns)
        if callable(log_metric := columns.get("log_metric")):
            log_metric(f"rewards/{self.__name__}/failures", float(len(failed)))
        return values

    def _finite(self, values: Any, count: int) -> list[float | None]:
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
            raise TypeError(f"{values!r:.200} instead of a list of {count} numbers")
        for value in values:
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{value} instead of a finite number")
        return [None if value is None else float(value) for value in values]

    def _one_by_one(
        self, completions: Sequence[Any], columns: dict[str, Any]
    ) -> tuple[list[float | None], dict[int, str]]:
        """Find the samples that fail alone, then reward the others together: groups stay groups."""
        failed: dict[int, str] = {}
        for index in range(len(completions)):
            try:
                self._reward_some([index], completions, columns)
            except UserError:
                raise
            except Exception:
                failed[index] = traceback.format_exc()
        values: list[float | None] = [None] * len(completions)
        whole = [index for index in range(len(completions)) if index not in failed]
        if whole:
            try:
                rewarded = self._reward_some(whole, completions, columns)
            except Exception:
                return values, dict.fromkeys(range(len(completions)), traceback.format_exc())
            for index, value in zip(whole, rewarded, strict=True):
                values[index] = value
        return values, failed

    def _reward_some(
        self, chosen: Sequence[int], completions: Sequence[Any], columns: dict[str, Any]
    ) -> list[float | None]:
        count = len(completions)
        some = {
            name: [values[i] for i in chosen]
            if isinstance(values, list | tuple) and len(values) == count
            else values
            for name, values in columns.items()
        }
        values = self._reward(completions=[completions[i] for i in chosen], **some)
        return self._finite(values, len(chosen))

    def _count(
        self, failed: dict[int, str], completions: Sequence[Any], columns: dict[str, Any]
    ) -> None:
        self.failures += len(failed)
        saved = self._save(failed, completions, columns)
        first = min(failed)
        why = failed[first].strip().splitlines()[-1]
        figures = (self.__name__, len(failed), len(completions))
        log.warning("the reward `%s` failed on %d of %d samples: %s", *figures, why)
        in_window = sum(self._latest)
        if len(failed) < len(completions) and in_window <= MOST_FAILED * WINDOW:
            return
        state = columns.get("trainer_state")
        step = f"step {state.global_step + 1}: " if state is not None else ""
        raise StageFailed(
            f"{step}the reward `{self.__name__}` failed on {len(failed)} of {len(completions)} "
            f"samples of this batch, {in_window} of the last {len(self._latest)} ({why}){saved}"
        )

    def _save(
        self, failed: dict[int, str], completions: Sequence[Any], columns: dict[str, Any]
    ) -> str:
        if self._saved_to is None:
            return ""
        room = MOST_SAVED - (self.failures - len(failed))
        with self._saved_to.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for index in sorted(failed)[: max(0, room)]:
                row = {
                    name: values[index]
                    for name, values in columns.items()
                    if isinstance(values, list | tuple) and len(values) == len(completions)
                }
                sample = {"reward": self.__name__, "completion": completions[index], **row}
                sample["error"] = failed[index]
                file.write(json.dumps(sample, ensure_ascii=False, default=repr) + "\n")
        return f"; the samples are in {self._saved_to}"
