"""What a sandboxed run takes and gives: limits, result, and the error when there is no sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r1pipe.errors import Problem, UserError

Isolation = Literal["sandbox", "process"]
Status = Literal["exited", "signalled", "wall", "cpu", "memory", "output", "failed"]


class SandboxUnavailable(UserError):
    """This machine cannot give the isolation asked for; says what is missing and how to get it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(Problem("isolation", what, hint))


@dataclass(frozen=True)
class Limits:
    """Bounds of one run; where one is met, the whole process tree is killed."""

    wall_s: float = 6.0
    "Seconds by the clock, from the start of the program."
    cpu_s: float = 5.0
    "CPU seconds of all its processes together."
    memory_bytes: int = 512 << 20
    "Memory of all its processes together, what it writes to its files included."
    output_bytes: int = 1 << 20
    "stdout and stderr together."
    file_bytes: int = 16 << 20
    "Size of one file it writes."
    tmp_bytes: int = 64 << 20
    "All files it writes together (working directory, /tmp and /dev/shm)."
    files: int = 1000
    "Files and directories it makes."
    processes: int = 32
    "Processes and threads alive at the same time."

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            kinds = (int, float) if name.endswith("_s") else int
            if not (isinstance(value, kinds) and 0 < value < 1 << 60):
                raise ValueError(f"Limits.{name} must be a positive number, got {value!r}")


@dataclass(frozen=True)
class Result:
    """How a run ended.

    "exited" and "signalled" (also after `Run.kill`) are the program's own ends; "wall", "cpu",
    "memory" and "output" name the limit it met; "failed" means that it never ran, and stderr says
    why. Status 0 is no proof that it did its work.
    """

    status: Status
    exit_code: int | None
    "The exit status, minus the signal's number after a signal, None for the other ends."
    stdout: bytes
    stderr: bytes
    wall_s: float
    "Seconds from the start of the program to its end."
