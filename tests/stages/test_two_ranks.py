"""Two CPU ranks under torchrun give what one rank gives on the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.stages import tiny

WORKER = """
import sys
from pathlib import Path
from r1pipe.schema import Auxiliary
from tests.stages import tiny
from tests.stages.children import kill_at_training_step, train
folder, per_rank, kill = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stage = tiny.sft_stage(str(folder / "model"), per_device_train_batch_size=per_rank, max_length=16,
                       num_train_epochs=1, save_steps=3, max_grad_norm=1.0)
if sys.argv[4] in ("grpo", "budget"):
    stage = tiny.grpo_stage(str(folder / "model"), "compact", max_steps=4,
                            per_device_train_batch_size=per_rank, num_generations=4,
                            max_completion_length=40, beta=0.1, loss_type="bnpo")
if sys.argv[4] == "budget":
    stage = stage.model_copy(update={"max_tokens_per_microbatch": 64, "padding_free": True})
if sys.argv[4] == "experts":  # MTP modules that get no gradient, which DDP would wait for
    frozen = Auxiliary(bias_update_speed=0.125, mtp_loss_weight=0.0)
    stage = tiny.sft_stage(str(folder / "model"), per_device_train_batch_size=per_rank,
                           max_length=16, max_steps=3, save_strategy="no",
                           gradient_checkpointing=True)
    stage = stage.model_copy(update={"auxiliary": frozen})
if kill:
    kill_at_training_step(kill)
train(tiny.context(folder / sys.argv[4], stage))
"""
REPOSITORY = Path(__file__).parents[2]


def launch(ranks: int, per_rank: int, folder: Path, name: str, kill: int = 0) -> int:
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "CI": "1"}
    command = [*start, str(worker), str(folder), str(per_rank), str(kill), name]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True).returncode


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    assert launch(1, 8, tmp_path, "one") == 0
    assert launch(2, 4, tmp_path, "two") == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (value - two[name]).abs().max() < 1e-5, name
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    assert launch(2, 4, tmp_path, "killed", kill=6) != 0
    assert launch(2, 4, tmp_path, "killed") == 0
    killed = weights(tmp_path / "killed")
    assert all((killed[name] == value).all() for name, value in two.items())
    saved = (tmp_path / "killed" / "checkpoints" / "checkpoint-8").iterdir()
    assert {"rng_state_0.pth", "rng_state_1.pth", "state_1.json"} <= {path.name for path in saved}


@pytest.mark.slow
def test_two_ranks_write_and_train_in_step(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    # Completions of many lengths: what a rank does with its own must not part it from the other.
    assert launch(2, 16, tmp_path, "grpo") == 0
    rows = [json.loads(line) for line in (tmp_path / "grpo" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3, 4]
    assert weights(tmp_path / "grpo").keys() == weights(tmp_path).keys()
    assert launch(2, 16, tmp_path, "budget") == 0  # each rank in parts of its own, as many
    parts = [json.loads(line) for line in (tmp_path / "budget" / "metrics.jsonl").open()]
    for name in ("loss", "grad_norm", "kl", "entropy"):
        assert parts[0][name] == pytest.approx(rows[0][name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_ranks_balance_experts_together(tmp_path: Path) -> None:
    tiny.save_mixture(tmp_path / "model")
    assert launch(2, 4, tmp_path, "experts") == 0
    two = weights(tmp_path / "experts")
    before = weights(tmp_path)
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    moved = (two[bias] - before[bias]).abs() / 0.125
    assert bool(moved.any()) and bool((moved == moved.round()).all())
    assert (two["model.layers.2.eh_proj.weight"] == before["model.layers.2.eh_proj.weight"]).all()
    rows = [json.loads(line) for line in (tmp_path / "experts" / "metrics.jsonl").open()]
    (tmp_path / "experts").rename(tmp_path / "two")
    assert launch(1, 8, tmp_path, "experts") == 0
    one = weights(tmp_path / "experts")
    assert (one[bias] == two[bias]).all(), "the load is that of both ranks"
    alone = [json.loads(line) for line in (tmp_path / "experts" / "metrics.jsonl").open()]
    for name in ("experts/max_violation", "loss"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in alone], rel=1e-3)
