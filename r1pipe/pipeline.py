"""Runs a plan: launches stages as their inputs get ready, seals what they leave, never twice."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from r1pipe import __version__
from r1pipe.artifact import (
    ASIDE,
    ERROR_FILE,
    OUTCOME_FILE,
    PROGRESS_FILE,
    STAGE_FILE,
    move_aside,
    publish,
    remove_transient,
    write_aside,
)
from r1pipe.errors import EXIT_FAILED_STAGE, EXIT_USER_ERROR, Problem, UserError
from r1pipe.fingerprint import code_digest
from r1pipe.launch import start_worker
from r1pipe.plan import NOT_CHOSEN, Plan, PlannedStage, has_model, read_partial
from r1pipe.progress import Display
from r1pipe.spare import Spare, is_worthwhile, start_spare

POLL_SECONDS = 0.2
SETTLED_SECONDS = 1.0
"""Time without a stage's start or end before the next one's worker is started."""
DYING_SECONDS = 15.0
"""Time that the workers of a killed driver get to be gone before a new run is refused."""
RECORDED_VERSIONS = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "vllm")


@dataclass
class Running:
    planned: PlannedStage
    process: subprocess.Popen[bytes]
    started: float
    log: Path


def run_pipeline(plan: Plan, recipe: str, resolved: dict[str, Any], overrides: list[str]) -> int:
    """Run every stage of `plan` that is not finished; returns the exit code."""
    with sigterm_interrupts(), locked(plan.run_dir) as lock:
        claim(plan, recipe, resolved, overrides)
        with Display() as display:
            return Driver(plan, recipe, lock, display).drive()


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, a batch system's way to end a run, stop the workers as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[int]:
    """Hold the run directory; the lock passes on to workers and ends with the last of them."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        what = f"cannot be written to: {error.strerror}"
        raise UserError(Problem(str(run_dir), what, "choose another `output_root=`")) from error
    given_up = time.monotonic() + DYING_SECONDS
    while not _lock(handle):
        owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
        # Workers of a killed driver die with it, but one that holds a lot of memory not at once.
        if not _is_alive(owner) and time.monotonic() < given_up:
            time.sleep(POLL_SECONDS)
            continue
        os.close(handle)
        what = f"another run (process {owner or 'unknown'}) is at work in this directory"
        hint = "wait for it, stop it, or give this run another `name=`"
        raise UserError(Problem(str(run_dir), what, hint))
    try:
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(owner: str) -> bool:
    """Whether `owner`, a process id as text, runs on this machine."""
    try:
        os.kill(int(owner), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def claim(plan: Plan, recipe: str, resolved: dict[str, Any], overrides: list[str]) -> None:
    """Write what was asked for; refuse a directory that another recipe's results are in."""
    identity = plan.run_dir / "recipe.json"
    if identity.is_file():
        with contextlib.suppress(ValueError):
            there = json.loads(identity.read_text(encoding="utf-8")).get("recipe")
            if there != recipe:
                what = f"holds the results of recipe `{there}`, not `{recipe}`"
                hint = "give this run another `name=` or `output_root=`"
                raise UserError(Problem(str(plan.run_dir), what, hint))
    stages = {name: {"kind": p.stage.kind} for name, p in plan.stages.items()}
    asked = {"recipe": recipe, "overrides": overrides, "version": __version__, "stages": stages}
    write_aside(identity, json.dumps(asked, indent=2) + "\n")
    # JSON is YAML; written by the machine, read by people and by the report.
    write_aside(plan.run_dir / "resolved.yaml", json.dumps(resolved, indent=2, ensure_ascii=False))


class Driver:
    """Keeps up to `jobs` stages running until all are finished or one has failed."""

    def __init__(self, plan: Plan, recipe: str, lock: int, display: Display) -> None:
        self.plan, self.recipe, self.lock, self.display = plan, recipe, lock, display
        waiting = [p for p in plan.stages.values() if p.action != "skip"]
        # What most others wait for goes first; an evaluation never holds up the chain.
        self.waiting = sorted(waiting, key=lambda planned: -len(plan.dependents(planned.name)))
        self.running: list[Running] = []
        self.spare: Spare | None = None
        self.began = time.monotonic()
        self.failed: int = 0

    def drive(self) -> int:
        """Return 0, or the exit code of the first stage that failed."""
        for planned in self.plan.stages.values():
            if planned.action == "skip" and planned.why != NOT_CHOSEN:
                remove_transient(planned.output)
                self.display.skip(planned.name, planned.why)
        try:
            while (self.waiting and not self.failed) or self.running:
                self._start_ready()
                self._poll()
                if self.failed:
                    self._stop_others()
                self._keep_spare()
                time.sleep(POLL_SECONDS if self.running else 0)
        except KeyboardInterrupt as stop:
            self._stop_others()
            self.display.note("stopped; the same command continues from here")
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
        finally:
            self._discard_spare()
        return self.failed

    def _keep_spare(self) -> None:
        """Let the worker of the stage that comes next import its libraries where a core is idle."""
        if self.spare is not None and self.spare.planned not in self.waiting:
            self._discard_spare()
        settled = time.monotonic() - self.began > SETTLED_SECONDS
        if self.spare is not None or self.failed or not (settled and self.running and self.waiting):
            return
        if is_worthwhile(self.waiting[0], len(self.running)):
            self.spare = start_spare(self.plan, self.waiting[0], self.lock)

    def _discard_spare(self) -> None:
        if self.spare is not None:
            self.spare.discard()
            self.spare = None

    def _worker(self, planned: PlannedStage, workdir: Path, log: Path) -> subprocess.Popen[bytes]:
        """Return the worker of a prepared stage: the spare one if it is there, or a new one."""
        self.began = time.monotonic()
        if self.spare is not None and self.spare.planned is planned:
            spare, self.spare = self.spare, None
            if (process := spare.begin(log)) is not None:
                return process
        return start_worker(planned.stage.launcher, planned.stage.kind, workdir, self.lock, log)

    def _start_ready(self) -> None:
        unfinished = {p.name for p in self.waiting} | {r.planned.name for r in self.running}
        for planned in list(self.waiting):
            if self.failed or len(self.running) >= self.plan.run.jobs:
                return
            if unfinished.isdisjoint(planned.producers):
                self.waiting.remove(planned)
                self._start(planned)

    def _start(self, planned: PlannedStage) -> None:
        workdir = prepare(self.plan, planned)
        self.display.start(planned.name, planned.stage.kind, planned.why)
        if (workdir / OUTCOME_FILE).is_file():
            self._finish(planned, workdir, 0.0)
            return
        attempt = sum(1 for _ in (workdir / "logs").glob("attempt_*.log")) + 1
        log = workdir / "logs" / f"attempt_{attempt}.log"
        process = self._worker(planned, workdir, log)
        self.running.append(Running(planned, process, time.monotonic(), log))

    def _poll(self) -> None:
        for running in list(self.running):
            workdir = self.plan.partial / running.planned.name
            with contextlib.suppress(OSError, ValueError):
                text = (workdir / PROGRESS_FILE).read_text(encoding="utf-8")
                self.display.update(running.planned.name, json.loads(text))
            code = running.process.poll()
            if code is None:
                continue
            self.running.remove(running)
            if code == 0 and (workdir / OUTCOME_FILE).is_file():
                self._finish(running.planned, workdir, time.monotonic() - running.started)
            else:
                self._fail(running, workdir, code)

    def _finish(self, planned: PlannedStage, workdir: Path, seconds: float) -> None:
        outcome = json.loads((workdir / OUTCOME_FILE).read_text(encoding="utf-8"))
        if outcome["kind"] == "model" and not has_model(workdir):
            self.failed = EXIT_FAILED_STAGE
            self.display.fail(planned.name, "left no weights", str(workdir / "logs"))
            return
        seal(self.plan, planned, workdir, outcome, self.recipe)
        self.display.finish(planned.name, seconds, headline(planned.stage.kind, outcome))

    def _fail(self, running: Running, workdir: Path, code: int) -> None:
        problem = {"message": f"the worker ended with code {code}", "exit_code": EXIT_FAILED_STAGE}
        with contextlib.suppress(OSError, ValueError):
            problem = json.loads((workdir / ERROR_FILE).read_text(encoding="utf-8"))
        if code < 0:
            problem["message"] = f"the worker was killed by {signal.Signals(-code).name}" + (
                " (out of memory?)" if code == -signal.SIGKILL else ""
            )
        asked_wrong = problem.get("exit_code") == EXIT_USER_ERROR
        self.failed = self.failed or (EXIT_USER_ERROR if asked_wrong else EXIT_FAILED_STAGE)
        self.display.fail(running.planned.name, problem["message"], str(running.log))

    def _stop_others(self) -> None:
        for running in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGTERM)
        for running in self.running:
            try:
                running.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
        self.running.clear()


def prepare(plan: Plan, planned: PlannedStage) -> Path:
    """Return the folder the stage works in, with its resolved config written into it.

    Work begun with another config is moved under superseded/, never continued and never lost.
    """
    workdir = plan.partial / planned.name
    superseded = plan.run_dir / "superseded"
    # A kill before the config was written leaves nothing that is worth a name of its own.
    begun = any(p.is_file() and p.suffix != ASIDE for p in workdir.rglob("*"))
    if begun and read_partial(workdir).get("fingerprint") != planned.fingerprint:
        move_aside(workdir, superseded)
    (workdir / "logs").mkdir(parents=True, exist_ok=True)
    for name in (ERROR_FILE, PROGRESS_FILE):
        (workdir / name).unlink(missing_ok=True)
    asked = {
        "name": planned.name,
        "fingerprint": planned.fingerprint,
        "stage": planned.stage.model_dump(mode="json"),
    }
    write_aside(workdir / STAGE_FILE, json.dumps(asked, indent=2, ensure_ascii=False) + "\n")
    return workdir


def seal(
    plan: Plan, planned: PlannedStage, workdir: Path, outcome: dict[str, Any], recipe: str
) -> None:
    """Turn a worker's finished folder into the stage's artifact."""
    checkpoints = workdir / "checkpoints"
    if not plan.run.keep_checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)
    inputs = {
        arrow.field: {
            "path": arrow.reference,
            "stage": arrow.producer,
            "fingerprint": plan.stages[arrow.producer].fingerprint if arrow.producer else None,
        }
        for arrow in planned.inputs
    }
    manifest = {
        "name": planned.name,
        "stage_kind": planned.stage.kind,
        "kind": outcome["kind"],
        "fingerprint": planned.fingerprint,
        "inputs": inputs,
        "config": planned.stage.model_dump(mode="json"),
        "recipe": recipe,
        "code": {"version": __version__, "sources": code_digest(planned.stage.kind)},
        "versions": library_versions(),
        "machine": outcome.get("machine", {}),
        "metrics": outcome["metrics"],
        "timings": outcome["timings"],
        "attempts": sum(1 for _ in (workdir / "logs").glob("attempt_*.log")),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    publish(workdir, planned.output, manifest, plan.run_dir / "superseded")


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries a result depends on."""
    found = {}
    for name in RECORDED_VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def headline(kind: str, outcome: dict[str, Any]) -> str:
    """Return the few figures of a finished stage that its progress line ends with."""
    wanted = {
        "eval": ("t1/accuracy", "greedy/accuracy", "t1/format"),
        "sample": ("kept", "sampled"),
        "grpo": ("reward", "train_loss"),
    }.get(kind, ("train_loss", "loss"))
    if outcome["metrics"].get("rows_cut"):
        wanted = (*wanted, "rows_cut")
    shown = []
    for name in wanted:
        value = outcome["metrics"].get(name)
        if isinstance(value, int | float):
            shown.append(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}")
    if sampling := outcome["metrics"].get("sampling"):
        shown.append(f"{sampling['generated_per_used']:.2f} groups written for each trained on")
    return ", ".join(shown)
