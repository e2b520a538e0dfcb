"""Log-probabilities are taken by whole batches, and scaled where both model runners pass them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from r1pipe.rollout.vllm_logprobs import by_name, scaled_logits, seeds_requests, taken_by_batch


class Scheduler:
    """vLLM's as far as it hands a batch's output on."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def update_from_output(self, scheduled: Any, output: Any) -> str:
        self.got.append(output.logprobs)
        return f"outputs of {scheduled}"


def engine(scheduler: Any, drafts: Any = None) -> Any:
    core = None if scheduler is None else SimpleNamespace(scheduler=scheduler)
    client = SimpleNamespace(engine_core=core)
    return SimpleNamespace(
        engine_core=client, vllm_config=SimpleNamespace(speculative_config=drafts)
    )


def batch(names: list[str], ids: list[list[int]], values: list[float] | None) -> Any:
    found = None
    if values is not None:
        found = SimpleNamespace(logprobs=np.array([[v, -9.0] for v in values], "float64"))
    return SimpleNamespace(req_ids=names, sampled_token_ids=ids, logprobs=found)


def test_values_follow_their_requests_through_batches() -> None:
    scheduler = Scheduler()
    with taken_by_batch(engine(scheduler)) as values:
        batches = [
            batch(["1-0-x", "1-1-y"], [[5], []], [-1.0, -2.0]),  # y's prompt is half read
            batch(["1-1-y", "1-0-x"], [[7], [8]], [-3.0, -4.0]),
            batch([], [], None),
        ]
        for number, each in enumerate(batches):
            assert scheduler.update_from_output(number, each) == f"outputs of {number}"
        assert values == {"1-0-x": [-1.0, -4.0], "1-1-y": [-3.0]}
    assert scheduler.got == [None] * 3  # vLLM is spared them
    assert "update_from_output" not in vars(scheduler)


@pytest.mark.parametrize("wrong", [engine(None), engine(Scheduler(), drafts=object())])
def test_vllm_does_it_itself_where_batches_do_not_say_it_all(wrong: Any) -> None:
    with taken_by_batch(wrong) as values:
        assert values is None


def test_requests_are_found_by_their_own_names() -> None:
    taken = {"3-1-1f2e": [-1.0, -2.0, -3.0], "3-0-77aa": [-4.0]}
    assert by_name(taken, ["3-0", "3-1", "3-2"], [1, 2, 0]) == [[-4.0], [-1.0, -2.0, -3.0], []]
    with pytest.raises(RuntimeError, match="1 of 2 log-probabilities for 3-0"):
        by_name(taken, ["3-0"], [2])


class Model(nn.Module):
    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor | None:
        return hidden if hidden.numel() else None


def test_logits_are_scaled_inside_the_block_alone() -> None:
    model, hidden = Model(), torch.tensor([2.0, 3.0], dtype=torch.bfloat16)
    with scaled_logits(model, 0.5):
        found = model.compute_logits(hidden)
        assert found is not None and found.dtype == torch.float32 and found.tolist() == [4, 6]
        assert model.compute_logits(hidden[:0]) is None
    assert model.compute_logits(hidden) is hidden
    with scaled_logits(None, 1.0):
        pass


def test_the_second_model_runner_is_known_by_its_module() -> None:
    second = type("GPUModelRunner", (), {"__module__": "vllm.v1.worker.gpu.model_runner"})
    first = type("GPUModelRunner", (), {"__module__": "vllm.v1.worker.gpu_model_runner"})
    assert seeds_requests(second()) and not seeds_requests(first())
