"""Computing a batch in parts of like length changes no loss, no gradient and no logged value."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.stages import length_split
from r1pipe.stages.length_split import cut
from tests.stages import tiny
from tests.stages.children import results, train_whole_and_split

GRPO = {
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 12,
    "steps_per_generation": 2,
    "beta": 0.1,
    "max_steps": 4,
    "save_strategy": "no",
}
SFT = {
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "max_length": 32,
    "max_steps": 4,
    "save_strategy": "no",
}


@given(st.lists(st.integers(1, 200), min_size=1, max_size=70))
def test_cuts_are_no_worse_than_one_part(lengths: list[int]) -> None:
    lengths.sort()
    ends = cut(lengths)
    assert ends == sorted(set(ends)) and ends[-1] == len(lengths)
    cost = sum(
        (b - a) * lengths[b - 1] + length_split.PART_COST for a, b in itertools.pairwise([0, *ends])
    )
    assert cost <= len(lengths) * lengths[-1] + length_split.PART_COST


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sft", SFT),
        ("sft", {**SFT, "loss_type": "dft"}),
        *[("grpo", {**GRPO, "loss_type": loss}) for loss in ("grpo", "dapo", "bnpo", "dr_grpo")],
        ("grpo of experts", {**GRPO, "loss_type": "grpo"}),
    ],
)
def test_parts_train_as_the_whole_batch_does(
    kind: str, options: dict[str, Any], model: str, tmp_path: Path
) -> None:
    if kind.endswith("experts"):  # with the balance loss, a mean over sequences too
        model = tiny.save_mixture(tmp_path / "experts", balance_factor=1.0, mtp_loss_weight=0.0)
    stage = (tiny.sft_stage if kind == "sft" else tiny.grpo_stage)(model, **options)
    train_whole_and_split(stage, tmp_path)
    expected, found = results(tmp_path / "whole")[1], results(tmp_path / "split")[1]
    for before, after in zip(expected, found, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            if isinstance(value, float):
                assert after[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (
                    name,
                    before["step"],
                )


def test_an_sft_row_without_tokens_is_not_split() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert length_split.split({"attention_mask": mask, "input_ids": mask}) is None


@pytest.mark.parametrize(("ranks", "splits"), [(1, True), (2, False)])
def test_ranks_that_talk_in_every_part_do_not_split(ranks: int, splits: bool) -> None:
    # Each part gathers metrics from all ranks; ranks with other lengths would cut other parts.
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        budget=SimpleNamespace(tokens=None),
        args=SimpleNamespace(
            device=torch.device("cpu"), bf16=False, fp16=False, world_size=ranks, loss_type="nll"
        ),
        is_deepspeed_enabled=False,
        is_fsdp_enabled=False,
        label_smoother=None,
        compute_loss_func=None,
    )
    assert length_split.SplitByLength._may_split(trainer, num_items_in_batch=64) is splits  # type: ignore[arg-type]
