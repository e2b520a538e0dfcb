"""Balancing, MTP and routing replay on two ranks: DDP, FSDP2 and ZeRO-2 train as one process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeepseekV3ForCausalLM

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from tests.stages import tiny
from tests.stages.test_router_replay import SHAPE

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {
    "one": {"ACCELERATE_USE_CPU": "true"},
    "ddp": {"ACCELERATE_USE_CPU": "true"},
    "fsdp": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    },
    "zero2": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
        "DS_ACCELERATOR": "cpu",
    },
}
SFT = {
    "max_length": 32,
    "packing": True,
    "gradient_checkpointing": True,
    "max_steps": 2,
    "save_strategy": "no",
    "optim": "sgd",
}
GRPO = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "beta": 0.1,
    "sync_ref_model": True,
    "ref_model_sync_steps": 4,
    "ref_model_mixup_alpha": 1.0,
    "max_steps": 5,
    "save_strategy": "no",
    "optim": "sgd",
    "router_replay": "rollout",
}
DISTILL = {
    "per_device_train_batch_size": 4,
    "max_completion_length": 6,
    "max_steps": 2,
    "save_strategy": "no",
    "optim": "sgd",
}
zero2 = pytest.param(
    "zero2",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
    ),
)


def launch(folder: Path, mode: str, jobs: list[list[Any]]) -> None:
    """Run `jobs` in one process, or on two ranks."""
    start = [sys.executable]
    if mode != "one":
        start += ["-m", "torch.distributed.run", "--nproc_per_node=2"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    worker = Path(__file__).with_name("ranks_worker.py")
    given = json.dumps({"folder": str(folder), "mode": mode, "jobs": jobs})
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    environment |= {"HF_HUB_OFFLINE": "1", "CI": "1", **ENVIRONMENT[mode]}
    command = [*start, str(worker), given]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, and what one process makes of it with batches of both ranks."""
    folder = tmp_path_factory.mktemp("alone")
    torch.manual_seed(0)
    shape = {**SHAPE, "num_nextn_predict_layers": 1}
    DeepseekForCausalLM(DeepseekConfig(**shape)).save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    whole = {**SFT, "per_device_train_batch_size": 8}
    launch(folder, "one", [["sft", "sft", whole], ["lora", "sft", {**whole, "lora": True}]])
    return folder


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").open()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp", zero2])
def test_two_ranks_train_as_one(mode: str, alone: Path, tmp_path: Path) -> None:
    """Packed, under gradient checkpointing, and with adapters; then GRPO and distillation."""
    (tmp_path / "model").symlink_to(alone / "model")
    half = {**SFT, "per_device_train_batch_size": 4}
    jobs = [["sft", "sft", half], ["lora", "sft", {**half, "lora": True}]]
    jobs += [["grpo", "grpo", GRPO], ["distill", "distill", DISTILL]]
    launch(tmp_path, mode, jobs)
    for name in ("sft", "lora", "grpo", "distill"):
        steps = rows(tmp_path / name, "biases_0")
        assert steps == rows(tmp_path / name, "biases_1") and steps
        for row in rows(tmp_path / name):
            parts = {"loss", "mtp_loss", "balance_loss", "grad_norm", "experts/max_violation"}
            assert parts <= row.keys() and None not in row.values()
    for name in ("sft", "lora"):
        assert rows(tmp_path / name, "biases_0") == rows(alone / name, "biases_0")
        expected, found = weights(alone / name), weights(tmp_path / name)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert (value - found[key]).abs().max() < 1e-5, key
        for before, after in zip(rows(alone / name), rows(tmp_path / name), strict=True):
            for key in ("loss", "aux_loss", "mtp_loss", "balance_loss", "grad_norm"):
                assert after[key] == pytest.approx(before[key], rel=1e-4), key
    moved = torch.tensor(rows(tmp_path / "sft", "biases_0")[-1]["bias"])
    assert float(moved.abs().max()) == 0.25
    assert not torch.tensor(rows(tmp_path / "lora", "biases_0")[-1]["bias"]).any()  # frozen routers
    first, last = rows(tmp_path / "grpo")[0], rows(tmp_path / "grpo")[-1]
    assert first["routes/flipped_share"] == 0 and first["kl"] == pytest.approx(0, abs=1e-6)
    assert last["kl"] == pytest.approx(0, abs=1e-6)  # the reference became the policy, biases too
    stock = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "grpo" / "model")
    ours = DeepseekForCausalLM.from_pretrained(tmp_path / "grpo" / "model").eval()
    ids = torch.arange(3, 13)[None]
    assert torch.allclose(stock(ids).logits, ours(ids).logits, atol=1e-6)
