"""How completions end: who is told, how long each may become, and what stops all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

OnDone = Callable[[int], None]
"""Called with the number of completions written so far."""
OnRows = Callable[[list[tuple[int, list[int]]]], None]
"""Called with (number of the prompt, the completion's ids) of completions that have just ended."""
Stop = Callable[[], bool]
"""Asked now and then while completions are written. True stops all: those that have not ended are
returned as far as they are, for a later call to continue."""


@dataclass(frozen=True)
class Told:
    """What the caller of `write` wants to hear, and what it says of when completions end."""

    on_done: OnDone | None = None
    on_rows: OnRows | None = None
    limits: Sequence[int] | None = None
    """Most tokens of each completion."""
    stop: Stop | None = None

    def part(self, rows: Sequence[int], done: int) -> Told:
        """The same for a call that writes these rows alone, after `done` others."""
        on_done, on_rows, limits = self.on_done, self.on_rows, self.limits
        return Told(
            None if on_done is None else lambda count: on_done(done + count),
            None if on_rows is None else lambda new: on_rows([(rows[n], ids) for n, ids in new]),
            None if limits is None else [limits[row] for row in rows],
            self.stop,
        )

    def stopped(self) -> bool:
        return self.stop is not None and self.stop()
