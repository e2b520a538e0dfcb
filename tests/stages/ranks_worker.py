"""One rank of some stages on a tiny DeepSeek model: run by `torch.distributed.run`, or alone.

Its argument is JSON: `folder`, `mode` (one, ddp, fsdp, zero2) and `jobs`, each a name, a kind of
stage and options of its trainer; `lora`, `mtp`, `engine` and `router_replay` are the stage's own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset

from r1pipe.models.deepseek.balancing import ExpertBalancing
from r1pipe.schema import Auxiliary, Lora
from tests.stages import tiny
from tests.stages.children import STAGES

LORA = Lora(r=2, alpha=4, dropout=0.0, target_modules=["q_proj", "o_proj"])
SPEED = 0.125


def rows_of_one_length(count: int) -> Dataset:
    """Additions with as many characters in every row: ranks then have as many tokens each."""
    pairs = [(10 + (7 * i) % 90, 10 + (31 * i) % 90) for i in range(count)]
    made = [
        {"prompt": f"{a}+{b}=", "completion": f"{a + b:03d}", "answer": f"{a + b:03d}"}
        for a, b in pairs
    ]
    return Dataset.from_list(made)


def shard_on_cpu() -> None:
    """Let accelerate use FSDP and DeepSpeed on a CPU: it alone asks for an accelerator."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_GPU)  # type: ignore[method-assign]


class Watched(ExpertBalancing):
    """Writes the load and the biases of each optimizer step, of this rank."""

    file = Path()

    def on_pre_optimizer_step(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
        before = torch.zeros(()) if self._load_LE is None else self._load_LE
        super().on_pre_optimizer_step(*args, model=model, **kwargs)
        assert self._load_LE is not None
        named = model.named_buffers()
        biases = [bias for name, bias in named if name.endswith("e_score_correction_bias")]
        seen = {"load": (self._load_LE - before).tolist(), "bias": torch.stack(biases).tolist()}
        with self.file.open("a") as stream:
            stream.write(json.dumps(seen) + "\n")


def run(folder: Path, name: str, kind: str, mode: str, options: dict[str, Any]) -> None:
    """Run one stage; its files are in `folder`/`name`."""
    workdir = folder / name
    workdir.mkdir(exist_ok=True)
    Watched.file = workdir / f"biases_{os.environ.get('RANK', '0')}.jsonl"
    lora = LORA if options.pop("lora", False) else None
    engine, mtp = options.pop("engine", "compact"), options.pop("mtp", 0.3)
    replay = options.pop("router_replay", "none")
    if mode in ("fsdp", "zero2"):
        options["use_cpu"] = False
    own = Auxiliary(bias_update_speed=SPEED, balance_factor=0.1, mtp_loss_weight=mtp)
    changes: dict[str, Any] = {"auxiliary": own, "lora": lora}
    model = str(folder / "model")
    if kind == "sft":
        stage: Any = tiny.sft_stage(model, **options)
    elif kind == "grpo":
        stage = tiny.grpo_stage(model, engine, **options)
        changes["router_replay"] = replay
    else:
        stage = tiny.distill_stage(model, model, **options)
    module: Any = STAGES[kind]
    module.load_data = lambda data, seed, need=(): rows_of_one_length(64)
    module.build_rewards = lambda terms, render: ([tiny.digits], [1.0])
    module.run(tiny.context(workdir, stage.model_copy(update=changes)))


def main(folder: Path, mode: str, jobs: list[list[Any]]) -> None:
    torch.set_num_threads(1)
    if mode == "zero2":
        import deepspeed.ops  # pyright: ignore[reportMissingImports]

        deepspeed.ops.__compatible_ops__.clear()  # else it compiles one of its own for minutes
    if mode in ("fsdp", "zero2"):
        shard_on_cpu()
    from r1pipe.stages import auxiliary

    auxiliary.ExpertBalancing = Watched
    for name, kind, options in jobs:
        run(folder, name, kind, mode, options)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # a rank that leaves first takes gloo's connections with it
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Path(given["folder"]), given["mode"], given["jobs"])
