"""Gives vLLM's GPU memory away while it has nothing to write, and takes it back in time."""

from __future__ import annotations

import gc
from typing import Any

import torch

from r1pipe.errors import Problem, UserError
from r1pipe.rollout.vllm_support import on_gpu
from r1pipe.schema import Rollout

LEVEL = 2
"""vLLM's level at which weights are dropped (its own buffers it keeps): the next writing gets new
ones anyway, and level 1 would copy the old ones to the host and back."""
OPTIMISER_BYTES = 12
"""Of a trained parameter: its gradient and Adam's two moments in float32."""
FULL = 0.85
"""Share of the GPU from which on it counts as full; activations need the rest."""


class Sleeper:
    """The sleep of one engine, step by step: nothing sleeps twice, nothing is used asleep."""

    def __init__(self, llm: Any, active: bool) -> None:
        self._llm, self.active = llm, active
        self._weights = self._cache = True
        self.lacks_weights = False
        """Whether what the engine held is gone and nothing new has arrived."""

    def sleep(self) -> None:
        """Drop weights and cache; nothing may be left to write."""
        if not self.active or not self._weights:
            return
        self._llm.sleep(level=LEVEL)
        self._weights = self._cache = False
        self.lacks_weights = True

    def wake_weights(self) -> None:
        """Get ready for new weights; the cache stays away, so that both trainer and they fit."""
        if not self._weights:
            _empty()
            self._llm.wake_up(tags=["weights"])
            self._weights = True

    def loaded(self) -> None:
        self.lacks_weights = False

    def wake(self) -> None:
        """Get ready to write."""
        if self.lacks_weights:
            raise RuntimeError("the engine slept, and has no weights to write with")
        if not self._cache:
            _empty()
            self._llm.wake_up(tags=["kv_cache"])
            self._cache = True


def _empty() -> None:
    """Give what torch keeps for later back to the device, where the engine takes its memory."""
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()


def sleeps(rollout: Rollout, trained: int, parts: int = 1) -> bool:
    """Return whether an engine beside a trainer of `trained` parameters is to sleep.

    `parts`: processes that share the optimizer's state of a parameter. Raises UserError where
    sleep is asked for without a GPU.
    """
    if not on_gpu():
        if rollout.sleep:
            what = "vLLM has no sleep mode on a CPU"
            raise UserError(Problem("rollout.sleep", what, "set it to false, or null"))
        return False
    if rollout.sleep is not None:
        return rollout.sleep
    held, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
    return is_short(total, rollout.gpu_memory_utilization, held, trained * OPTIMISER_BYTES // parts)


def is_short(total: int, share: float, held: int, more: int) -> bool:
    """Return whether a GPU of `total` bytes is too small for an engine that takes `share` of it
    beside a trainer that holds some bytes and will hold some more."""
    return share * total + held + more > FULL * total
