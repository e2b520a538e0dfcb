"""The other stages that write: distillation, sampling and evaluation by a server's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.stages import distill, evaluate, sample
from r1pipe.stages.metrics import read_rows
from tests.serving import running
from tests.stages import tiny, tiny_stage


def test_sampling_and_evaluation_come_to_the_same_by_a_server(tmp_path: Path) -> None:
    model = tiny_stage.save_tiny_model(tmp_path / "model")
    size = "rollout.batch_size=16"
    with running.serving(model, tmp_path / "server", size) as server:
        found: dict[str, Any] = {}
        for name in ("here", "there"):
            served = server.rollout() if name == "there" else server.rollout(vllm_mode="colocate")
            rollout = served.model_copy(update={"batch_size": 16, "engine": "compact"})
            stages = (
                (sample, tiny_stage.sample_stage(model)),
                (evaluate, tiny_stage.eval_stage(model)),
            )
            for module, stage in stages:
                changed = stage.model_copy(update={"rollout": rollout})
                folder = tmp_path / name / changed.kind
                outcome = module.run(tiny_stage.context(folder, changed.kind, changed))
                found[f"{name} {changed.kind}"] = outcome.metrics
        assert server.status()["held_by"] is None
    assert found["here sample"] == found["there sample"]
    assert found["here eval"] == found["there eval"]
    rows = [tmp_path / name / "sample/dataset/rows.jsonl" for name in ("here", "there")]
    assert rows[0].read_bytes() == rows[1].read_bytes()


def test_the_engine_follows_the_student(
    model: str, server: running.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    teacher = tiny.save_model(tmp_path / "teacher", seed=1)
    monkeypatch.setattr(distill, "load_data", lambda data, seed, need=(): tiny.rows(64))
    settings = {"max_steps": 3, "per_device_train_batch_size": 8, "max_completion_length": 12}
    stage = tiny.distill_stage(model, teacher, **settings)
    rollout = server.rollout(alarm_threshold=1e-5)
    context = tiny.context(tmp_path / "run", stage.model_copy(update={"rollout": rollout}))
    distill.run(context)
    assert server.status()["weights"].startswith("step 2")
    rows = read_rows(context.workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["rollout/logp_diff_mean"] < 1e-5 for row in rows)
