"""Numbers that are not finite stop a stage before the optimizer; too few rows before the start."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1pipe.errors import StageFailed, UserError
from r1pipe.stages.checkpoint import WholeCheckpoints
from r1pipe.stages.guards import FiniteSteps, require_one_batch
from tests.stages import tiny
from tests.stages.children import in_child, train

SFT = {"per_device_train_batch_size": 8, "max_length": 16, "max_steps": 6, "save_steps": 2}
GRPO = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 6,
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


def failure(context: Any, before: Any = None, **arguments: Any) -> str:
    """Train in a child that must fail on purpose; returns what it said."""
    said = context.workdir / "said"

    def child() -> None:
        if before is not None:
            before()
        try:
            train(context, **arguments)
        except (StageFailed, UserError) as error:
            said.write_text(f"{type(error).__name__}: {error}")

    assert in_child(child) == 0
    return said.read_text()


def poison_gradient_at(step: int) -> None:
    original = FiniteSteps.training_step

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, model, *args, **kwargs)
        if self.state.global_step + 1 == step:
            next(model.parameters()).grad.fill_(float("inf"))
        return loss

    FiniteSteps.training_step = training_step


def poison_weights_at(step: int) -> None:
    original = WholeCheckpoints.training_step

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step + 1 == step:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
        return original(self, model, *args, **kwargs)

    WholeCheckpoints.training_step = training_step


@pytest.mark.parametrize(
    ("poison", "named"), [(poison_gradient_at, "gradient"), (poison_weights_at, "loss")]
)
def test_a_non_finite_number_stops_before_the_optimizer(
    poison: Any, named: str, model: str, tmp_path: Path
) -> None:
    context = tiny.context(tmp_path / "run", tiny.sft_stage(model, **SFT))

    def before() -> None:
        poison(4)
        step = torch.optim.AdamW.step
        taken = context.workdir / "steps_taken"

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            taken.write_text("x" + (taken.read_text() if taken.exists() else ""))
            return step(self, *args, **kwargs)

        torch.optim.AdamW.step = counted

    text = failure(context, before)
    assert text.startswith("StageFailed: step 4:") and named in text
    assert (context.workdir / "steps_taken").read_text() == "xxx"
    assert [path.name for path in context.checkpoints.iterdir()] == ["checkpoint-2"]
    assert not (context.workdir / "model").exists()
    assert len((context.workdir / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, "high"])
def test_a_reward_that_is_no_finite_number_costs_one_sample(
    value: Any, model: str, tmp_path: Path
) -> None:
    context = tiny.context(tmp_path / "run", tiny.grpo_stage(model, **GRPO))

    def child() -> None:
        train(context, rewards=([once(value)], [1.0]))

    assert in_child(child) == 0
    (sample,) = (context.workdir / "reward_failures.jsonl").read_text().splitlines()
    assert "Error" in sample
    rewards = [json.loads(line) for line in (context.workdir / "metrics.jsonl").open()]
    assert len(rewards) == 6 and all(math.isfinite(row["reward"]) for row in rewards)


def once(value: Any) -> Any:
    """A reward that is `value` on one completion of step 4, whoever asks."""
    cursed: list[Any] = []

    def broken(completions: list[str], trainer_state: Any, **columns: Any) -> list[Any]:
        if trainer_state.global_step == 3 and not cursed:
            cursed.append(columns["completion_ids"][0])
        good: list[Any] = tiny.digits(completions)
        return [
            value if cursed and ids is cursed[0] else reward
            for ids, reward in zip(columns["completion_ids"], good, strict=True)
        ]

    return broken


def test_a_reward_that_always_raises_stops_the_stage_by_name(model: str, tmp_path: Path) -> None:
    def fragile(completions: list[str], **columns: Any) -> list[float]:
        raise KeyError("missing")

    context = tiny.context(tmp_path / "run", tiny.grpo_stage(model, **GRPO))
    text = failure(context, rewards=([fragile], [1.0]))
    assert text.startswith("StageFailed: step 1: the reward `fragile` failed on 8 of 8 samples")
    assert "KeyError: 'missing'" in text and "reward_failures.jsonl" in text


def test_fewer_rows_than_one_batch_are_refused(model: str, tmp_path: Path) -> None:
    context = tiny.context(tmp_path / "sft", tiny.sft_stage(model, **SFT))
    text = failure(context, rows=7)
    assert text.startswith("UserError") and "7 rows" in text and "takes 8" in text
    context = tiny.context(tmp_path / "grpo", tiny.grpo_stage(model, **GRPO))
    text = failure(context, rows=1)
    assert text.startswith("UserError") and "1 rows" in text and "takes 2" in text


def test_one_batch_is_counted_over_ranks_and_accumulation() -> None:
    args = SimpleNamespace(
        per_device_train_batch_size=4, gradient_accumulation_steps=3, world_size=2
    )
    require_one_batch("stage", 24, args)
    with pytest.raises(UserError, match="23 rows, but one batch takes 24"):
        require_one_batch("stage", 23, args)
