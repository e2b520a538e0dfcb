"""Runs hostile Python programs on one Linux box: no Docker, no cloud, no server, no fallback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1pipe.sandbox import client, plan
from r1pipe.sandbox.client import Run
from r1pipe.sandbox.interface import Isolation, Limits, Result, SandboxUnavailable
from r1pipe.sandbox.plan import PYTHON, describe

__all__ = [
    "PYTHON",
    "Isolation",
    "Limits",
    "Result",
    "Run",
    "SandboxUnavailable",
    "describe",
    "require",
    "run",
    "start",
]


def require(isolation: Isolation = "sandbox") -> None:
    """Raise SandboxUnavailable, saying what is missing, unless the isolation can be had here.

    "sandbox" is found out by running a probe in it, once per process. "process" (rlimits, own
    session, empty environment, temporary directory) asks for nothing and keeps nothing from being
    read or connected to: it is for programs you trust.
    """
    plan.plan_for(isolation)


def start(
    argv: Sequence[str],
    *,
    files: Mapping[str, bytes] | None = None,
    stdin: bytes = b"",
    limits: Limits | None = None,
    isolation: Isolation = "sandbox",
    pass_fds: Mapping[int, int] | None = None,
) -> Run:
    """Start a program in a sandbox of its own and return at once; SandboxUnavailable if none.

    `files` (relative path: content) appear in its private working directory. `pass_fds` maps
    descriptor numbers inside to descriptors here; nothing else is inherited. With `PYTHON` as
    argv[0] the interpreter runs isolated from user site and script directory.
    """
    argv = list(argv)
    if argv[:1] == [PYTHON]:
        argv[1:1] = ["-s", "-P"]
    return client.launch(
        argv,
        plan.environment(isolation),
        files or {},
        stdin,
        limits or Limits(),
        plan.plan_for(isolation),
        pass_fds or {},
    )


def run(
    argv: Sequence[str],
    *,
    files: Mapping[str, bytes] | None = None,
    stdin: bytes = b"",
    limits: Limits | None = None,
    isolation: Isolation = "sandbox",
    pass_fds: Mapping[int, int] | None = None,
) -> Result:
    """Run a program to its end; see `start`. Never raises on what the program did."""
    with start(
        argv, files=files, stdin=stdin, limits=limits, isolation=isolation, pass_fds=pass_fds
    ) as running:
        return running.wait()
