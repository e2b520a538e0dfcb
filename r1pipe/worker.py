"""Runs one stage from the file the driver prepared: python -m r1pipe.worker WORKDIR."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter

from r1pipe.artifact import (
    ERROR_FILE,
    OUTCOME_FILE,
    PROGRESS_FILE,
    STAGE_FILE,
    sync_folder,
    write_aside,
)
from r1pipe.doctor_machine import processor_name, read_gpus
from r1pipe.errors import EXIT_FAILED_STAGE, StageFailed, UserError
from r1pipe.fingerprint import STAGE_FILES
from r1pipe.launch import SINGLE_PROCESS_KINDS, WAIT, die_with_parent
from r1pipe.schema import Stage
from r1pipe.stages.context import Outcome, Progress, StageContext
from r1pipe.stages.trl_imports import keep_vllm_out_of_trl


def main(workdir: Path) -> int:
    """Run the stage in `workdir`; returns the exit code (1 failed stage, 2 user error)."""
    die_with_parent()
    started = time.monotonic()
    asked = json.loads((workdir / STAGE_FILE).read_text(encoding="utf-8"))
    stage = TypeAdapter(Stage).validate_python(asked["stage"])
    context = StageContext(asked["name"], stage, workdir, Progress(workdir / PROGRESS_FILE))
    try:
        outcome = run_stage(context)
    except (UserError, StageFailed) as error:
        return _failed(workdir, str(error), error.exit_code)
    except OSError as error:
        traceback.print_exc()
        return _failed(workdir, f"{type(error).__name__}: {error}", EXIT_FAILED_STAGE)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(workdir, message, EXIT_FAILED_STAGE)
    if is_first_rank():
        _leave(workdir, outcome, time.monotonic() - started)
    return 0


def run_stage(context: StageContext) -> Outcome:
    """Call `run` of the module that implements this kind of stage."""
    return stage_module(context.stage.kind).run(context)  # type: ignore[attr-defined]


def stage_module(kind: str) -> ModuleType:
    """Import the module of a kind of stage, and all that it needs."""
    if kind not in SINGLE_PROCESS_KINDS:
        keep_vllm_out_of_trl()
    return import_module(f"r1pipe.stages.{STAGE_FILES[kind].removesuffix('.py')}")


def wait_for_start(kind: str) -> None:
    """Import what a stage of this kind needs; return when standard input names the log to write.

    Its end without a line means that nothing is to be done: the driver does not want this worker.
    """
    die_with_parent()
    with contextlib.suppress(Exception):  # it comes again, to where it is told to people
        stage_module(kind)
    log = sys.stdin.readline().rstrip("\n")
    if not log:
        sys.exit(0)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def is_first_rank() -> bool:
    """Whether this process is the one that writes, under torchrun, accelerate or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def _leave(workdir: Path, outcome: Outcome, wall: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = resource.getrusage(resource.RUSAGE_SELF)
    result: dict[str, Any] = asdict(outcome)
    result["timings"] = {
        **outcome.timings,
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_rss_bytes": peak,
    }
    result["machine"] = machine()
    sync_folder(workdir)  # an outcome on the disk stands for files that are there too
    write_aside(workdir / OUTCOME_FILE, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def machine() -> dict[str, Any]:
    """Return what this process could compute with: the processor, its threads, the GPUs' names."""
    import torch

    count = torch.cuda.device_count()
    if count and not torch.cuda.is_initialized():  # torch would take memory of a GPU to name it
        names = [gpu.name for gpu in read_gpus()[0]][:count]
    else:
        names = [torch.cuda.get_device_name(n) for n in range(count)]
    return {"processor": processor_name(), "threads": torch.get_num_threads(), "gpus": names}


def _failed(workdir: Path, message: str, exit_code: int) -> int:
    print(message, file=sys.stderr)
    if is_first_rank():
        write_aside(workdir / ERROR_FILE, json.dumps({"message": message, "exit_code": exit_code}))
    return exit_code


if __name__ == "__main__":
    if sys.argv[2:3] == [WAIT]:
        wait_for_start(sys.argv[3])
    sys.exit(main(Path(sys.argv[1])))
