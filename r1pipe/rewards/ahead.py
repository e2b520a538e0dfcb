"""Rewards of completions that have ended, computed in the background while others are written."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1pipe.rewards.combining import Reward, name_of

LEAST_SECONDS = 0.02
"""A reward that is done with a whole batch sooner is not worth a thread's attention."""
MOST_BUSY = 0.5
"""Share of its time that a reward may compute in this process. What computes here takes turns with
the engine's own Python; what waits (for worker processes, a sandbox, a server) does not."""
_HANDLES = ("trainer_state", "log_extra", "log_metric")
"""Arguments of TRL's that are not one value for each completion."""
_GIVEN = frozenset({"prompts", "completion_ids", *_HANDLES})

Decode = Callable[[list[int], list[list[int]]], list[Any] | None]
"""Called with numbers of rows and their ids; returns their completions as the rewards will see
them, or None where that is for the trainer to say."""


@dataclass
class _Part:
    """What a reward gave for some rows, and what it logged with it."""

    rows: list[int]
    values: list[float | None]
    metrics: list[tuple[str, float]] = field(default_factory=list)
    extras: list[tuple[str, list[Any]]] = field(default_factory=list)


class Batch:
    """The rows of one call of the rewards, as they become known."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], prompts: Sequence[Any], decode: Decode, state: Any
    ) -> None:
        """`rows`: of the data set, one for each completion; `state`: TRL's `trainer_state`."""
        self.rows, self.prompts, self._decode, self.state = rows, prompts, decode, state
        self.ids: dict[int, list[int]] = {}
        self.completions: dict[int, Any] = {}
        self.worked = self.waited = 0.0
        """Seconds of the background, and of whoever waited for it."""
        names = rows[0].keys() if rows else ()
        # `completion_ids` is no column for TRL either.
        self.columns = [n for n in names if n not in ("prompt", "completion", "completion_ids")]
        keys = [prompt if isinstance(prompt, str) else repr(prompt) for prompt in prompts]
        self.siblings: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            self.siblings.setdefault(key, []).append(row)
        self._keys = keys
        self._changed = threading.Condition()
        self._undone = 0

    def owe(self, count: int) -> None:
        """Count items that the background still has to look at; a negative `count` is done."""
        with self._changed:
            self._undone += count
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until the background has looked at all it was given."""
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._undone <= 0)
        self.waited += time.perf_counter() - started

    def decode(self, ended: Sequence[tuple[int, list[int]]]) -> list[int]:
        """Take in the ids of rows that have ended; returns those whose completions are known."""
        new = [(row, ids) for row, ids in ended if row not in self.completions]
        found = self._decode([row for row, _ in new], [ids for _, ids in new]) if new else []
        if found is None:
            return []
        self.ids.update(new)
        self.completions.update({row: each for (row, _), each in zip(new, found, strict=True)})
        return [row for row, _ in new]

    def know(self, row: int, ids: list[int], completion: Any) -> None:
        self.ids[row], self.completions[row] = ids, completion

    def siblings_of(self, row: int) -> list[int]:
        """Return the rows with the same prompt, itself among them."""
        return self.siblings[self._keys[row]]

    def arguments(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return the arguments TRL would give a reward for these rows alone, but for handles."""
        return {
            "completions": [self.completions[row] for row in rows],
            "prompts": [self.prompts[row] for row in rows],
            "completion_ids": [self.ids[row] for row in rows],
            **{name: [self.rows[row][name] for row in rows] for name in self.columns},
            "trainer_state": self.state,
        }

    def is_what(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> bool:
        """Whether a call is for these rows, with the completions that were known of them.

        Those that were not are known then.
        """
        count = len(self.rows)
        if len(completions) != count or set(columns) - _GIVEN != set(self.columns):
            return False
        ids, prompts = columns.get("completion_ids"), columns.get("prompts")
        if ids is None or prompts is None:
            return False
        for row in range(count):
            if row not in self.completions:
                self.know(row, ids[row], completions[row])
            if completions[row] != self.completions[row] or ids[row] != self.ids[row]:
                return False
            same = prompts[row] is self.prompts[row] or prompts[row] == self.prompts[row]
            if not same or any(columns[n][row] is not self.rows[row][n] for n in self.columns):
                return False
        return True


class RewardAhead:
    """`reward` as TRL calls it, with values that were computed while completions were written.

    The values are the reward's own. A reward that says it `looks_at` a `row` (each completion by
    itself) or a `prompt` (all completions of one prompt) may be asked for a part of a batch; any
    other is asked for all of it, when TRL asks. Where a part fails, or the completions turn out to
    be others, what was computed is forgotten and the reward asked for all: it raises then where it
    would have. What it logs as metrics has to add up over parts.
    """

    def __init__(self, reward: Reward, always: bool = False) -> None:
        """`always`: also where the first batch showed that nothing is to be gained."""
        self.__name__ = name_of(reward)
        self.looks_at: str | None = getattr(reward, "looks_at", None)
        self._reward, self._always = reward, always
        self._batch: Batch | None = None
        self._parts: list[_Part] = []
        self._known: set[int] = set()
        self._failed = False
        self._cost: tuple[float, float] | None = (0.0, 0.0) if always else None
        """Seconds of a whole batch, and the share of them that was computing here."""

    @property
    def gains(self) -> bool:
        """Whether to work ahead; known after one batch."""
        if self.looks_at not in ("row", "prompt"):
            return False
        if self._always:
            return True
        return (
            self._cost is not None and self._cost[0] >= LEAST_SECONDS and self._cost[1] <= MOST_BUSY
        )

    def begin(self, batch: Batch) -> None:
        self._batch = batch if self.gains else None
        self._parts, self._known, self._failed = [], set(), False

    def forget(self) -> None:
        self._batch = None

    def work(self, batch: Batch, new: Sequence[int]) -> None:
        """Reward what can be, now that these rows are known too; runs in the background."""
        if self._batch is not batch or self._failed:
            return
        rows = list(new)
        if self.looks_at == "prompt":
            known, groups = batch.completions, dict[int, list[int]]()
            for row in new:
                group = batch.siblings_of(row)
                if all(each in known for each in group):
                    groups[group[0]] = group
            rows = [row for group in groups.values() for row in group]
        rows = [row for row in rows if row not in self._known]
        if rows:
            self._add(batch, rows)

    def _add(self, batch: Batch, rows: list[int]) -> None:
        part = _Part(rows, [])
        log_extra = lambda column, values: part.extras.append((column, list(values)))  # noqa: E731
        log_metric = lambda name, value: part.metrics.append((name, value))  # noqa: E731
        try:
            handles = {"log_extra": log_extra, "log_metric": log_metric}
            values = self._reward(**batch.arguments(rows), **handles)
            part.values = list(values)
            whole = len(part.values) == len(rows)
            self._failed = not whole or any(len(v) != len(rows) for _, v in part.extras)
        except BaseException:  # asked for the whole batch, it will say so again
            self._failed = True
        if not self._failed:
            self._parts.append(part)
            self._known.update(rows)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        batch = self._batch
        if batch is not None:
            batch.wait()
            self._batch = None
            if not self._failed and batch.is_what(completions, columns):
                left = [row for row in range(len(batch.rows)) if row not in self._known]
                if left:
                    self._add(batch, left)
                if not self._failed:
                    return self._put_together(batch, columns)
        wall, busy = time.perf_counter(), busy_seconds()
        values = self._reward(completions=completions, **columns)
        wall, busy = time.perf_counter() - wall, busy_seconds() - busy
        self._cost = (wall, busy / max(wall, 1e-9))
        return values

    def _put_together(self, batch: Batch, columns: Mapping[str, Any]) -> list[float | None]:
        """Return the values in order, and log what the parts did as one call would have."""
        values: list[float | None] = [None] * len(batch.rows)
        metrics: dict[str, float] = {}
        extras: dict[str, list[Any]] = {}
        for part in self._parts:
            for row, value in zip(part.rows, part.values, strict=True):
                values[row] = value
            for name, value in part.metrics:
                metrics[name] = metrics.get(name, 0.0) + value
            for column, logged in part.extras:
                places = extras.setdefault(column, [None] * len(values))
                for row, value in zip(part.rows, logged, strict=True):
                    places[row] = value
        for name, value in metrics.items():
            columns["log_metric"](name, value)
        for column, logged in extras.items():
            columns["log_extra"](column, logged)
        return values


def busy_seconds() -> float:
    """Return how long this thread has computed, or (on Linux) stood in line for a core to do so."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            ran, stood, _ = map(int, file.read().split())
        return max(time.thread_time(), ran / 1e9) + stood / 1e9
    except (OSError, ValueError):
        return time.thread_time()


class Ahead:
    """One thread that rewards what has ended of the batch at hand."""

    def __init__(self, rewards: Sequence[RewardAhead]) -> None:
        self.rewards = list(rewards)
        self._batch: Batch | None = None
        self._waiting: queue.SimpleQueue[tuple[Batch, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(
        self, rows: Sequence[Mapping[str, Any]], prompts: Sequence[Any], decode: Decode, state: Any
    ) -> Batch | None:
        """Get ready for completions of these rows; None where nothing is gained by it."""
        self.drop()
        if not rows or not any(reward.gains for reward in self.rewards):
            return None
        if any(row.keys() != rows[0].keys() for row in rows):  # TRL asks for the first's columns
            return None
        batch = self._batch = Batch(rows, prompts, decode, state)
        for reward in self.rewards:
            reward.begin(batch)
        return batch

    def drop(self) -> None:
        """Forget the batch at hand."""
        self._batch = None
        for reward in self.rewards:
            reward.forget()

    def add(self, ended: Sequence[tuple[int, list[int]]]) -> None:
        """Take (row, ids) of completions that have ended."""
        self._put(list(ended))

    def add_known(self, completion_ids: Sequence[list[int]], completions: Sequence[Any]) -> None:
        """Take all rows of the batch, with their completions; those known already stay."""
        self._put((completion_ids, completions))

    def _put(self, item: Any) -> None:
        batch = self._batch
        if batch is None or not item:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rewards-ahead", daemon=True)
            self._thread.start()
        batch.owe(1)
        self._waiting.put((batch, item))

    def _run(self) -> None:
        while True:
            batch, item = self._waiting.get()
            items = [item]
            # Whatever has piled up meanwhile goes together: a sandbox runs programs side by side.
            while not self._waiting.empty():
                other, item = self._waiting.get()
                if other is not batch:  # nobody waits for a batch that was dropped
                    batch, items = other, []
                items.append(item)
            if batch is self._batch:
                started = time.perf_counter()
                self._work(batch, items)
                batch.worked += time.perf_counter() - started
            batch.owe(-len(items))

    def _work(self, batch: Batch, items: list[Any]) -> None:
        new: list[int] = []
        for item in items:
            try:
                if isinstance(item, list):
                    new += batch.decode(item)
                    continue
                for row, (ids, completion) in enumerate(zip(*item, strict=True)):
                    if row not in batch.completions:
                        batch.know(row, ids, completion)
                        new.append(row)
            except Exception:  # a tokenizer that stumbles will do so where the trainer sees it
                return
        for reward in self.rewards:
            reward.work(batch, new)
