"""What decoding keeps per token: buffers of rows that grow, lose rows, or stay where they are."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Shape legend: B rows, K heads, T tokens in the cache, D features; one layer has one tensor
# [B, K, T, D] (latents) or two (keys and values).

GROWTH = 128  # least number of tokens added to the capacity when it is full


class LayerStates(Protocol):
    """One layer's states of the tokens read so far."""

    def append(self, *new: Tensor) -> list[Tensor]:
        """Add one token per row, [B, K, 1, D] each; returns what a query may look at."""
        ...


class GrowingStates:
    """Buffers with room to spare, all rows equally long: a step copies one token."""

    def __init__(self, *states: Tensor) -> None:
        self.rooms = list(states)
        self.count, self.length = states[0].shape[0], states[0].shape[2]

    def append(self, *new: Tensor) -> list[Tensor]:
        start, end = self.length, self.length + new[0].shape[2]
        if end > self.rooms[0].shape[2]:
            self.rooms = [
                _with_room(room[: self.count, :, :start], end + max(GROWTH, end // 2))
                for room in self.rooms
            ]
        self.length = end
        views = []
        for room, states in zip(self.rooms, new, strict=True):
            view = room[: self.count, :, :end]
            view[:, :, start:] = states
            views.append(view)
        return views

    def take(self, rows: Tensor) -> None:
        """Make the given rows (numbers may repeat) the new content."""
        self.rooms = [room[rows] for room in self.rooms]
        self.count = len(rows)

    def drop(self, count: int, holes: Tensor, movers: Tensor) -> None:
        """Keep the first `count` rows after moving the rows `movers` into the places `holes`."""
        if len(holes):
            for room in self.rooms:
                view = room[:, :, : self.length]
                view[holes] = view[movers]
        self.count = count


def _with_room(states: Tensor, capacity: int) -> Tensor:
    """Copy states [B, K, T, D] into a buffer with room for `capacity` tokens."""
    count, heads, length, width = states.shape
    room = states.new_empty(count, heads, capacity, width)
    room[:, :, :length] = states
    return room


class CachedLayer(DynamicLayer):
    """`GrowingStates` as transformers' modules want them, keys and values apart."""

    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
            self.keys, self.values = key_states, value_states
            self.states = GrowingStates(key_states, value_states)
        else:
            self.keys, self.values = self.states.append(key_states, value_states)
        return self.keys, self.values

    def take(self, rows: Tensor) -> None:
        self.states.take(rows)
        self.keys, self.values = self.states.rooms

    def drop(self, count: int, holes: Tensor, movers: Tensor) -> None:
        self.states.drop(count, holes, movers)
        self.keys, self.values = self.keys[:count], self.values[:count]


class SlotStates:
    """Buffers that never move, each row at a length of its own: what a CUDA graph can replay."""

    def __init__(self, rooms: list[Tensor], rows: Tensor, position: Tensor) -> None:
        """`rooms`: [B, K, T, D] each; `rows` = 0 .. B-1; `position` [B]: each row's next place."""
        self.rooms, self.rows, self.position = rooms, rows, position

    def append(self, *new: Tensor) -> list[Tensor]:
        for room, states in zip(self.rooms, new, strict=True):
            room[self.rows, :, self.position] = states[:, :, 0]
        return self.rooms
