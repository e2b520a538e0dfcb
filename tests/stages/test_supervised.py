"""Batched tokenisation gives what SFTTrainer's own preparation gives; the log has an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from r1pipe.artifact import METRICS_FILE
from r1pipe.errors import UserError
from r1pipe.stages.metrics import read_rows
from r1pipe.stages.supervised import supervised_trainer, tokenized
from r1pipe.stages.training import run_training
from tests.stages import tiny

TEXTS = Dataset.from_dict({"text": ["1+1=2", "12+12=24<eos>", "a"]})
LONG = Dataset.from_dict({"prompt": ["1+1=", "11111111111111+1="], "completion": ["2", "3"]})


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (tiny.rows(20), {}),
        (tiny.rows(20), {"completion_only_loss": False}),
        (tiny.rows(20), {"shuffle_dataset": True, "seed": 5}),
        (tiny.rows(20), {"max_length": 5}),
        (LONG, {"max_length": 8}),
        (TEXTS, {}),
        (TEXTS, {"max_length": 4}),
    ],
)
def test_tokens_and_labels_equal_those_of_trl(
    data: Dataset, options: dict[str, Any], tmp_path: Path
) -> None:
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **options)
    columns = [c for c in data.column_names if c in ("prompt", "completion", "text")]
    data = data.select_columns(columns)
    theirs = SFTTrainer(
        tiny.model(), args=args, train_dataset=data, processing_class=tiny.tokenizer()
    ).train_dataset
    ours, _ = tokenized(data, tiny.tokenizer(), args, overlong="drop")
    assert isinstance(theirs, Dataset)
    for column in ("input_ids", "labels"):
        assert ours[column][:] == theirs[column][:]


def test_rows_without_a_known_column_are_refused(tmp_path: Path) -> None:
    context = tiny.context(tmp_path / "run", tiny.sft_stage("unused"))
    data = Dataset.from_dict({"question": ["1"]})
    with pytest.raises(UserError, match="question"):
        supervised_trainer(context, tiny.model(), tiny.tokenizer(), data)
    data = Dataset.from_dict({"prompt": ["1", "2"], "completion": ["1", None]})
    with pytest.raises(UserError, match="row 2 has no `completion`"):
        supervised_trainer(context, tiny.model(), tiny.tokenizer(), data)


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4, 5]), (5, [5]), (8, [5])])
def test_the_last_step_is_logged_once(every: int, steps: list[int], tmp_path: Path) -> None:
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "logging_steps": every}
    context = tiny.context(tmp_path, tiny.sft_stage("unused", **options))
    trainer = supervised_trainer(context, tiny.model(), tiny.tokenizer(), tiny.rows(20))
    outcome = run_training(trainer, context, 0.0)
    rows = read_rows(tmp_path / METRICS_FILE)
    assert [row["step"] for row in rows] == steps
    assert outcome.metrics["last"]["num_tokens"] == rows[-1]["num_tokens"] > 0
