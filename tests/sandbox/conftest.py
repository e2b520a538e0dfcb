"""Runs a program text in the sandbox and looks for what it may have left behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from r1pipe import sandbox
from r1pipe.sandbox import Limits, Result

Boxed = Callable[..., Result]

# What the programs share: a call that must be refused, and the last word of one that ran through.
PRELUDE = """
import ctypes, errno, os, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
OUTSIDE = sys.argv[2:]

def escaped(how):
    print("ESCAPED", how, flush=True)

def refused(what, *args, **kwargs):
    try:
        value = what(*args, **kwargs)
    except (OSError, ValueError):
        return
    if value is False:
        return
    escaped(f"{what} {args} {value!r}")

def call(*args):
    ctypes.set_errno(0)
    result = libc.syscall(*map(ctypes.c_long, args))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result

"""


def processes_with(marker: str) -> list[int]:
    """Return the processes of the machine that have the marker in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if marker.encode() in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def available() -> None:
    try:
        sandbox.require("sandbox")
    except sandbox.SandboxUnavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture
def boxed(available: None) -> Iterator[Boxed]:
    """Run a program text; at the end of the test none of its processes may be alive."""
    marker = f"boxed-{uuid.uuid4().hex}"

    def run(
        text: str | bytes,
        *outside: str,
        stdin: bytes = b"",
        prelude: bool = True,
        pass_fds: dict[int, int] | None = None,
        files: dict[str, bytes] | None = None,
        **limits: float | int,
    ) -> Result:
        program = text.encode() if isinstance(text, str) else text
        return sandbox.run(
            [sandbox.PYTHON, "main.py", marker, *outside],
            files={"main.py": (PRELUDE.encode() if prelude else b"") + program, **(files or {})},
            stdin=stdin,
            limits=Limits(**{"wall_s": 5.0, "cpu_s": 5.0, **limits}),  # type: ignore[arg-type]
            pass_fds=pass_fds,
        )

    yield run
    assert processes_with(marker) == []
