"""Data-parallel ranks count together, and their biases stay the same."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM, update_biases


def batch() -> torch.Tensor:
    return torch.randint(1, 61, (4, 8), generator=torch.Generator().manual_seed(2))


def built(config: dict[str, Any]) -> DeepseekForCausalLM:
    torch.manual_seed(4)
    return DeepseekForCausalLM(DeepseekConfig(**config)).train()


def rank(number: int, folder: str, config: dict[str, Any], kind: str) -> None:
    torch.set_num_threads(1)
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", meet, patience, rank=number, world_size=2)
    model = built(config)
    if kind == "ddp":
        wrapped: Any = DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for rows in batch()[number::2].split(1):  # two micro-batches
            wrapped(input_ids=rows, labels=rows).loss.backward()
        load = update_biases(model, 0.125)
        optimizer.step()
        optimizer.zero_grad()
    assert load is not None
    bias = torch.stack([r.e_score_correction_bias for r in model.model.routers])
    torch.save((load, bias), f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_ranks_agree(kind: str, tiny: Any, tmp_path: Path) -> None:
    config = {**tiny, "num_nextn_predict_layers": 1, "balance_factor": 0.1}
    command = [sys.executable, __file__, str(tmp_path), json.dumps(config), kind]
    processes = [subprocess.Popen([*command, str(number)]) for number in (0, 1)]
    assert [process.wait(timeout=180) for process in processes] == [0, 0]
    (load, bias), (other_load, other_bias) = (torch.load(tmp_path / f"{i}.pt") for i in (0, 1))
    assert torch.equal(load, other_load) and torch.equal(bias, other_bias)
    tokens = torch.tensor([32.0, 32.0, 28.0]) * config["num_experts_per_tok"]
    assert torch.equal(load.sum(dim=1), tokens)  # the MTP module sees one token less per row
    assert float(bias.abs().max()) > 0


if __name__ == "__main__":
    rank(int(sys.argv[4]), sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
