"""Completions written fast with a small model: few operations per step, none for finished rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from r1pipe.rollout.choosing import Choosing
from r1pipe.rollout.ending import OnRows, Stop, Told
from r1pipe.rollout.growing_loop import GrowingLoop
from r1pipe.rollout.mixture_step import Experts
from r1pipe.rollout.slot_loop import SlotLoop, capacity_for, slots_for
from r1pipe.rollout.steps import make_step
from r1pipe.rollout.weights import is_prompt_learning
from r1pipe.rollout.written import RouteTap, Written


@dataclass
class Completions:
    """What `write` returns, in the order of the prompts."""

    ids: list[list[int]]
    logprobs: Tensor | None
    """float32, all completions' tokens one after the other, on the CPU: of the sampled token under
    the logits over the temperature, as a scoring pass gives it."""
    routes: list[Tensor] | None
    """Per completion int16 (tokens, layers with experts, experts per token), on the CPU: of the
    prompt and the completion but for its last token, which no forward pass has read."""
    unfinished: list[int] = field(default_factory=list)
    """Numbers of those that `stop` cut off; one that was not begun has no tokens."""


def supports(model: Any) -> bool:
    """True when every layer keeps plain keys and values (no sliding window, no recurrent state)."""
    if getattr(model.config, "is_encoder_decoder", False) or is_prompt_learning(model):
        return False
    if getattr(model.config, "sliding_window", None) and getattr(
        model.config, "use_sliding_window", True
    ):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def generate(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    batch_size: int = 512,
    dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """Return the completion (token ids) of every prompt, in the order of `prompt_ids`.

    A completion ends with the end token it drew, or is `max_new_tokens` long; it holds at least one
    token and never the padding token (unless padding is also an end token). `temperature=0` is
    greedy. Sampling draws from torch's global generator, and the result is a function of the
    arguments, the weights and that generator's state alone. The model is put into eval mode and
    back. Raises ValueError for an empty prompt or a model that `supports` refuses.

    `batch_size`: rows written at a time. `dtype`: the precision to decode in; None is that of an
    `autocast` block around the call, else the weights' own. Only models with a step of their own
    (`steps.make_step`) can decode in another precision than theirs; the others ignore it. Text
    longer than the model's positions is not refused here, nor by `model.generate`.
    """
    return write(
        model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        batch_size=batch_size,
        dtype=dtype,
    ).ids


def write(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    batch_size: int = 512,
    return_logprobs: bool = False,
    record_routes: bool = False,
    on_done: Callable[[int], None] | None = None,
    on_rows: OnRows | None = None,
    limits: Sequence[int] | None = None,
    stop: Stop | None = None,
    dtype: torch.dtype | None = None,
    loop: Literal["growing", "slots"] | None = None,
    graphs: bool | None = None,
    experts: Experts | None = None,
) -> Completions:
    """Do what `generate` does, and return more of it when asked.

    `record_routes` needs a DeepSeek model of this package: raises ValueError for another. `on_done`
    is called with the number of completions written so far, `on_rows` with those that have ended
    since. `limits`: most tokens of each completion, at least 1; none beyond `max_new_tokens`. Once
    `stop` says so, nothing more is written. The rest is chosen by device and size, and there to
    compare: `slots` (default on a GPU: `batch_size` rows at once, freed places filled
    again, CUDA `graphs`) or the `growing` cache; `experts`, how a mixture is computed. Raises
    ValueError for `slots` where there is no step.
    """
    if not supports(model):
        raise ValueError("the model keeps more than keys and values: use `rollout=transformers`")
    if any(len(ids) == 0 for ids in prompt_ids):
        raise ValueError("a prompt is empty: there is nothing to continue")
    ends = sorted({eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id))
    banned = None if pad_token_id in ends else pad_token_id
    choosing = Choosing(temperature, top_p, tuple(ends), banned, return_logprobs)
    # Rows of like length side by side need the least padding; the sort is stable, hence repeatable.
    order = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
    written = [Written() for _ in prompt_ids]
    room = [max_new_tokens] * len(prompt_ids) if limits is None else limits
    longest = max((len(ids) + most for ids, most in zip(prompt_ids, room, strict=True)), default=0)
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    if dtype is None and torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    with torch.inference_mode(), _decoding(model), _current(device):
        tap = RouteTap(model, record_routes)
        fixed = loop == "slots" or (loop is None and on_gpu)
        positions = capacity_for(model, longest) if fixed else longest
        step = make_step(model, positions, dtype, experts)
        if loop == "slots" and step is None:
            raise ValueError("only models with a decoding step of their own have fixed places")
        ending = (max_new_tokens, choosing, pad_token_id)
        if fixed and step is not None and prompt_ids:
            slots = slots_for(model, step, batch_size, positions, keep=on_gpu)
            with_graphs = on_gpu if graphs is None else graphs
            writer = SlotLoop(model, slots, batch_size, *ending, with_graphs, tap.routers)
            batches = [order]
        else:
            writer = GrowingLoop(model, step, *ending, tap)
            starts = range(0, len(order), batch_size)
            batches = [order[start : start + batch_size] for start in starts]
        _run(writer, batches, prompt_ids, written, Told(on_done, on_rows, limits, stop))
    return Completions(
        [one.ids for one in written],
        _flat([one.logprobs for one in written]) if return_logprobs else None,
        [one.routes for one in written if one.routes is not None] if record_routes else None,
        [row for row, one in enumerate(written) if not one.whole],
    )


def _run(
    writer: SlotLoop | GrowingLoop,
    batches: list[list[int]],
    prompt_ids: Sequence[Sequence[int]],
    written: list[Written],
    told: Told,
) -> None:
    """Let `writer` write the rows of each batch into their places in `written`."""
    done = 0
    for rows in batches:
        if done and told.stopped():
            for row in rows:
                written[row].whole = False
            continue
        found = writer.run([prompt_ids[row] for row in rows], told.part(rows, done))
        done += len(rows)
        for row, one in zip(rows, found, strict=True):
            written[row] = one


def _flat(parts: list[Tensor | None]) -> Tensor:
    return torch.cat([torch.empty(0), *(part for part in parts if part is not None)])


def _current(device: torch.device) -> Any:
    """Make `device` the current one: streams and graphs are made there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _decoding(model: Any) -> Iterator[None]:
    """Switch off what only training needs, for the duration of the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
