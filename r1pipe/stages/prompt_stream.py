"""The order in which prompts are asked: one shuffled pass over the data after another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch


def _always(index: int, number: int) -> bool:
    return True


class PromptStream:
    """Gives out row numbers of the data; every row has its turn before one comes again.

    The passes are those of TRL's RepeatSampler, so that a run in which no prompt is left out and
    no round is added asks what it would ask without this. All ranks hold equal streams.
    """

    def __init__(
        self,
        rows: int,
        seed: int,
        shuffle: bool = True,
        in_play: Callable[[int, int], bool] = _always,
        on_pass: Callable[[int], None] = lambda number: None,
    ) -> None:
        """`in_play(row, number of the pass)` tells a row that may be asked from one that may not;
        `on_pass` hears the number of each pass before its first row is given out."""
        self.rows, self._seed, self._shuffle = rows, seed, shuffle
        self._in_play, self._on_pass = in_play, on_pass
        self.number, self._cursor = -1, rows
        self._order: list[int] = []
        self._generator = torch.Generator()
        self._generator.manual_seed(seed)

    def take(self, count: int, asked: Collection[int] = (), least: int = 0) -> list[int]:
        """Return up to `count` rows, none of them twice or in `asked`.

        Fewer come back when a whole pass holds no other row; never fewer than `least`, for which
        rows that should have been left out come again.
        """
        found: list[int] = []
        taken: set[int] = set()
        missed = 0
        already = len(asked)
        while len(found) < count and already + len(found) < self.rows:
            if missed > 2 * self.rows:  # from wherever it stands, every row was met by then
                break
            index = self._next()
            if index in taken or index in asked or not self._in_play(index, self.number):
                missed += 1
                continue
            found.append(index)
            taken.add(index)
            missed = 0
        while len(found) < least:
            found.append(self._next())
        return found

    def state(self) -> dict[str, Any]:
        return {"pass": self.number, "cursor": self._cursor}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken; the passes before it are drawn again, unasked."""
        self._generator.manual_seed(self._seed)
        self.number, self._order = -1, []
        while self.number < state["pass"]:
            self._draw()
        self._cursor = state["cursor"]

    def _next(self) -> int:
        if self._cursor >= len(self._order):
            self._draw()
            self._cursor = 0
            self._on_pass(self.number)
        self._cursor += 1
        return self._order[self._cursor - 1]

    def _draw(self) -> None:
        self.number += 1
        if self._shuffle:
            self._order = torch.randperm(self.rows, generator=self._generator).tolist()
        else:
            self._order = list(range(self.rows))
