"""Two ranks behind one server write what one rank would, also when the engine is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.serving import running
from tests.stages import tiny


def launch(ranks: int, folder: Path, name: str, server: running.Running) -> None:
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(running.REPOSITORY)}
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "CI": "1"}
    command = [*start, "-m", "tests.serving.ranks_worker", str(folder), name, str(16 // ranks)]
    command += [server.url, str(server.token_file)]
    done = subprocess.run(
        command, env=environment, cwd=running.REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks_train_as_one_and_outlive_the_engine(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model")
    with running.serving(model, tmp_path / "server") as server:
        launch(1, tmp_path, "one", server)
        late = threading.Thread(
            target=lambda: (
                server.wait(lambda status: status["weights"].startswith("step 1")),
                server.kill_engine(),
            )
        )
        late.start()
        launch(2, tmp_path, "two", server)
        late.join()
        assert server.status()["restarts"] == 1
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        assert (value - two[name]).abs().max() < 1e-5, name
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("one", "two")
    ]
    for name in ("reward", "completions/mean_length"):
        assert [r[name] for r in rows[0]] == pytest.approx([r[name] for r in rows[1]], rel=1e-5)
    assert all(row["rollout/logp_diff_mean"] < 1e-5 for row in rows[1])
