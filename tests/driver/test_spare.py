"""The worker that is started before its turn: it begins once, as others do, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe import pipeline, spare
from r1pipe.artifact import read_artifact
from r1pipe.compose import compose_recipe
from r1pipe.launch import start_worker
from r1pipe.recipes import recipes_dir
from r1pipe.schema import Launcher
from r1pipe.spare import Spare
from r1pipe.validate import validate
from tests.driver.test_pipeline import FAKE_WORKER, run, started

# Waits for its log as a worker does.
WAITING = "import sys\nif len(sys.argv) > 2 and not sys.stdin.readline(): sys.exit(0)\n"


def launcher(*overrides: str) -> Launcher:
    asked = ["report=false", *overrides]
    composed, unresolved = compose_recipe("tiny_r1", asked, recipes_dir())
    return validate(composed, unresolved).stages["base"].launcher


def waiting(kind: str, workdir: Path) -> Spare:
    lock = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT)
    planned: Any = SimpleNamespace(
        name="stage", stage=SimpleNamespace(launcher=launcher(), kind=kind)
    )
    plan: Any = SimpleNamespace(partial=workdir)
    try:
        return spare.start_spare(plan, planned, lock)
    finally:
        os.close(lock)


def test_a_worker_begins_when_its_log_is_named(tmp_path: Path) -> None:
    found = waiting("eval", tmp_path)
    assert found.process.poll() is None
    log = tmp_path / "attempt_1.log"
    log.write_text("before\n")
    process = found.begin(log)
    assert process is found.process and process.wait(60) == 1
    # There is no stage: the worker says so in the log that it was given.
    assert log.read_text().startswith("before\n") and "stage.json" in log.read_text()


def test_a_worker_that_is_not_wanted_leaves_nothing(tmp_path: Path) -> None:
    found = waiting("eval", tmp_path)
    found.discard()
    assert found.process.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_worker_whose_driver_is_gone_ends(tmp_path: Path) -> None:
    found = waiting("eval", tmp_path)
    assert found.process.stdin is not None
    found.process.stdin.close()
    assert found.process.wait(60) == 0


def test_one_that_died_is_replaced(tmp_path: Path) -> None:
    found = waiting("eval", tmp_path)
    found.process.kill()
    found.process.wait()
    assert found.begin(tmp_path / "log") is None


@pytest.mark.parametrize(
    ("name", "kind", "alone"),
    [("local", "grpo", True), ("torchrun", "grpo", False), ("torchrun", "sample", True)],
)
def test_where_it_is_worthwhile(name: str, kind: str, alone: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(spare, "core_limit", lambda: 4.0)
    stage = SimpleNamespace(launcher=launcher(f"launcher={name}"), kind=kind)
    planned: Any = SimpleNamespace(stage=stage)
    assert spare.is_worthwhile(planned, 3) is alone
    assert not spare.is_worthwhile(planned, 4)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Runs stages that do nothing, each with a spare worker for the next."""
    script = tmp_path / "worker.py"
    script.write_text(WAITING + FAKE_WORKER)
    made: list[subprocess.Popen[bytes]] = []

    def start(
        launcher: Any, kind: str, workdir: Path, lock: int, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        wait = [] if log else ["--wait"]
        command = [sys.executable, str(script), str(workdir), *wait]
        made.append(subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock,)))
        return made[-1]

    monkeypatch.setattr(pipeline, "start_worker", start)
    monkeypatch.setattr(spare, "start_worker", start)
    monkeypatch.setattr(pipeline, "is_worthwhile", lambda planned, running: True)
    monkeypatch.setattr(pipeline, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(pipeline, "SETTLED_SECONDS", -1.0)
    return made


def test_a_chain_runs_each_stage_once(tmp_path: Path, processes: list[Any]) -> None:
    assert run(tmp_path) == 0
    order = started(tmp_path)
    assert len(order) == len(set(order)) == 21
    assert order.index("base") < order.index("r1_zero") < order.index("cold_start_data")
    assert sum("--wait" in each.args for each in processes) >= 5
    assert all(each.poll() is not None for each in processes)
    assert read_artifact(tmp_path / "tiny_r1" / "r1_zero") is not None


def test_no_worker_is_left_after_a_failure(
    tmp_path: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "r1_zero")
    assert run(tmp_path) == 1
    assert "cold_start_data" not in started(tmp_path)
    assert all(each.poll() is not None for each in processes)
    monkeypatch.delenv("FAIL")
    assert run(tmp_path) == 0
    assert "r1_zero" in started(tmp_path)


def test_a_new_worker_takes_the_place_of_one_that_died(
    tmp_path: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = spare.start_spare

    def stillborn(*given: Any) -> Spare:
        found = start(*given)
        found.process.kill()
        found.process.wait()
        return found

    monkeypatch.setattr(pipeline, "start_spare", stillborn)
    assert run(tmp_path) == 0
    assert len(started(tmp_path)) == 21


def test_a_worker_starts_without_a_spare_as_before(tmp_path: Path) -> None:
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    log = tmp_path / "log"
    process = start_worker(launcher(), "eval", tmp_path, lock, log)
    os.close(lock)
    assert process.stdin is None and process.wait(60) == 1 and "stage.json" in log.read_text()
