"""Distillation on the student's own completions, written by vLLM in the trainer's process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from r1pipe.schema import DistillStage
from r1pipe.stages import distill
from r1pipe.stages.context import Progress, StageContext
from tests.vllm import families


def test_the_engine_follows_the_student(tmp_path: Path) -> None:
    families.build("tied", tmp_path / "student")
    teacher = families.build("dense", tmp_path / "teacher")
    families.disturb(teacher, seed=3)
    teacher.save_pretrained(tmp_path / "teacher")
    grpo = families.grpo_context(tmp_path / "run", tmp_path / "student", {"alarm_threshold": 1e-5})
    shared = grpo.stage.model_dump(include={"output_dir", "seed", "launcher", "tracker", "load"})
    stage = DistillStage(
        kind="distill",
        init_from=str(tmp_path / "student"),
        teacher=str(tmp_path / "teacher"),
        lora=None,
        data={"path": str(tmp_path / "run" / "rows.jsonl"), "split": "train"},  # pyright: ignore
        rollout=families.rollout(alarm_threshold=1e-5),
        trainer={
            "learning_rate": 1e-2,
            "max_steps": 3,
            "logging_steps": 1,
            "per_device_train_batch_size": 8,
            "max_completion_length": 12,
        },
        **shared,
    )
    work = tmp_path / "work"
    work.mkdir()
    outcome = distill.run(StageContext("distill", stage, work, Progress(work / "progress.json")))
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["rollout/logp_diff_mean"] < 1e-5 for row in rows)
    assert rows[-1]["timing"]["generate_time"] > 0 and outcome.timings["sync_s"] > 0
