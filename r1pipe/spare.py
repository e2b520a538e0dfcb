"""The worker of the stage that comes next, started early: imports take as long as short stages."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from r1pipe.doctor_machine import core_limit
from r1pipe.launch import runs_alone, start_worker
from r1pipe.plan import Plan, PlannedStage


@dataclass
class Spare:
    """A worker that has imported what its stage needs, and waits to be told to begin."""

    planned: PlannedStage
    process: subprocess.Popen[bytes]

    def begin(self, log: Path) -> subprocess.Popen[bytes] | None:
        """Let it begin, what it prints going to `log`; None if it is no more."""
        stream = self.process.stdin
        assert stream is not None
        try:
            stream.write(f"{log.resolve()}\n".encode())
            stream.close()
        except OSError:
            self.discard()
            return None
        return self.process

    def discard(self) -> None:
        """End it; it has begun nothing."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


def start_spare(plan: Plan, planned: PlannedStage, lock: int) -> Spare:
    """Start the worker of a stage whose turn will come; it holds the run's lock as others do."""
    workdir = plan.partial / planned.name
    return Spare(planned, start_worker(planned.stage.launcher, planned.stage.kind, workdir, lock))


def is_worthwhile(planned: PlannedStage, running: int) -> bool:
    """Whether a core is idle, and the stage's worker one plain process of this machine."""
    return runs_alone(planned.stage.launcher, planned.stage.kind) and running < core_limit()
