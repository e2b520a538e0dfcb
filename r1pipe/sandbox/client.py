"""The caller's side: starts the zygote once per process, hands it runs, reads their results."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.sandbox.interface import Limits, Result, SandboxUnavailable

_START_S = 30.0
# What a supervisor may take on top of the wall limit before it is given up for dead.
_GRACE_S = 60.0
_MOST_PASSED = 32
_HIGHEST_PASSED = 250
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from jail.zygote import main; main()"


class Zygote:
    """The process that forks supervisors; one per caller, dies with it."""

    def __init__(self, wanted: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = os.path.dirname(os.path.abspath(__file__))
        kept = {"LANG": "C.UTF-8"}
        if libraries := os.environ.get("LD_LIBRARY_PATH"):
            kept["LD_LIBRARY_PATH"] = libraries
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, here, str(os.getpid()), wanted],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=kept,
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        self._lock = threading.Lock()
        ours.settimeout(_START_S)
        try:
            hello = ours.recv(4096)
        except TimeoutError:
            hello = b""
        if not hello:
            self.close()
            raise SandboxUnavailable(
                "the process that starts sandboxes does not come up",
                "Linux 5.3 or newer is needed; its standard error above says more",
            )
        self.abilities: dict[str, Any] = json.loads(hello)

    def send(self, message: bytes, fds: list[int]) -> bool:
        """Hand over one run; False when the zygote is gone."""
        with self._lock:
            try:
                socket.send_fds(self._control, [message], fds)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Let the zygote, and with it every run, end."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Drop the parent's zygote in a forked child, without touching the process."""
        self._control.close()
        self._process.returncode = 0


_zygotes: dict[str, Zygote] = {}
_lock = threading.Lock()


def zygote(wanted: str = "memory,cpuacct", replacing: Zygote | None = None) -> Zygote:
    """Return this process's zygote, a new one in place of `replacing`."""
    with _lock:
        held = _zygotes.get(wanted)
        if held is not None and held is replacing:
            held.close()
            held = None
        if held is None:
            held = _zygotes[wanted] = Zygote(wanted)
        return held


def close_all(but: str | None = None) -> None:
    """End every zygote of this process, except the one that was asked for with `but`."""
    with _lock:
        for wanted in [w for w in _zygotes if w != but]:
            _zygotes.pop(wanted).close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    while _zygotes:
        _zygotes.popitem()[1].forget()


atexit.register(close_all)
os.register_at_fork(after_in_child=_after_fork)


class Run:
    """One running program. Leaving the `with` block kills its whole tree, however it is left."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._result: Result | None = None
        self._lock = threading.Lock()

    def wait(self) -> Result:
        """Block until the program and all it started are gone; never raises on what it did."""
        with self._lock:
            if self._result is None:
                try:
                    self._connection.settimeout(self._limits.wall_s + _GRACE_S)
                    self._result = self._read()
                except (OSError, struct.error, ValueError):
                    text = b"sandbox: the supervisor of this run was killed"
                    self._result = Result("failed", None, b"", text, 0.0)
                finally:
                    self._connection.close()
            return self._result

    def kill(self) -> None:
        """Kill the whole tree; `wait` then returns."""
        # The supervisor reads end-of-file as the order to kill and still answers.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def _read(self) -> Result:
        (size,) = struct.unpack("=I", self._exactly(4))
        status, code, wall_s, sizes = json.loads(self._exactly(size))
        stdout, stderr = (self._exactly(n) for n in sizes)
        return Result(status, code, stdout, stderr, wall_s)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            chunk = self._connection.recv(min(size - len(parts), 1 << 20))
            if not chunk:
                raise ConnectionError
            parts += chunk
        return bytes(parts)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()


def _check(files: Mapping[str, bytes], pass_fds: Mapping[int, int]) -> None:
    for name in files:
        parts = name.split("/")
        if not name or "\0" in name or {"", ".", ".."} & set(parts):
            raise ValueError(f"files: {name!r} is not a plain relative path")
    if len(pass_fds) > _MOST_PASSED or not all(3 <= n <= _HIGHEST_PASSED for n in pass_fds):
        raise ValueError(
            f"pass_fds: at most {_MOST_PASSED} descriptors, numbered 3 to {_HIGHEST_PASSED} inside"
        )


def launch(
    argv: Sequence[str],
    environment: Mapping[str, str],
    files: Mapping[str, bytes],
    stdin: bytes,
    limits: Limits,
    plan: Mapping[str, Any],
    pass_fds: Mapping[int, int],
) -> Run:
    """Hand one run to the zygote, to a new one if the old one has died."""
    _check(files, pass_fds)
    header = json.dumps(
        {
            "argv": list(argv),
            "environment": dict(environment),
            "stdin": len(stdin),
            "files": [[name, len(content)] for name, content in files.items()],
            "limits": dataclasses.asdict(limits),
            "plan": dict(plan),
            "pass_fds": list(pass_fds),
        }
    ).encode()
    payload = os.memfd_create("request", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair()
    try:
        with open(payload, "wb", closefd=False) as file:
            for part in (struct.pack("=I", len(header)), header, stdin, *files.values()):
                file.write(part)
        fds = [theirs.fileno(), payload, *pass_fds.values()]
        message = b"group" if plan["groups"] else b"plain"
        current = zygote(plan["wanted"])
        if not current.send(message, fds):
            zygote(plan["wanted"], replacing=current).send(message, fds)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(payload)
    return Run(ours, limits)
