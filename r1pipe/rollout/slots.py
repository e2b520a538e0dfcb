"""Decoding with static shapes: rows in fixed places, a step that a CUDA graph can replay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from r1pipe.rollout.choosing import Choosing
from r1pipe.rollout.states import SlotStates
from r1pipe.rollout.steps import Step

# Shape legend: R places for rows, n the first of them that a step covers, T capacity in tokens, t
# the first of them it looks at, K heads, D features of a state, L layers with experts, E experts
# per token.


class Slots:
    """Device memory of R rows and the graphs that move them on by one token.

    Nothing here waits for the device; `tokens`, `logprobs` and `routes` have one column more than a
    row may fill, where rows that have ended write.
    """

    def __init__(
        self, step: Step, rows: int, asked: int, capacity: int, device: torch.device
    ) -> None:
        """`asked`: the rows somebody wanted; `rows`: those there is memory for, or a few more."""
        self.step, self.rows, self.asked = step, rows, asked
        self.capacity, self.device = capacity, device
        replace_tensors(step, lambda _, tensor: tensor.clone())  # graphs hold on to addresses
        self.states: list[list[Tensor]] = []

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.token, self.position, self.count = numbers(rows), numbers(rows), numbers(rows)
        """The token each row reads next, its place in the text, and how many were written."""
        self.live = torch.zeros(rows, dtype=torch.bool, device=device)
        self.limit = numbers(rows)
        self.tokens = torch.zeros(rows, capacity + 1, dtype=torch.int32, device=device)
        self.logprobs: Tensor | None = None
        self.routes: Tensor | None = None
        self.ruined = torch.zeros(1, dtype=torch.bool, device=device)
        self._index = torch.arange(max(rows, capacity), device=device)
        self._graphs: dict[tuple[Choosing, bool, int, int], Any] = {}
        self._pool: Any = None

    def serves(self, step: Step, rows: int, capacity: int) -> bool:
        """Whether the places are as many and as long, and the model is still the same shape."""
        if rows > self.asked or capacity != self.capacity:
            return False
        old, new = list(tensors_of(self.step)), list(tensors_of(step))
        return len(old) == len(new) and all(
            (a[1], a[2].shape, a[2].dtype, a[2].device)
            == (b[1], b[2].shape, b[2].dtype, b[2].device)
            for a, b in zip(old, new, strict=True)
        )

    def refresh(self, step: Step) -> None:
        """Take over new weights, in place."""
        fresh = [tensor for _, _, tensor in tensors_of(step)]
        for (_, _, tensor), new in zip(tensors_of(self.step), fresh, strict=True):
            tensor.copy_(new)

    def prepare(self, limit: int, logprobs: bool, routes: bool) -> None:
        """Get ready for completions of at most `limit` tokens."""
        self.limit.fill_(limit)
        self.live.fill_(False)
        self.position.fill_(0)
        self.ruined.fill_(False)
        if logprobs and self.logprobs is None:
            self.logprobs = torch.zeros(self.tokens.shape, device=self.device)
        if routes and self.routes is None:
            shape = (*self.tokens.shape, *self.step.routes_shape)
            self.routes = torch.zeros(shape, dtype=torch.int16, device=self.device)

    def place(self, slots: Tensor, states: list[list[Tensor]], which: Tensor) -> None:
        """Give the places `slots` the states [U, K, P, D] of prompts, numbers `which`."""
        if not self.states:
            self.states = [[self._room(state) for state in layer] for layer in states]
        for rooms, layer in zip(self.states, states, strict=True):
            for room, state in zip(rooms, layer, strict=True):
                room[:, :, : state.shape[2]].index_copy_(0, slots, state[which].to(room.dtype))

    def _room(self, state: Tensor) -> Tensor:
        # Zeros: what lies beyond a row's end is multiplied by weights of zero, and must be finite.
        shape = (self.rows, state.shape[1], self.capacity, state.shape[3])
        return torch.zeros(shape, dtype=self.step.embedding.dtype, device=self.device)

    def start(
        self,
        slots: Tensor,
        lengths: Tensor,
        logits: Tensor,
        choosing: Choosing,
        room: Tensor | None = None,
    ) -> None:
        """Draw the first tokens, from logits [n, vocabulary], of rows whose prompts are read.

        `room` [n]: most tokens of each, where that is not `prepare`'s.
        """
        if room is not None:
            self.limit[slots] = room
        chosen, witness, logprobs = choosing.choose(logits)
        self.ruined |= ~torch.isfinite(witness).all()
        self.token[slots], self.position[slots] = chosen, lengths
        self.count[slots] = 1
        self.live[slots] = ~choosing.is_end(chosen) & (self.limit[slots] > 1)
        self.tokens[slots, 0] = chosen.int()
        if logprobs is not None and self.logprobs is not None:
            self.logprobs[slots, 0] = logprobs

    def advance(self, choosing: Choosing, record: bool, rows: int, length: int) -> None:
        """Read one token and write the next in each live row among the first `rows`.

        Every live row must end before place `length`.
        """
        token, position = self.token[:rows], self.position[:rows]
        count, live = self.count[:rows], self.live[:rows]
        index = self._index[:rows]
        states = [
            SlotStates([room[:rows, :, :length] for room in layer], index, position)
            for layer in self.states
        ]
        hidden = self._index[:length] > position[:, None]
        mask = torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)
        logits = self.step(token, position, states, mask[:, None])
        chosen, witness, logprobs = choosing.choose(logits)
        self.ruined |= (~torch.isfinite(witness) & live).any()
        column = torch.where(live, count, self.capacity)[:, None]
        self.tokens[:rows].scatter_(1, column, chosen[:, None].int())
        if logprobs is not None and self.logprobs is not None:
            self.logprobs[:rows].scatter_(1, column, logprobs[:, None])
        if record and self.routes is not None:
            read = torch.where(live, count - 1, self.capacity)
            self.routes[index, read] = self.step.routes().to(torch.int16)
        token.copy_(torch.where(live, chosen, token))
        position += live
        count += live
        live &= ~(choosing.is_end(chosen) | (count >= self.limit[:rows]))

    def advance_by_graph(self, choosing: Choosing, record: bool, rows: int, length: int) -> None:
        """`advance` as a graph, captured when these arguments are new."""
        key = (choosing, record, rows, length)
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        self._graphs[key].replay()

    def forget_graphs(self) -> None:
        """Let the next steps be captured anew."""
        self._graphs.clear()
        self._pool = None  # its memory went with the last graph

    def _capture(self, choosing: Choosing, record: bool, rows: int, length: int) -> Any:
        # The first run loads kernels, which a capture must not. It draws numbers and would move
        # rows on: with no row alive it writes only what is there already, and the generator is
        # put back, so that a sample does not depend on which graphs exist.
        alive, ruined = self.live.clone(), self.ruined.clone()
        drawn = torch.cuda.get_rng_state(self.device)
        self.live.fill_(False)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.advance(choosing, record, rows, length)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after the other and leave their results outside: they can share scratch
        # memory. Other threads (rewards, data loading) may go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self.advance(choosing, record, rows, length)
        self._pool = self._pool or graph.pool()
        torch.cuda.set_rng_state(drawn, self.device)
        self.live.copy_(alive)
        self.ruined.copy_(ruined)
        return graph

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Move rows, with their first `length` states, to places none of which is a source."""
        moving = [self.token, self.position, self.count, self.live, self.limit, self.tokens]
        moving += [extra for extra in (self.logprobs, self.routes) if extra is not None]
        for tensor in moving:
            tensor[targets] = tensor[sources]
        for room in (room for layer in self.states for room in layer):
            view = room[:, :, :length]
            view[targets] = view[sources]
        self.clear(sources)

    def clear(self, slots: Tensor) -> None:
        """Mark places as empty."""
        self.live[slots], self.position[slots] = False, 0


def tensors_of(part: Any) -> Iterator[tuple[Any, Any, Tensor]]:
    """Yield (owner, name or number, tensor) of all weights in a step, in a fixed order."""
    items = enumerate(part) if isinstance(part, list) else list(vars(part).items())
    for name, value in items:
        if name == "route":  # a result, not a weight
            continue
        if isinstance(value, Tensor):
            yield part, name, value
        elif isinstance(value, list) or type(value).__module__.startswith("r1pipe.rollout"):
            yield from tensors_of(value)


def replace_tensors(part: Any, change: Any) -> None:
    """Put `change(name, tensor)` in the place of every weight of a step."""
    for owner, name, tensor in list(tensors_of(part)):
        if isinstance(owner, list):
            owner[name] = change(name, tensor)
        else:
            setattr(owner, name, change(name, tensor))
