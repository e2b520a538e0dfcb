"""Completions that outlive a step: the longest are cut off, and go on in the next one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from r1pipe.rollout.ending import OnRows, Stop
from r1pipe.rollout.engine import SampledTokens


@dataclass
class OpenRow:
    """One completion, as far as it is written."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of each token under the policy that drew it."""
    ended: bool = False
    parts: int = 0
    """Steps in which some of it was written."""


@dataclass
class OpenGroup:
    """The completions of one prompt."""

    index: int
    """Row of the data set."""
    born: int
    """Optimizer steps taken when it was begun."""
    prompt_ids: list[int]
    rows: list[OpenRow]

    @property
    def whole(self) -> bool:
        return all(row.ended for row in self.rows)


class Write(Protocol):
    """An engine's `write` with everything else settled."""

    def __call__(
        self, prompt_ids: list[list[int]], limits: list[int], on_rows: OnRows, stop: Stop
    ) -> SampledTokens: ...


class PartialRollouts:
    """Keeps more groups in flight than a step trains on, and stops when enough of them are whole.

    Kimi k1.5 (arXiv 2501.12599, 2.6.2) cuts its longest completions and goes on with them in the
    next iteration; APRIL (arXiv 2509.18521) asks for more than it needs and stops at enough. Here a
    step gets whole groups, always the same number, the oldest first. No completion is used more
    than `max_staleness` optimizer steps after its first token: groups that old are waited for.
    """

    def __init__(self, groups: int, size: int, ahead: float, max_staleness: int) -> None:
        """`groups` of `size` completions are trained on in a step; `ahead` of that many, beyond
        them, are in flight (at most as many again)."""
        if not 0 < ahead <= 1:
            raise ValueError(f"ahead is {ahead}, not in (0, 1]")
        self.groups, self.size, self.max_staleness = groups, size, max_staleness
        self.in_flight = groups + max(1, math.floor(groups * ahead))
        self.open: list[OpenGroup] = []
        """In the order in which they were begun."""

    @property
    def missing(self) -> int:
        """Prompts to `begin` before the next step."""
        return self.in_flight - len(self.open)

    def begin(self, index: int, prompt_ids: list[int], step: int) -> None:
        rows = [OpenRow() for _ in range(self.size)]
        self.open.append(OpenGroup(index, step, prompt_ids, rows))

    def take(self, step: int, limit: int, write: Write) -> list[OpenGroup]:
        """Write until `groups` are whole, and none that has to be used now is not; return them.

        `limit`: most tokens of a completion.
        """
        todo = [(group, row) for group in self.open for row in group.rows if not row.ended]
        waiting = _Waiting(self, step)
        if not waiting.enough():
            written = write(
                [[*group.prompt_ids, *row.ids] for group, row in todo],
                [limit - len(row.ids) for _, row in todo],
                lambda ended: waiting.hear(todo[number][0] for number, _ in ended),
                waiting.enough,
            )
            assert written.logprobs is not None
            cut = set(written.unfinished)
            found = zip(todo, written.ids, written.logprobs, strict=True)
            for number, ((_, row), ids, logprobs) in enumerate(found):
                row.ids += ids
                row.logprobs += logprobs
                row.ended = number not in cut
                row.parts += bool(ids)
        whole = [group for group in self.open if group.whole][: self.groups]
        taken = {id(group) for group in whole}
        self.open = [group for group in self.open if id(group) not in taken]
        return whole

    def state(self) -> list[dict[str, Any]]:
        """Return what JSON can hold of the groups in flight."""
        return [asdict(group) for group in self.open]

    def restore(self, state: Iterable[dict[str, Any]]) -> None:
        self.open = [
            OpenGroup(**{**group, "rows": [OpenRow(**row) for row in group["rows"]]})
            for group in state
        ]


class _Waiting:
    """What a step still waits for."""

    def __init__(self, rollouts: PartialRollouts, step: int) -> None:
        self._left = {
            id(group): sum(not row.ended for row in group.rows) for group in rollouts.open
        }
        self._overdue = {
            id(group)
            for group in rollouts.open
            if step - group.born >= rollouts.max_staleness and not group.whole
        }
        self._missing = rollouts.groups - sum(left == 0 for left in self._left.values())

    def hear(self, groups: Iterable[OpenGroup]) -> None:
        """Count a completion of each of these groups as ended."""
        for group in groups:
            self._left[id(group)] -= 1
            if self._left[id(group)] == 0:
                self._missing -= 1
                self._overdue.discard(id(group))

    def enough(self) -> bool:
        return self._missing <= 0 and not self._overdue
