"""Decoding loop for a GPU: thousands of rows, one graph per shape, freed places filled again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from r1pipe.rollout.choosing import Choosing, require_finite
from r1pipe.rollout.ending import Told
from r1pipe.rollout.slots import Slots
from r1pipe.rollout.steps import Step, precision_of
from r1pipe.rollout.weights import base_of
from r1pipe.rollout.written import ROUTES_DTYPE, Written

# Shape legend: R places for rows, n the first of them that a step covers, U distinct prompts,
# P longest prompt, L layers with experts, K experts per token.

CHECK_EVERY = 8
"""Steps between two looks at the device, each of which waits for it; a row that has ended is
computed on until the next look, which wastes half as many tokens per completion."""
FEWEST_ROWS = 64
"""A step over fewer rows takes no less time ..."""
FEWEST_STATES = 1 << 15
"""... unless each has a long text behind it: tokens in the caches of all rows together."""
LENGTH_GRAIN = 64
"""Cache lengths are rounded up to multiples of this, beyond 512 to an eighth of their size."""
ADMIT_SHARE = 1 / 8
"""Waiting prompts are read once this share of the places is free: reading has a fixed cost."""
READ_TOKENS = 1 << 17
"""Most tokens of prompts, padding included, in one pass."""
MEMORY_SHARE = 0.3
"""Most of the device's free memory that states may take."""


def row_bucket(rows: int, most: int, length: int = 1) -> int:
    """Return the number of rows of the smallest graph for that many: powers of two and 3/4.

    `length`: tokens in the cache of each.
    """
    size = FEWEST_ROWS
    while size > 1 and size * length > FEWEST_STATES:
        size //= 2
    while size < rows:
        larger = size * 2
        size = size + size // 2 if rows <= size + size // 2 else larger
    return min(size, most)


def length_bucket(length: int, most: int) -> int:
    """Return the cache length of the smallest graph that reaches that far."""
    grain = max(LENGTH_GRAIN, 1 << max(length - 1, 8).bit_length() - 4)
    return min(-(-length // grain) * grain, most)


class SlotLoop:
    """Writes completions of any number of prompts in the places of one `Slots`."""

    def __init__(
        self,
        model: Any,
        slots: Slots,
        rows: int,
        limit: int,
        choosing: Choosing,
        pad: int,
        graphs: bool,
        routers: Sequence[Any] = (),
    ) -> None:
        """`rows`: places to use; `limit`: most tokens of a completion.

        `routers`: the model's, when their choice is to be recorded.
        """
        self.model, self.slots, self.limit = base_of(model), slots, limit
        self.rows = min(rows, slots.rows)
        self.choosing, self.pad, self.graphs = choosing, pad, graphs
        self.routers = list(routers)

    def run(self, prompts: Sequence[Sequence[int]], told: Told) -> list[Written]:
        """Return the completions, in order; they are written roughly in that order too."""
        slots, self.limits = self.slots, told.limits
        slots.prepare(self.limit, self.choosing.logprobs, bool(self.routers))
        self.prompts, self.done = prompts, [Written() for _ in prompts]
        self.lengths = torch.tensor([len(ids) for ids in prompts])
        self._read_routes: dict[int, Tensor] = {}
        # What the host knows: whose row is where (-1: nobody's), and how far it was last seen.
        self.owner = torch.full((self.rows,), -1)
        self.position = torch.zeros(self.rows, dtype=torch.long)
        self.used = waiting = 0
        while waiting < len(prompts) or self.used:
            free = self.rows - int((self.owner >= 0).sum())
            left = len(prompts) - waiting
            if left and free >= min(left, max(1, int(self.rows * ADMIT_SHARE))):
                waiting += self._admit(waiting, min(left, free))
            else:
                self._close_ranks()
                self._advance()
            finished = self._collect()
            if finished and told.on_rows is not None:
                told.on_rows([(row, self.done[row].ids) for row in finished])
            if finished and told.on_done is not None:
                told.on_done(waiting - int((self.owner >= 0).sum()))
            if told.stopped():
                unread = range(waiting, len(prompts))
                for row in [
                    *self._hand_over((self.owner[: self.used] >= 0).nonzero()[:, 0]),
                    *unread,
                ]:
                    self.done[row].whole = False
                break
        return self.done

    def _admit(self, first: int, count: int) -> int:
        """Read the next waiting prompts into free places; returns how many."""
        numbers: dict[tuple[int, ...], int] = {}
        which: list[int] = []
        longest = 0
        for ids in self.prompts[first : first + count]:
            widest = max(longest, len(ids))
            if which and widest * (len(numbers) + 1) > READ_TOKENS:
                break
            longest = widest
            which.append(numbers.setdefault(tuple(ids), len(numbers)))
        device = self.slots.device
        lengths = torch.tensor([len(ids) for ids in numbers])
        padded = [list(ids) + [self.pad] * (longest - len(ids)) for ids in numbers]
        states, logits = self._read(torch.tensor(padded).to(device), lengths)
        places = (self.owner < 0).nonzero()[: len(which), 0]
        owners = torch.arange(first, first + len(which))
        self.owner[places] = owners
        self.position[places] = lengths[which]
        self.used = max(self.used, int(places[-1]) + 1)
        for row, number in zip(owners.tolist(), which, strict=True):
            if self.routers:
                self._read_routes[row] = self._prompt_routes[number]
        index = torch.tensor(which).to(device)
        placed = places.to(device)
        self.slots.place(placed, states, index)
        room = None
        if self.limits is not None:
            room = torch.tensor(self.limits[first : first + len(which)]).to(device)
        lengths = self.position[places].to(device)
        self.slots.start(placed, lengths, logits[index], self.choosing, room)
        return len(which)

    def _read(self, ids: Tensor, lengths: Tensor) -> tuple[list[list[Tensor]], Tensor]:
        """Return the states of prompts [U, P], padded on the right, and their next logits.

        A token looks at none after it, so that the padding needs no mask.
        """
        cache, step = DynamicCache(), self.slots.step
        with (
            precision_of(step, self.model),
            _recorded(self.routers) as choices,
        ):
            out = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True)
            rows = torch.arange(len(ids), device=ids.device)
            last = out.last_hidden_state[rows, (lengths - 1).to(ids.device)]
            logits = self.model.lm_head(last)
        if self.routers:
            chosen = torch.stack([choice.experts_TK for choice in choices], dim=1)
            chosen = chosen.to(ROUTES_DTYPE).cpu().unflatten(0, ids.shape)
            pairs = zip(chosen, lengths.tolist(), strict=True)
            self._prompt_routes = [routes[:length] for routes, length in pairs]
        layers: list[Any] = cache.layers
        return [step.adopt(layer.keys, layer.values) for layer in layers], logits

    def _advance(self) -> None:
        """Let the device run until the next look."""
        slots = self.slots
        mine = self.owner[: self.used] >= 0
        starts = self.lengths[self.owner[: self.used][mine]]
        written = self.position[: self.used][mine] - starts + 1
        steps = min(CHECK_EVERY, self.limit - int(written.min()))
        reach = int(self.position[: self.used].max()) + steps
        length = length_bucket(reach, slots.capacity)
        rows = row_bucket(self.used, slots.rows, length)
        forward = slots.advance_by_graph if self.graphs else slots.advance
        with torch.autocast(slots.device.type, enabled=False):
            for _ in range(steps):
                forward(self.choosing, bool(self.routers), rows, length)

    def _collect(self) -> list[int]:
        """Look at the device; hand over and clear the rows that have ended, return which."""
        slots, used = self.slots, self.used
        require_finite(torch.where(slots.ruined, torch.nan, 0.0))
        looked = torch.stack([slots.live[:used].long(), slots.position[:used], slots.count[:used]])
        live, position, self.count = looked.cpu()
        mine = self.owner[:used] >= 0
        self.position[:used] = torch.where(mine, position, 0)
        return self._hand_over((mine & ~live.bool()).nonzero()[:, 0])

    def _hand_over(self, ended: Tensor) -> list[int]:
        """Take what the rows in these places wrote and clear them; returns whose they were."""
        slots = self.slots
        if not len(ended):
            return []
        places = ended.to(slots.device)
        owners, counts = self.owner[ended].tolist(), self.count[ended].tolist()
        longest = max(counts)
        tokens = slots.tokens[:, :longest][places].tolist()
        for row, ids, length in zip(owners, tokens, counts, strict=True):
            self.done[row].ids = ids[:length]
        if slots.logprobs is not None and self.choosing.logprobs:
            kept = slots.logprobs[:, :longest][places].cpu()
            for row, drawn, length in zip(owners, kept, counts, strict=True):
                self.done[row].logprobs = drawn[:length]
        if slots.routes is not None and self.routers:
            later = slots.routes[:, : longest - 1][places].cpu()
            for row, routes, length in zip(owners, later, counts, strict=True):
                read = self._read_routes.pop(row)
                self.done[row].routes = torch.cat([read, routes[: length - 1]])
        slots.clear(places)
        self.owner[ended], self.position[ended] = -1, 0
        taken = (self.owner >= 0).nonzero()
        self.used = int(taken[-1]) + 1 if len(taken) else 0
        return owners

    def _close_ranks(self) -> None:
        """Move the last rows into holes when a smaller graph then holds them all."""
        most = self.slots.rows
        taken = (self.owner >= 0).nonzero()[:, 0]
        count, reach = len(taken), int(self.position[: self.used].max())
        if row_bucket(count, most, reach) >= row_bucket(self.used, most, reach):
            return
        sources = taken[taken >= count]
        targets = (self.owner[:count] < 0).nonzero()[:, 0]
        device = self.slots.device
        length = length_bucket(int(self.position[sources].max()) + 1, self.slots.capacity)
        self.slots.move(sources.to(device), targets.to(device), length)
        for known, empty in ((self.owner, -1), (self.position, 0)):
            known[targets] = known[sources]
            known[sources] = empty
        self.used = count


def _recorded(routers: list[Any]) -> Any:
    if not routers:
        return nullcontext([])
    from r1pipe.models.deepseek.experts import recorded

    return recorded(routers)


_KEPT: weakref.WeakKeyDictionary[Any, Slots] = weakref.WeakKeyDictionary()


def capacity_for(model: Any, tokens: int) -> int:
    """Return the tokens per row to make a step for, so that kept places can serve again."""
    kept = _KEPT.get(base_of(model))
    return max(length_bucket(tokens, 1 << 62), 0 if kept is None else kept.capacity)


def slots_for(model: Any, step: Step, rows: int, capacity: int, keep: bool) -> Slots:
    """Return places for `rows` rows of `capacity` tokens, those of the last call where they fit.

    What is kept (graphs, above all) lives as long as the model, or until `release`. There are
    fewer places when their states would take more than `MEMORY_SHARE` of the device's free memory.
    """
    base, device = base_of(model), step.embedding.device
    kept = _KEPT.pop(base, None)
    if kept is not None and kept.serves(step, rows, capacity):
        kept.refresh(step)
    else:
        rows = max(rows, 0 if kept is None else kept.asked)
        kept = None  # frees its memory before more is asked for
        places = row_bucket(rows, _affordable(step, capacity, device), capacity)
        kept = Slots(step, places, rows, capacity, device)
    if keep:
        _KEPT[base] = kept
    return kept


def release(model: Any) -> None:
    """Give back the device memory that `slots_for` keeps for a model."""
    _KEPT.pop(base_of(model), None)


def _affordable(step: Step, capacity: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 1 << 62
    row = capacity * step.token_features * step.embedding.element_size()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return max(1, int(free * MEMORY_SHARE) // row)
