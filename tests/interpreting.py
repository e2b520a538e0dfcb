"""Runs a file of tests under Triton's interpreter, in a process of its own: the switch is read when
triton is imported, and compiled kernels need it off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def check_interpreted(file: Path) -> None:
    """Run the tests of `file`; AssertionError with their output where one fails."""
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
