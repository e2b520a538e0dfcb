"""Plugin of the kill tests: ends driver and worker with SIGKILL at one chosen moment.

`KILL_AT` names the moment, `PART:STAGE:WHEN`:
`save:STAGE:N`        the worker is about to do its N-th file operation on the stage's checkpoints
`generation:STAGE:N`  the worker is in the middle of its N-th rollout
`work:STAGE:NAME`     the worker is about to touch a file NAME of the stage
`seal:STAGE:NAME`     the driver is about to touch NAME in the stage's folder, or the folder itself
`NAME*N` is the N-th time. `hold:...` before all that stops the process there instead of killing it.
Each moment that came is a line in `KILL_LOG`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

KILL_AT = os.environ.get("KILL_AT", "").removeprefix("hold:")
HOLDS = os.environ.get("KILL_AT", "").startswith("hold:")
WORKER = "r1pipe.worker"
IS_WORKER = WORKER in sys.orig_argv
DIR_FD = {"os.rename": 2, "os.mkdir": 2, "os.remove": 1, "os.rmdir": 1}
"""Events of changes to files (PEP 578), and which argument is the folder a path starts from."""


def happen(where: str) -> None:
    """Note the moment, then end driver and worker at once, as a power cut would."""
    driver = os.getppid() if IS_WORKER else os.getpid()
    children = Path(f"/proc/{driver}/task/{driver}/children")
    workers = len(children.read_text().split()) if children.exists() else 0
    with open(os.environ["KILL_LOG"], "a", encoding="utf-8") as stream:
        stream.write(f"{KILL_AT} workers={workers} {where}\n")
    if HOLDS:
        time.sleep(600)
    os.kill(driver, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def watch_files(part: str, stage: str, when: str) -> None:
    """Count the changes to files of `stage`; the chosen one is never carried out."""
    name, _, count = when.rpartition("*") if "*" in when else (when, "", "1")
    if name.isdecimal():
        name, count = "", name
    left = int(count)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        path = changed(event, arguments)
        if path is None or stage not in path.parts or "progress" in path.name:
            return
        if part != "seal" and (part == "save") != ("checkpoints" in path.parts):
            return
        if name in ("", path.name):
            left -= 1
            if left == 0:
                happen(f"{event} {path.name}")

    sys.addaudithook(hook)


def changed(event: str, arguments: tuple[Any, ...]) -> Path | None:
    """Return the file or folder that an audit event is about to change."""
    if event == "open":
        writes = isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not writes or isinstance(arguments[0], int):
            return None
        return Path(os.path.abspath(os.fsdecode(arguments[0])))
    if event == "shutil.rmtree":
        return Path(os.path.abspath(os.fsdecode(arguments[0])))
    if event not in DIR_FD:
        return None
    folder = arguments[DIR_FD[event]]
    start = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return Path(start, os.fsdecode(arguments[0]))


def watch_generation(number: int) -> None:
    """Let a timer end the process shortly after the `number`-th rollout has begun."""
    from r1pipe.rollout import compact

    original = compact.write  # `generate` calls it too
    calls = 0

    def write(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            threading.Timer(0.02, happen, ["generate"]).start()
            while True:  # the rollout is long enough for the timer, whatever the machine
                original(*arguments, **options)
        return original(*arguments, **options)

    compact.write = write


if KILL_AT:
    PART, STAGE, WHEN = KILL_AT.split(":")
    # A worker that was started early has its kind behind the folder: `WORKDIR --wait KIND`.
    folder = sys.orig_argv[sys.orig_argv.index(WORKER) + 1] if IS_WORKER else ""
    mine = Path(folder).name == STAGE if IS_WORKER else PART == "seal"
    if mine and PART == "generation":
        watch_generation(int(WHEN))
    elif mine and (PART != "seal" or not IS_WORKER):
        watch_files(PART, STAGE, WHEN)
