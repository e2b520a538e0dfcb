"""What a CUDA graph needs, shown without a GPU: on tensors without data a step runs all the same.

Reading a value back (`item`, a test of a tensor's truth, indices where a mask holds) fails there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from r1pipe.rollout.choosing import Choosing
from r1pipe.rollout.compact import write
from r1pipe.rollout.slots import Slots, replace_tensors
from r1pipe.rollout.steps import make_step
from tests.rollout.tiny_models import MODELS, build, prompts, settings

META = torch.device("meta")
ROWS, TOKENS = 8, 64


def without_data(_: Any, tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def cached(model: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return what transformers caches of 3 prompts of 5 tokens in one layer."""
    c = model.config
    if getattr(c, "kv_lora_rank", None) is not None:
        shapes = [(3, 1, 5, c.kv_lora_rank), (3, 1, 5, c.qk_rope_head_dim)]
    else:
        shapes = [(3, c.num_key_value_heads, 5, 8)] * 2
    return [torch.empty(shape, dtype=dtype, device=META) for shape in shapes]


WAYS = [
    (name, experts, dtype)
    for name in MODELS
    for experts in (["dense", "grouped"] if name.startswith("deepseek") else [None])
    for dtype in (torch.float32, torch.bfloat16)
    # On a GPU groups in float32 are multiplied one by one, with their sizes read back.
    if (experts, dtype) != ("grouped", torch.float32)
]


@pytest.mark.parametrize(("name", "experts", "dtype"), WAYS)
def test_a_step_needs_no_value_and_keeps_its_shapes(name, experts, dtype):
    model = build(name).eval()
    with torch.inference_mode():
        step: Any = make_step(model, TOKENS, dtype, experts)
        replace_tensors(step, without_data)
        routed = bool(getattr(step, "mixtures", []))
        slots = Slots(step, ROWS, ROWS, TOKENS, META)
        slots.prepare(20, logprobs=True, routes=routed)
        index = torch.zeros(6, dtype=torch.long, device=META)
        slots.place(index, [step.adopt(*cached(model, dtype)) for _ in step.layers], index)
        before = {
            name: value.shape for name, value in vars(slots).items() if torch.is_tensor(value)
        }
        for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (0.7, 0.9)):
            choosing = Choosing(temperature, top_p, (1, 2), 0, logprobs=True)
            slots.start(index, index, torch.empty(6, 40, dtype=dtype, device=META), choosing)
            slots.advance(choosing, routed, rows=ROWS - 2, length=32)
    assert shapes(slots) == before


def shapes(slots: Slots) -> dict[str, Any]:
    return {name: value.shape for name, value in vars(slots).items() if torch.is_tensor(value)}


class RecordedGraph:
    """Stands in for CUDA's graphs: what is captured does not run, a replay does it again."""

    captured = 0

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.arguments: Any = ()

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        self.slots.advance(*self.arguments)

    @contextmanager
    def capture(self) -> Iterator[None]:
        tensors = [value for value in vars(self.slots).values() if torch.is_tensor(value)]
        tensors += [room for layer in self.slots.states for room in layer]
        kept, generator = [tensor.clone() for tensor in tensors], torch.get_rng_state()
        yield
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
        torch.set_rng_state(generator)
        RecordedGraph.captured += 1


@pytest.mark.parametrize("name", ["qwen3", "deepseek"])
def test_graphs_write_what_the_steps_themselves_do(name, monkeypatch):
    model, asked = build(name).eval(), prompts(40)
    options = settings(temperature=1.0, loop="slots", batch_size=24)
    torch.manual_seed(5)
    expected = write(model, asked, **options)
    replayed: dict[Any, RecordedGraph] = {}

    def capture(self: Slots, *key: Any) -> Any:
        def new_graph() -> RecordedGraph:
            replayed[key] = RecordedGraph(self)
            replayed[key].arguments = key
            return replayed[key]

        monkeypatch.setattr(torch.cuda, "CUDAGraph", new_graph)
        return original(self, *key)

    original = Slots._capture
    monkeypatch.setattr(Slots, "_capture", capture)
    stream = MagicMock()
    stands_in = {
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda *_: nullcontext(),
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "graph": lambda graph, **_: graph.capture(),
    }
    for attribute, value in stands_in.items():
        monkeypatch.setattr(torch.cuda, attribute, value)
    RecordedGraph.captured = 0
    torch.manual_seed(5)
    assert write(model, asked, **options, graphs=True).ids == expected.ids
    assert len(replayed) == RecordedGraph.captured >= 1
