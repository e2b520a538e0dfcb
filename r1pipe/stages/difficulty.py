"""Leaves out for a while the prompts that were lately solved always, or never."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from r1pipe.schema import DifficultyFilter

ALWAYS, NEVER, SOMETIMES = "a", "n", "s"
_ROUNDING = 1e-6


class Difficulty:
    """What became of each prompt on its last visits, and which prompts rest because of it.

    A prompt whose last `window` visits all ended alike (every completion solved it, or none) is
    left out of the next `rest` passes over the data. Then it is asked once more: another visit of
    the same kind sends it to rest again, any other brings it back for good. All ranks hold equal
    state, as it follows from gathered rewards alone.
    """

    def __init__(self, options: DifficultyFilter, rows: int, least: int) -> None:
        """`least`: prompts that must be in play in every pass, whatever `options.floor` says."""
        self.options, self.rows = options, rows
        self.least = min(rows, max(least, math.ceil(options.floor * rows)))
        self.visits: dict[int, str] = {}
        self.resting: dict[int, int] = {}
        """Prompt -> the first pass in which it may be asked again."""

    def visit(self, index: int, values: Sequence[float], number: int) -> None:
        """Note what a group earned on prompt `index` in pass `number`; NaN does not apply."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return
        solved = sum(value >= self.options.solved_at - _ROUNDING for value in known)
        outcome = ALWAYS if solved == len(known) else NEVER if solved == 0 else SOMETIMES
        window = self.options.window
        seen = (self.visits.get(index, "") + outcome)[-window:]
        self.visits[index] = seen
        if seen in (ALWAYS * window, NEVER * window):
            self.resting[index] = number + self.options.rest + 1
        else:
            self.resting.pop(index, None)

    def in_play(self, index: int, number: int) -> bool:
        return self.resting.get(index, 0) <= number

    def begin_pass(self, number: int) -> None:
        """End the rest of as many prompts as the floor asks for, of the longest rested first."""
        resting = {index: until for index, until in self.resting.items() if until > number}
        missing = self.least - (self.rows - len(resting))
        for index in sorted(resting, key=lambda index: (resting[index], index))[: max(0, missing)]:
            del resting[index]
        self.resting = resting

    def shares(self) -> dict[str, float]:
        """Return the shares of all prompts that rest, by why."""
        reasons = [self.visits[index][-1] for index in self.resting]
        return {
            "difficulty/resting_solved": reasons.count(ALWAYS) / self.rows,
            "difficulty/resting_unsolved": reasons.count(NEVER) / self.rows,
        }

    def state(self) -> dict[str, Any]:
        return {"visits": dict(self.visits), "resting": dict(self.resting)}

    def restore(self, state: dict[str, Any]) -> None:
        self.visits = {int(index): seen for index, seen in state["visits"].items()}
        self.resting = {int(index): until for index, until in state["resting"].items()}
