"""Training on rows that are made meanwhile: the same as on the whole corpus, also after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from r1pipe.data.sources import load_data
from r1pipe.models.tiny import build_tiny_model, build_tiny_tokenizer
from r1pipe.schema import Data
from r1pipe.stages.supervised import streaming_trainer, supervised_trainer
from tests.stages import tiny

STEPS = 6
DATA = Data(path="task:corpus", limit=48, options={"block": 8, "web_share": 0.25})
OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": STEPS,
    "save_steps": 3,
    "max_length": 128,
    "learning_rate": 1e-3,
    "shuffle_dataset": False,
}


def context(folder: Path) -> Any:
    stage = tiny.sft_stage("unused", length_window=3, **OPTIONS)
    return tiny.context(folder, stage.model_copy(update={"data": DATA}))


def weights(trainer: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    made = context(tmp_path_factory.mktemp("whole"))
    data = load_data(DATA, made.stage.seed)
    trainer = supervised_trainer(made, build_tiny_model("nano", 0), build_tiny_tokenizer(), data)
    trainer.checkpoint_folder = made.checkpoints
    trainer.train()
    return weights(trainer)


@pytest.mark.parametrize("stop", [STEPS, 4], ids=["at once", "stopped"])
def test_it_trains_on_the_rows_of_the_task(
    stop: int, whole: list[torch.Tensor], tmp_path: Path
) -> None:
    made = context(tmp_path)
    with streaming_trainer(made, build_tiny_model("nano", 0), build_tiny_tokenizer()) as trainer:
        trainer.checkpoint_folder = made.checkpoints
        trainer.add_callback(StopAfter(stop))
        trainer.train()
    if stop < STEPS:
        with streaming_trainer(
            made, build_tiny_model("nano", 5), build_tiny_tokenizer()
        ) as trainer:
            trainer.checkpoint_folder = made.checkpoints
            trainer.train(resume_from_checkpoint=str(made.checkpoints / "checkpoint-3"))
    assert trainer.state.global_step == STEPS
    pairs = zip(weights(trainer), whole, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
