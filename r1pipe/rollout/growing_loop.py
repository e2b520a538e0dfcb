"""Decoding loop that drops finished rows: the batch shrinks, the cache grows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from r1pipe.rollout.attending import attend
from r1pipe.rollout.choosing import Choosing, require_finite
from r1pipe.rollout.ending import Told
from r1pipe.rollout.states import CachedLayer, GrowingStates
from r1pipe.rollout.steps import Step, precision_of
from r1pipe.rollout.written import RouteTap, Written

# Shape legend: B rows still written, U distinct prompts, H query heads, K key/value heads, G = H/K,
# P longest prompt, T tokens in the cache, D head dimension, V vocabulary.

DECODE_ATTENTION = "r1pipe_decode"
COMPACT_SHARE = 1 / 24
"""Rows are dropped once this share of them has ended; each drop has a fixed cost in Python."""


class GrowingLoop:
    """Writes one batch after another with the same settings."""

    def __init__(
        self, model: Any, step: Step | None, limit: int, choosing: Choosing, pad: int, tap: RouteTap
    ) -> None:
        """`limit`: most tokens of a completion; `step` takes the place of the model's forward."""
        self.model, self.step, self.limit = model, step, limit
        self.choosing, self.pad, self.tap = choosing, pad, tap
        self.device = next(model.parameters()).device
        accepted = inspect.signature(model.forward).parameters
        self.extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        # Looking at results makes a GPU wait for them; a CPU has them already.
        self.check_every = 1 if self.device.type == "cpu" else 8
        self.four_d = model.config._attn_implementation in ("sdpa", "eager")

    def run(self, prompts: Sequence[Sequence[int]], told: Told) -> list[Written]:
        """Return the completions of one batch of prompts, in order."""
        cache, states, logits, mask, position = self._prefill(prompts)
        count, longest = mask.shape[0], mask.shape[1] - self.limit
        tokens = torch.empty(count, self.limit, dtype=torch.long, device=self.device)
        logprobs = torch.empty(tokens.shape, device=self.device) if self.choosing.logprobs else None
        ended = torch.zeros(count, dtype=torch.bool, device=self.device)
        room = None if told.limits is None else torch.tensor(told.limits, device=self.device)
        rows = torch.arange(count)  # which prompt each live row belongs to; stays on the CPU
        done: list[Written] = [Written() for _ in prompts]
        mask_full = self._decode_mask(mask)
        step = 0
        with _decode_attention(self.model):
            for step in range(self.limit):
                chosen, witness, drawn = self.choosing.choose(logits)
                require_finite(witness)
                tokens[:, step] = chosen
                if logprobs is not None and drawn is not None:
                    logprobs[:, step] = drawn
                ended |= self.choosing.is_end(chosen)
                if room is not None:
                    ended |= room <= step + 1
                if step + 1 == self.limit:
                    ended.fill_(True)
                    break
                if (step + 1) % self.check_every == 0:
                    gone = int(ended.sum())
                    if gone == len(rows) or told.stopped():
                        break
                    if gone >= max(1, COMPACT_SHARE * len(rows)):
                        self._emit(done, rows, tokens, logprobs, ended, step + 1, room, told)
                        if told.on_done is not None:
                            told.on_done(count - len(rows) + gone)
                        live, holes, movers = _close_ranks(ended, len(rows) - gone)
                        for layer in states or cache.layers:
                            layer.drop(len(rows) - gone, holes, movers)
                        rows = rows[live.cpu()]
                        tokens, position = tokens[live], position[live]
                        chosen, ended = chosen[live], ended[live]
                        logprobs = None if logprobs is None else logprobs[live]
                        room = None if room is None else room[live]
                        mask_full = None if mask_full is None else mask_full[live]
                        self.tap.keep(live)
                position += 1
                seen = None if mask_full is None else mask_full[..., : longest + step + 1]
                logits = self._forward(chosen, position, cache, states, seen)
        for row in rows[~ended.cpu()].tolist():
            done[row].whole = False
        everything = torch.ones_like(ended)
        self._emit(done, rows, tokens, logprobs, everything, step + 1, room, told)
        if told.on_done is not None:
            told.on_done(sum(one.whole for one in done))
        return done

    def _prefill(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[Any, list[GrowingStates], Tensor, Tensor, Tensor]:
        """Read the prompts, each distinct one once.

        Returns the cache [B rows], in the step's form where there is one, the next token's logits
        [B, V], which cache columns a row may look at [B, P + limit] and the position of each row's
        last token [B].
        """
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(ids), len(numbers)) for ids in prompts]
        longest = max(map(len, numbers))
        padded = [[self.pad] * (longest - len(ids)) + list(ids) for ids in numbers]
        lengths = torch.tensor([len(ids) for ids in numbers], device=self.device)
        ids = torch.tensor(padded, device=self.device)
        columns = torch.arange(longest + self.limit, device=self.device)
        mask = columns >= (longest - lengths)[:, None]
        positions = (columns[:longest] - (longest - lengths)[:, None]).clamp_(min=0)
        whole = bool((lengths == longest).all())
        depth = len(DynamicCache(config=self.model.config).layers)
        cache: Any = Cache(layers=[CachedLayer() for _ in range(depth)])
        index = torch.tensor(which, device=self.device)
        with precision_of(self.step, self.model), self.tap.prompts(index, lengths):
            logits = self.model(
                input_ids=ids,
                attention_mask=None if whole else mask[:, :longest].long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                **self.extra,
            ).logits[:, -1]
        states = []
        if self.step is not None:
            dtype = self.step.embedding.dtype
            states = [
                GrowingStates(*(state.to(dtype) for state in self.step.adopt(c.keys, c.values)))
                for c in cache.layers
            ]
        if len(numbers) < len(prompts):
            for layer in states or cache.layers:
                layer.take(index)
        return cache, states, logits[index], mask[index], positions[index, -1]

    def _decode_mask(self, mask: Tensor) -> Tensor | None:
        """Return what every decoding step slices: additive [B, 1, T] for our step, additive

        [B, 1, 1, T] or plain [B, T] for the modules, None when every column may be seen.
        """
        if bool(mask.all()):
            return None
        if self.step is None and not self.four_d:
            return mask.long()
        # Prepared once: transformers would build the same mask again at every step.
        dtype = self.model.dtype if self.step is None else torch.float32
        additive = torch.zeros(mask.shape, dtype=dtype, device=self.device)
        additive.masked_fill_(~mask, torch.finfo(dtype).min)
        return additive[:, None] if self.step is not None else additive[:, None, None]

    def _forward(
        self,
        chosen: Tensor,
        position: Tensor,
        cache: Any,
        states: list[GrowingStates],
        mask: Tensor | None,
    ) -> Tensor:
        """Feed one token per row [B]; returns the next logits [B, V]."""
        with self.tap.step(self.step):
            if self.step is not None:
                with torch.autocast(self.device.type, enabled=False):
                    return self.step(chosen, position, states, mask)
            return self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=position[:, None],
                past_key_values=cache,
                use_cache=True,
                **self.extra,
            ).logits[:, -1]

    def _emit(
        self,
        done: list[Written],
        rows: Tensor,
        tokens: Tensor,
        logprobs: Tensor | None,
        ended: Tensor,
        length: int,
        room: Tensor | None,
        told: Told,
    ) -> None:
        """Store the rows that ended, each cut after its first end token."""
        leaving = ended.nonzero().squeeze(1)
        written = tokens[leaving, :length]
        # argmax finds the first end token; a row without one is cut nowhere.
        is_end = self.choosing.is_end(written)
        cut_at = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, length)
        if room is not None:
            cut_at = torch.minimum(cut_at, room[leaving])
        cuts = cut_at.tolist()
        owners = rows[leaving.cpu()].tolist()
        for row, ids, cut in zip(owners, written.tolist(), cuts, strict=True):
            done[row].ids = ids[:cut]
        if logprobs is not None:
            for row, drawn, cut in zip(owners, logprobs[leaving].cpu(), cuts, strict=True):
                done[row].logprobs = drawn[:cut]
        for row, routes in zip(owners, self.tap.routes_of(leaving, cuts), strict=False):
            done[row].routes = routes
        new = [(row, done[row].ids) for row in owners if done[row].whole]
        if told.on_rows is not None and new:
            told.on_rows(new)


def _close_ranks(ended: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the new order of the `count` live rows, the places that fall free, who moves there.

    Only as many rows move as have ended, so that a drop costs little.
    """
    holes = ended[:count].nonzero().squeeze(1)
    movers = (~ended[count:]).nonzero().squeeze(1) + count
    live = torch.arange(count, device=ended.device)
    live[holes] = movers
    return live, holes, movers


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`sdpa` for one new token: query [B, H, 1, D], key and value [B, K, T, D].

    The G heads that share keys stand in as G queries, so keys and values need not be repeated.
    """
    groups = query.shape[1] // key.shape[1]
    if query.shape[2] != 1 or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    batch, heads, _, width = query.shape
    shared = query.reshape(batch, heads // groups, groups, width)
    if query.device.type == "cpu" and query.dtype == torch.float32:
        mask = None if attention_mask is None else attention_mask[:, 0]
        out = attend(shared, key, value, mask, width**-0.5 if scaling is None else scaling)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(
            shared, key, value, attn_mask=attention_mask, scale=scaling
        )
    return out.reshape(batch, 1, heads, value.shape[3]), None


AttentionInterface.register(DECODE_ATTENTION, _attend)


@contextmanager
def _decode_attention(model: Any) -> Iterator[None]:
    """Use `_attend` in place of `sdpa` for the duration of the block."""
    config = model.config
    if config._attn_implementation != "sdpa":
        yield
        return
    config._attn_implementation = DECODE_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
