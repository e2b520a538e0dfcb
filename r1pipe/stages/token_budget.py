"""How many tokens a pass with gradients may have: asked for, or measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from r1pipe.errors import Problem, UserError

PROBED = 4096
"""Tokens of the passes that are measured; the first batch is taken in these."""
MOST = 65_536
"""More tokens at a time make nothing faster: the GPU is full with a quarter of them."""
SHARE = 0.8
"""Of the free memory; the rest is for fragments and for what grows with the longest row."""


class TokenBudget:
    """Tokens of one forward and backward pass, None without a limit.

    `auto` measures on a GPU what a token of this model takes, with gradient checkpointing or
    without, and divides the memory that is free by it. Elsewhere it sets no limit.
    """

    def __init__(self, asked: int | Literal["auto"] | None, device: torch.device) -> None:
        self.tokens = asked if isinstance(asked, int) else None
        self._measures = asked == "auto" and device.type == "cuda"
        self._device = device
        self._cost = 0.0
        if self._measures:
            self.tokens = PROBED

    @contextmanager
    def watch(self, tokens: int, number: int) -> Iterator[None]:
        """Measure a pass of so many tokens; `number` counts the passes of a batch."""
        if not self._measures or number == 0:  # the first one brings gradients into being
            yield
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        grown = torch.cuda.max_memory_allocated(self._device) - before
        self._cost = max(self._cost, grown / max(tokens, 1))

    def settle(self, trainer: Any) -> None:
        """Choose, once a batch has been measured, for the batches to come; all ranks alike."""
        if not self._measures or self._cost == 0:
            return
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device)
        free += cached - torch.cuda.memory_allocated(self._device)
        free -= optimizer_bytes_to_come(trainer)
        fits = int(min(MOST, max(1, SHARE * free / self._cost)))
        fits = torch.tensor([fits], device=self._device)
        self.tokens = max(256, int(trainer.accelerator.gather(fits).min()) // 256 * 256)
        self._measures = False
        if trainer.accelerator.is_main_process:
            told = f"{self._cost / 2**20:.2f} MiB a token, {free / 2**30:.0f} GiB free"
            print(f"passes of up to {self.tokens} tokens ({told})", file=sys.stderr, flush=True)


def optimizer_bytes_to_come(trainer: Any) -> int:
    """Return what Adam's two moments will take where the optimizer has made no step yet."""
    optimizer = trainer.optimizer
    if optimizer is None or getattr(optimizer, "optimizer", optimizer).state:
        return 0
    weights = (p for group in optimizer.param_groups for p in group["params"])
    return sum(2 * p.numel() * p.element_size() for p in weights if p.requires_grad)


def out_of_memory(error: torch.OutOfMemoryError, tokens: int) -> UserError:
    """Return what to say where a pass of so many tokens does not fit."""
    what = f"out of memory in a pass of {tokens} tokens: {str(error).splitlines()[0]}"
    lower = max(256, 2 ** int(math.log2(max(tokens, 2)) - 1))
    hint = (
        f"lower it to {lower}; for longer rows set `trainer.gradient_checkpointing=true`, "
        "or lower `rollout.gpu_memory_utilization` by 0.1"
    )
    return UserError(Problem("max_tokens_per_microbatch", what, hint))


def bins(lengths: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Return row numbers in bins of at most `budget` tokens, as even as possible.

    A row longer than the budget has a bin to itself. There are no more bins than rows; `at_least`
    asks for more bins than the budget would. Longest first into the emptiest (LPT scheduling,
    Graham 1969): within 4/3 of the evenest.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    count = max(at_least, min(len(lengths), -(-sum(lengths) // max(budget, 1))))
    while True:
        loads, found = [0] * count, [[] for _ in range(count)]
        for row in order:
            emptiest = loads.index(min(loads))
            loads[emptiest] += lengths[row]
            found[emptiest].append(row)
        over = [load for load, rows in zip(loads, found, strict=True) if len(rows) > 1]
        if count >= len(lengths) or max(over, default=0) <= budget:
            return [rows for rows in found if rows]
        count += 1


def rectangles(lengths: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """Return row numbers in parts whose rows times longest row stay within `budget` tokens.

    Rows of like length are together. More parts, `at_least` so many, come from halving the largest.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    found: list[list[int]] = []
    while order:
        taken = max(1, budget // max(lengths[order[0]], 1))
        found.append(order[:taken])
        order = order[taken:]
    while len(found) < min(at_least, len(lengths)):
        largest = max(range(len(found)), key=lambda part: len(found[part]))
        rows, half = found[largest], len(found[largest]) // 2
        found[largest : largest + 1] = [rows[:half], rows[half:]]
    return found
