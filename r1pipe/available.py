"""What the chosen launcher, tracker and rollout need of this machine, asked before a run starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from r1pipe.doctor_machine import read_gpus
from r1pipe.errors import Problem
from r1pipe.launch import SINGLE_PROCESS_KINDS
from r1pipe.plan import Plan
from r1pipe.schema import Launcher

ACCELERATORS = ("/dev/kfd", "/dev/dxg", "/dev/davinci0", "/dev/accel", "/dev/dri/renderD128")
"""Device files of other makers than NVIDIA: one of them there, nothing is said about GPUs."""


def missing_here(plan: Plan) -> list[Problem]:
    """Return what the stages that are about to run cannot have on this machine, each thing once."""
    found: dict[str, Problem] = {}
    for planned in plan.stages.values():
        if planned.action == "skip":
            continue
        stage = planned.stage
        several = stage.kind not in SINGLE_PROCESS_KINDS
        batch = several and stage.launcher.command == "slurm"
        problems = list(_launcher_problems(stage.launcher)) if several else []
        if not batch:  # the nodes of a cluster have their own installation
            problems += _package_problems(stage)
        for problem in problems:
            found.setdefault(problem.what, problem)
    return list(found.values())


def _launcher_problems(launcher: Launcher) -> Iterator[Problem]:
    if launcher.command == "slurm" and shutil.which("sbatch") is None:
        what = "needs the command `sbatch`, which is not here"
        hint = "start it on a login node of the cluster, or choose another `launcher=`"
        yield Problem("launcher", f"`{launcher.name}` {what}", hint)
    if launcher.command != "accelerate" or (launcher.preset or "").endswith((".yaml", ".yml")):
        return
    if (count := visible_gpus()) is not None and count < launcher.num_processes:
        has = f"there are {count}" if count else "there is none"
        what = (
            f"`{launcher.name}` starts {launcher.num_processes} processes, a GPU each; {has} here"
        )
        fewer = f"`launcher.num_processes={count}`, or " if count else ""
        hint = f"{fewer}`launcher=local`; `launcher=torchrun` for several processes on a CPU"
        yield Problem("launcher", what, hint)
    if (launcher.preset or "").startswith("zero") and find_spec("deepspeed") is None:
        yield _not_installed("launcher", f"`{launcher.name}`", "deepspeed", "`launcher=fsdp2`")


def _package_problems(stage: object) -> Iterator[Problem]:
    tracker = getattr(stage, "tracker").name  # noqa: B009 - the union of stages has it everywhere
    if tracker != "none" and find_spec(tracker) is None:
        yield _not_installed("tracker", f"`{tracker}`", tracker, "`tracker=none`")
    rollout = getattr(stage, "rollout", None)
    vllm = rollout is not None and (rollout.engine, rollout.vllm_mode) == ("vllm", "colocate")
    if vllm and find_spec("vllm") is None:
        other = "`rollout=transformers`; `r1pipe doctor` names the version"
        yield _not_installed("rollout.engine", "`vllm`", "vllm", other)
    if getattr(stage, "lora", None) is not None and find_spec("peft") is None:
        yield _not_installed("model.lora", "LoRA", "peft", "`model.lora=null`")
    load = getattr(stage, "load", None)
    if load is not None and load.fused:
        other = "`model.load.fused=null`"
        if find_spec("triton") is None:
            yield _not_installed("model.load.fused", "`fused: true`", "triton", other)
        elif visible_gpus() == 0:
            what = "`fused: true` is for a CUDA GPU, and there is none here"
            yield Problem("model.load.fused", what, f"{other} uses it where it can")


def _not_installed(where: str, what: str, package: str, other: str) -> Problem:
    return Problem(
        where,
        f"{what} needs the package `{package}`, which is not installed",
        f"pip install {package}, or {other}",
    )


def visible_gpus() -> int | None:
    """Return how many NVIDIA GPUs this process may use; None when another accelerator is here."""
    gpus, _ = read_gpus()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and gpus:
        return sum(1 for name in chosen.split(",") if name.strip() not in ("", "-1"))
    if not gpus and any(Path(device).exists() for device in ACCELERATORS):
        return None
    return len(gpus)
