"""Remembers how to launch an operation again for operands that differ by address alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

MOST = 4096
"""Layouts remembered; a model has tens, a program that never repeats one would have no end."""


class Repeats:
    """What launched the operations of one kind that were seen before, by their operands' layouts.

    A layout that was launched once has been checked, its tile chosen and its binary found.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Callable[..., bool] | None] = {}

    @staticmethod
    def key(tensors: tuple[Tensor, ...], *more: Any) -> Any:
        """All of the operands but addresses and values, which of them are one tensor, and `more`
        that tells operations apart."""
        numbers = [*map(id, tensors)]
        same = [numbers.index(number) for number in numbers]
        layouts = [(x.shape, x.stride(), x.dtype, x.device) for x in tensors]
        return *layouts, *same, *more

    def launched(self, key: Any, tensors: tuple[Tensor, ...]) -> bool:
        """Launch as before, if there was a before; False where nothing was done."""
        again = self._known.get(key)
        return again is not None and again(*tensors)

    def keep(self, key: Any, again: Callable[..., bool] | None) -> None:
        """Remember what a first launch returned."""
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = again
