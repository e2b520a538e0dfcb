"""Runs a stage in a forked child, so that a test can kill it with SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from r1pipe.artifact import METRICS_FILE
from r1pipe.stages import distill, grpo, length_split, sft
from r1pipe.stages.context import Outcome, StageContext
from r1pipe.stages.guards import FiniteSteps
from r1pipe.stages.metrics import read_rows
from tests.stages import tiny

STAGES = {"sft": sft, "grpo": grpo, "distill": distill}
KILLED = -signal.SIGKILL


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; returns 0, 1 after an exception, or minus the signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(context: StageContext, rows: int = 64, rewards: Any = None) -> Outcome:
    """Run a stage on `tiny.rows` and write its outcome beside the artifact."""
    torch.set_num_threads(1)
    module: Any = STAGES[context.stage.kind]
    module.load_data = lambda data, seed, need=(): tiny.rows(rows)
    if context.stage.kind == "grpo":
        module.build_rewards = lambda terms, render: (
            rewards or ([tiny.digits, tiny.right_length], [1.0, 0.5])
        )
    outcome: Outcome = module.run(context)
    (context.workdir / "outcome.json").write_text(json.dumps(outcome.metrics))
    return outcome


def train_whole_and_split(stage: Any, folder: Path) -> None:
    """Train a stage in `folder`/whole with undivided batches, in `folder`/split with them in parts.

    Fails where no batch was divided.
    """
    parts = folder / "parts"

    def whole() -> None:
        length_split.split = lambda inputs: None
        train(tiny.context(folder / "whole", stage))

    def split() -> None:
        length_split.PART_COST = 1
        original = length_split.split

        def counted(inputs: Any) -> Any:
            found = original(inputs)
            with parts.open("a") as stream:
                stream.write(f"{len(found or [1])}\n")
            return found

        length_split.split = counted
        train(tiny.context(folder / "split", stage))

    assert in_child(whole) == 0
    assert in_child(split) == 0
    assert max(int(line) for line in parts.read_text().split()) > 1


def kill_at_training_step(number: int) -> None:
    """Make this process kill itself at its `number`-th forward pass of training."""
    seen = [0]
    original = FiniteSteps.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            kill_self()
        return original(self, *args, **kwargs)

    FiniteSteps.training_step = step


def at_each_write(folder: Path, action: Callable[[int], None]) -> None:
    """Call `action(n)` before the n-th change this process makes to files under `folder`."""
    count = [0]

    def touched(path: Any) -> None:
        if str(path).startswith(str(folder)):
            count[0] += 1
            action(count[0])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if (
            event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        ) or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            touched(args[0])

    sys.addaudithook(hook)
    # These write without passing through Python's own file functions.
    for module, name in ((torch, "save"), (safetensors.torch, "save_file")):
        original = getattr(module, name)

        def counted(
            thing: Any, path: Any, *args: Any, _write: Any = original, **kwargs: Any
        ) -> Any:
            touched(path)
            result = _write(thing, path, *args, **kwargs)
            touched(path)
            return result

        setattr(module, name, counted)


def results(workdir: Path) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """Return final weights (bytes), metric rows without wall-clock figures, and the outcome."""
    rows = read_rows(workdir / METRICS_FILE)
    for row in rows:
        row.pop("timing")
    outcome = json.loads((workdir / "outcome.json").read_text())
    return (workdir / "model" / "model.safetensors").read_bytes(), rows, outcome
