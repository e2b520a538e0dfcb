"""GRPO and its neighbours with the engine behind a server, and what may happen to that."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from r1pipe.errors import StageFailed
from r1pipe.rollout.remote.engine import RemoteEngine
from r1pipe.stages import beside_server, grpo
from r1pipe.stages.metrics import read_rows
from tests.serving import running
from tests.stages import tiny

EXACT = 1e-5


@pytest.fixture(autouse=True)
def tiny_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(grpo, "load_data", lambda data, seed, need=(): tiny.rows(64))
    rewards = ([tiny.digits, tiny.right_length], [1.0, 0.5])
    monkeypatch.setattr(grpo, "build_rewards", lambda terms, render: rewards)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)


def train(model: str, folder: Path, server: running.Running, **changes: Any) -> list[Any]:
    """Train three steps; returns the rows of metrics, without what depends on the clock."""
    trainer = {
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 24,
        "beta": 0.0,
        "save_steps": 1,
    }
    rollout = server.rollout(alarm_threshold=EXACT, **changes)
    stage = tiny.grpo_stage(model, **trainer).model_copy(update={"rollout": rollout})
    grpo.run(tiny.context(folder, stage))
    rows = read_rows(folder / "metrics.jsonl")
    assert all(row.pop("timing")["sync_time"] > 0 for row in rows)
    return rows


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same_run(one: Path, other: Path) -> bool:
    pair = weights(one), weights(other)
    return all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())


@pytest.fixture(scope="module")
def undisturbed(model: str, server: running.Running, tmp_path_factory: Any) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        tiny_rows.__wrapped__(patch)  # type: ignore[attr-defined]
        rows = train(model, folder, server)
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def in_mid_write(
    monkeypatch: pytest.MonkeyPatch, server: running.Running, call: int, act: Callable[[], None]
) -> list[int]:
    """Call `act` while the engine writes for the `call`-th time; returns a counter of calls."""
    plain, seen = RemoteEngine.write, [0]

    def write(self: RemoteEngine, prompt_ids: Any, sampling: Any, **options: Any) -> Any:
        seen[0] += 1
        if seen[0] == call:
            server.kill_engine(signal.SIGSTOP)  # else it has written before anything can happen
            threading.Thread(target=act).start()
        return plain(self, prompt_ids, sampling, **options)

    monkeypatch.setattr(beside_server.RemoteEngine, "write", write)
    return seen


def test_the_engine_has_the_trainer_s_weights_at_every_step(undisturbed: Path) -> None:
    rows = json.loads((undisturbed / "rows.json").read_text())
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["rollout/logp_diff_mean"] < EXACT for row in rows)
    ratios = [row["sampling/importance_sampling_ratio/mean"] for row in rows]
    assert ratios == pytest.approx([1.0] * 3, abs=1e-3)
    assert any(row["loss"] != rows[0]["loss"] for row in rows)


def test_a_killed_engine_costs_no_step_and_changes_no_bit(
    model: str,
    server: running.Running,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = server.status()["restarts"]

    def kill() -> None:
        server.wait(lambda status: status["state"] == "writing")
        server.kill_engine()

    calls = in_mid_write(monkeypatch, server, 2, kill)
    rows = train(model, tmp_path, server)
    assert server.status()["restarts"] == before + 1
    assert calls == [3]
    assert rows == json.loads((undisturbed / "rows.json").read_text())
    assert same_run(tmp_path, undisturbed)


def test_an_engine_that_stops_answering_is_replaced(
    model: str,
    server: running.Running,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = server.status()["restarts"]
    in_mid_write(monkeypatch, server, 3, lambda: None)
    rows = train(model, tmp_path, server)
    assert server.status()["restarts"] == before + 1
    assert rows == json.loads((undisturbed / "rows.json").read_text())
    assert same_run(tmp_path, undisturbed)


def test_a_server_that_is_gone_ends_the_stage_with_its_checkpoint(
    model: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running.start(model, tmp_path / "server")
    in_mid_write(monkeypatch, server, 2, lambda: os.killpg(server.process.pid, signal.SIGKILL))
    with pytest.raises(StageFailed) as failed:
        train(model, tmp_path / "run", server, server_timeout=1.0)
    said = str(failed.value)
    assert "step 2" in said and server.url in said and "checkpoint is kept" in said
    assert f"python -m r1pipe serve model.path={model}" in said and "refused" in said
    server.process.wait()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-1"]
    # Another one at the same place, and the stage goes on as if nothing had been.
    monkeypatch.undo()
    tiny_rows.__wrapped__(monkeypatch)  # type: ignore[attr-defined]
    port = int(server.url.rpartition(":")[2])
    with running.serving(model, tmp_path / "server", port=port) as again:
        train(model, tmp_path / "run", again)
    assert same_run(tmp_path / "run", undisturbed)
