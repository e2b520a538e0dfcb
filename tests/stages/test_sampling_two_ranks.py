"""Two CPU ranks choose the same groups, wherever the rows of a group were written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.stages import tiny

WORKER = """
import json, os, sys
from pathlib import Path
from r1pipe.schema import DifficultyFilter, DynamicSampling, GroupReplay
from r1pipe.stages.dynamic_sampling import DynamicSampling as Mixin
from tests.stages import tiny
from tests.stages.children import kill_at_training_step, train
folder, per_rank, kill, name = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rank = int(os.environ["RANK"])

def rarely(completions, answer, **columns):
    pairs = zip(completions, answer)
    return [float(text[:1].isdigit()) if int(a) % 3 == 0 else 0.0 for text, a in pairs]

original = Mixin._generate
def checked(self, prompts):  # what TRL gets is what was rewarded, in whole groups
    chosen = self._chosen
    if chosen is not None:
        own = range(rank * len(chosen), (rank + 1) * len(chosen))
        answers = [row.inputs["answer"] for row in chosen]
        again = rarely([row.completion for row in chosen], answers)
        assert again == self._chosen_rewards[own.start : own.stop, 0].tolist()
        assert prompts == [row.inputs["prompt"] for row in chosen]
        seen = [[place // 4, row.inputs["id"]] for place, row in zip(own, chosen)]
        with (folder / f"{name}_{rank}.jsonl").open("a") as stream:
            stream.write(json.dumps([self.state.global_step, seen]) + "\\n")
    return original(self, prompts)
Mixin._generate = checked

stage = tiny.grpo_stage(str(folder / "model"), "compact", max_steps=6, save_steps=2,
                        per_device_train_batch_size=per_rank, num_generations=4,
                        max_completion_length=4, beta=0.1, steps_per_generation=1)
stage = stage.model_copy(update={
    "dynamic_sampling": DynamicSampling(enabled=True, max_rounds=2, oversampling=1.0, reward=None),
    "difficulty_filter": DifficultyFilter(enabled=True, reward="rarely", solved_at=1.0, window=1,
                                          rest=1, floor=0.25),
    "group_replay": GroupReplay(enabled=True, size=8, max_age=4),
})
if kill:
    kill_at_training_step(kill)
train(tiny.context(folder / name, stage), 48, ([rarely], [1.0]))
"""
REPOSITORY = Path(__file__).parents[2]


def launch(per_rank: int, folder: Path, name: str, kill: int = 0) -> int:
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "CI": "1"}
    command = [*start, str(worker), str(folder), str(per_rank), str(kill), name]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode and not kill:
        print(done.stderr[-6000:])
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("per_rank", [8, 6], ids=["whole groups", "groups across ranks"])
def test_ranks_choose_alike_and_continue_alike(per_rank: int, tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    assert launch(per_rank, tmp_path, "once") == 0
    rows = [json.loads(line) for line in (tmp_path / "once" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3, 4, 5, 6]
    assert sum(row["sampling/replayed_groups"] for row in rows) > 0
    assert any(row["sampling/rounds"] == 2 for row in rows)
    batches: dict[int, dict[int, set[str]]] = {}
    for rank in (0, 1):
        for line in (tmp_path / f"once_{rank}.jsonl").open():
            step, seen = json.loads(line)
            for group, prompt in seen:
                batches.setdefault(step, {}).setdefault(group, set()).add(prompt)
    for groups in batches.values():
        assert len(groups) == per_rank * 2 // 4
        assert all(len(prompts) == 1 for prompts in groups.values()), "a group has one prompt"
    saved = tmp_path / "once" / "checkpoints" / "checkpoint-4"
    states = [json.loads((saved / f"sampling_{rank}.json").read_text()) for rank in (0, 1)]
    for key in ("stream", "difficulty", "totals"):
        assert states[0][key] == states[1][key]

    if per_rank % 4 == 0:
        return
    assert launch(per_rank, tmp_path, "twice", kill=4) != 0
    assert launch(per_rank, tmp_path, "twice") == 0
    once, twice = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("once", "twice")
    )
    assert all((once[name] == value).all() for name, value in twice.items())
