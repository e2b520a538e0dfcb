"""What `r1pipe doctor` reads off the machine: GPU, driver, memory, cores, disk, environment."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

GIB = 2**30
Status = Literal["ok", "warn", "fail"]
Line = tuple[str, Status, str, str | None]
"""Name, status, detail, mend: the fields of a doctor's Finding."""


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: str
    driver: str
    capability: float
    """CUDA compute capability; bfloat16 needs 8.0."""


@dataclass(frozen=True)
class Machine:
    """The limits a run meets here; sizes in bytes."""

    gpus: tuple[Gpu, ...] = ()
    gpu_trouble: str | None = None
    """What nvidia-smi said when it is there and does not work."""
    memory: int = 16 * GIB
    cores: float = 2.0
    """Cores this process may use: affinity and the cgroup's quota, the smaller."""
    visible_cores: int = 2
    """Cores torch counts, which knows nothing of quotas."""
    shared_memory: int = 16 * GIB
    disk_free: int = 100 * GIB
    output_root: Path = Path("runs")
    writable: bool = True
    compiler: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    sandbox: Mapping[str, str] = field(default_factory=dict)
    """What isolates programs here, layer by layer; empty where none can be had ..."""
    sandbox_trouble: str | None = None
    """... and then what is missing."""

    @property
    def driver(self) -> str | None:
        driver = self.gpus[0].driver if self.gpus else ""
        return driver if re.fullmatch(r"\d+(\.\d+)*", driver) else None

    @classmethod
    def here(cls, output_root: Path) -> Machine:
        gpus, trouble = read_gpus()
        place = nearest_folder(output_root)
        shm = Path("/dev/shm")
        sandbox, missing = read_sandbox()
        return cls(
            gpus=gpus,
            gpu_trouble=trouble,
            memory=memory_limit(),
            cores=core_limit(),
            visible_cores=len(os.sched_getaffinity(0)),
            shared_memory=shutil.disk_usage(shm).total if shm.is_dir() else 0,
            disk_free=shutil.disk_usage(place).free,
            output_root=output_root,
            writable=os.access(place, os.W_OK),
            compiler=any(shutil.which(name) for name in ("cc", "gcc", "clang")),
            environment=os.environ,
            sandbox=sandbox,
            sandbox_trouble=missing,
        )


def read_sandbox() -> tuple[dict[str, str], str | None]:
    """Return what the sandbox of the code reward rests on here, or what it lacks."""
    from r1pipe.errors import UserError
    from r1pipe.sandbox import describe

    try:
        return describe(), None
    except UserError as error:
        return {}, "; ".join(problem.what for problem in error.problems)


def read_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """Return the NVIDIA GPUs of this machine, and what is wrong when nvidia-smi fails."""
    fields = "name,memory.total,driver_version,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return (), None
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi does not run: {error}"
    if done.returncode:
        return (), f"nvidia-smi: {(done.stdout or done.stderr).strip().splitlines()[0]}"
    return parse_gpus(done.stdout), None


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name as Linux has it, else its architecture."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.machine()


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in nvidia-smi's CSV: name, memory, driver, compute capability."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            capability = float(parts[3]) if parts[3].replace(".", "", 1).isdigit() else 0.0
            gpus.append(Gpu(parts[0], parts[1], parts[2], capability))
    return tuple(gpus)


def memory_limit(root: Path = Path("/")) -> int:
    """Return the memory this process may use (bytes): the machine's or a cgroup's limit."""
    limits = [int(value) for value in _cgroup(root, "memory.max", "memory/memory.limit_in_bytes")]
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    return min(limits, default=0)


def core_limit(root: Path = Path("/"), affinity: int | None = None) -> float:
    """Return the cores this process may use: its affinity or a cgroup's quota."""
    limits = [float(affinity or len(os.sched_getaffinity(0)))]
    for line in _cgroup(root, "cpu.max", None):
        quota, period = line.split()
        limits.append(int(quota) / int(period))
    quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():
        limits.append(int(quota) / int(period))
    return min(limits)


def _cgroup(root: Path, second: str, first: str | None) -> Iterator[str]:
    """Yield a limit from this process's cgroup and those above it (v2), then from v1."""
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            group = Path(line[4:])
            for folder in [group, *group.parents]:
                value = _read(top / folder / second)
                if value and not value.startswith("max"):
                    yield value
    if first and (value := _read(top / first)).isdigit():
        yield value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def nearest_folder(path: Path) -> Path:
    """Return `path` or the closest folder above it that exists."""
    path = path.absolute()
    return next(place for place in [path, *path.parents] if place.is_dir())


def check_machine(machine: Machine) -> Iterator[Line]:
    """Judge GPU, memory, cores, threads, disk, shared memory and the hub's setting."""
    yield from _gpu(machine)
    gib = machine.memory / GIB
    if gib < 4:
        yield "memory", "warn", f"{gib:.1f} GiB; the demo needs up to 4 GiB", "add `jobs=1`"
    else:
        yield "memory", "ok", f"{gib:.1f} GiB", None
    yield _threads(machine)
    yield _disk(machine)
    yield _shared_memory(machine)
    yield _sandbox(machine)
    yield _hub(machine.environment)


def _sandbox(machine: Machine) -> Line:
    if machine.sandbox_trouble:
        mend = "`r1pipe rewards code` says what it needs; the other rewards do without"
        return "sandbox", "warn", f"no code reward here: {machine.sandbox_trouble}", mend
    layers = "; ".join(f"{name}: {what}" for name, what in machine.sandbox.items())
    return "sandbox", "ok", layers or "not looked at", None


def _gpu(machine: Machine) -> Iterator[Line]:
    if machine.gpu_trouble:
        mend = "sudo reboot (a machine); docker run --gpus all ... (a container)"
        yield "gpu", "warn", machine.gpu_trouble, mend
    elif not machine.gpus:
        yield "gpu", "ok", "none; everything shipped for one CPU runs", None
    for gpu in machine.gpus:
        detail = f"{gpu.name}, {gpu.memory}, driver {gpu.driver}"
        if 0 < gpu.capability < 8:
            detail += f", compute capability {gpu.capability} has no bfloat16"
            yield "gpu", "warn", detail, "add `model.load.dtype=float16`"
        else:
            yield "gpu", "ok", detail, None
    if machine.gpus and not machine.compiler:
        detail = "none, but Triton (vLLM, torch.compile) compiles at run time"
        yield "compiler", "warn", detail, "apt-get install -y gcc"


def _threads(machine: Machine) -> Line:
    said = machine.environment.get("OMP_NUM_THREADS", "")
    cores = f"{machine.cores:g}"
    mend = f"export OMP_NUM_THREADS={max(1, int(machine.cores))}"
    if said.isdigit() and int(said) > machine.cores:
        return "cores", "warn", f"{cores}, but OMP_NUM_THREADS={said}", mend
    if not said and machine.visible_cores > machine.cores:
        detail = (
            f"{cores} by quota, but torch sees {machine.visible_cores} and starts as many threads"
        )
        return "cores", "warn", detail, mend
    return "cores", "ok", f"{cores}, OMP_NUM_THREADS {said or 'not set'}", None


def _disk(machine: Machine) -> Line:
    gib = machine.disk_free / GIB
    where = f"`{machine.output_root}`"
    move = "add `output_root=/a/larger/disk`"
    if not machine.writable:
        return "disk", "fail", f"{where} cannot be written to", move
    if gib < 1:
        return "disk", "fail", f"{gib:.2f} GiB free for {where}", move
    detail = f"{gib:.0f} GiB free for {where}"
    return ("disk", "warn", detail, move) if gib < 10 else ("disk", "ok", detail, None)


def _shared_memory(machine: Machine) -> Line:
    gib = machine.shared_memory / GIB
    detail = f"{gib:.2f} GiB in /dev/shm"
    if len(machine.gpus) > 0 and gib < 1:
        return "shm", "warn", f"{detail}; NCCL and vLLM need more", "docker run --shm-size=8g ..."
    return "shm", "ok", detail, None


def _hub(environment: Mapping[str, str]) -> Line:
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "hub", "ok", "HF_HUB_OFFLINE is set: local paths and the cache only", None
    endpoint = environment.get("HF_ENDPOINT", "https://huggingface.co")
    return "hub", "ok", f"{endpoint} when a recipe names it (HF_HUB_OFFLINE=1 forbids it)", None
