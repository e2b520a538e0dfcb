"""How a stage's worker is started: python, torchrun, accelerate with a preset, or sbatch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from r1pipe.artifact import write_aside
from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.schema import Launcher

WORKER = "r1pipe.worker"
WAIT = "--wait"
"""Argument of a worker that begins when it is told to."""
SINGLE_PROCESS_KINDS = {"sample", "eval"}
"""Kinds that run in one process whatever the launcher; vLLM spreads over GPUs by itself."""
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "warning",
}
PR_SET_PDEATHSIG = 1
"""Linux prctl option: a signal this process gets when its parent dies."""


def worker_command(launcher: Launcher, kind: str, workdir: Path) -> list[str]:
    """Return the command line that runs the stage prepared in `workdir`."""
    target = ["-m", WORKER, str(workdir)]
    if runs_alone(launcher, kind):
        return [sys.executable, *target]
    if launcher.command == "torchrun":
        processes = f"--nproc-per-node={launcher.num_processes}"
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", processes, *target]
    if launcher.command == "accelerate":
        return [*accelerate_command(launcher), *target]
    script = workdir / "launch.sbatch"
    write_aside(script, sbatch_script(launcher, workdir))
    return ["sbatch", "--wait", str(script)]


def runs_alone(launcher: Launcher, kind: str) -> bool:
    """Whether a stage's worker is one process of this machine, with nothing that starts it."""
    return kind in SINGLE_PROCESS_KINDS or launcher.command == "python"


def accelerate_command(launcher: Launcher) -> list[str]:
    """Return `accelerate launch` with the preset and the number of processes."""
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        f"--config_file={preset_path(launcher)}",
        f"--num_processes={launcher.num_processes * launcher.num_machines}",
        f"--num_machines={launcher.num_machines}",
    ]


def preset_path(launcher: Launcher) -> Path:
    """Return the accelerate config file of a preset: TRL's by name, or the user's by path."""
    preset = launcher.preset or "multi_gpu"
    if preset.endswith((".yaml", ".yml")):
        if not Path(preset).is_file():
            raise UserError(Problem("launcher.preset", f"no such file: `{preset}`"))
        return Path(preset)
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(Problem("launcher.preset", "TRL is not installed", "pip install trl"))
    folder = Path(spec.submodule_search_locations[0]) / "accelerate_configs"
    path = folder / f"{preset}.yaml"
    if not path.is_file():
        known = [item.stem for item in folder.glob("*.yaml")]
        hint = did_you_mean(preset, known)
        raise UserError(Problem("launcher.preset", f"TRL ships no preset `{preset}`", hint))
    return path


def sbatch_script(launcher: Launcher, workdir: Path) -> str:
    """Return a Slurm batch script: one accelerate launch a node, the first node as rendezvous."""
    options = {
        "job-name": f"r1pipe-{workdir.name}",
        "nodes": launcher.num_machines,
        "ntasks-per-node": 1,
        "output": str(workdir.resolve() / "logs" / "slurm-%j.log"),
        **launcher.sbatch,
    }
    lines = ["#!/usr/bin/env bash"]
    for name, value in options.items():
        lines.append(f"#SBATCH --{name}" + (f"={value}" if value != "" else ""))
    lines += ["set -euo pipefail", *launcher.setup, f"cd {shlex.quote(os.getcwd())}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in QUIET.items()]
    rank = '--machine_rank="$SLURM_NODEID" --main_process_ip="$head" --main_process_port=29500'
    command = f"{shlex.join(accelerate_command(launcher))} {rank} -m {WORKER}"
    lines += [
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export head",
        f"srun bash -c {shlex.quote(f'{command} {shlex.quote(str(workdir))}')}",
    ]
    return "\n".join(lines) + "\n"


def worker_environment(launcher: Launcher, kind: str) -> dict[str, str]:
    """Return the environment of a worker: the caller's, quiet libraries, threads as asked."""
    environment = {**os.environ, **{k: v for k, v in QUIET.items() if k not in os.environ}}
    if launcher.cpu_threads is not None:
        environment["OMP_NUM_THREADS"] = str(launcher.cpu_threads)
    if launcher.command == "python" and kind not in SINGLE_PROCESS_KINDS:
        # One process trains on one GPU; with more in sight the Trainer would try DataParallel.
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return environment


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies, so that none is left behind.

    With `parent`, the process that started this one, it also ends if that one is dead already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)


def start_worker(
    launcher: Launcher, kind: str, workdir: Path, lock: int, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start the worker of a prepared stage; it inherits the run's lock and writes to `log`.

    Without one it imports what a stage of that kind needs, then waits for the path of its log on
    standard input; the stage need not be prepared before that.
    """
    command = worker_command(launcher, kind, workdir)
    if log is None:
        command += [WAIT, kind]
    with (log or Path(os.devnull)).open("ab") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if log is None else subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=worker_environment(launcher, kind),
            pass_fds=(lock,),
            preexec_fn=partial(die_with_parent, os.getpid()),
            start_new_session=True,
        )
