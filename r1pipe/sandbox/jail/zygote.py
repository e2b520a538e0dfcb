"""One bare, single-threaded process per caller that forks a supervisor for each run.

Forking it costs a millisecond, starting Python again would cost twenty; and the caller, with its
threads and CUDA contexts, is never forked.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

from . import filter as seccomp
from . import kernel, rules, supervisor
from .groups import Group, Groups
from .inside import Job

_MOST_FDS = 64


def _host_uid(first: int) -> int:
    """A user for this run; should two runs ever meet in one, their namespaces still part them."""
    return first + os.getpid() % 4096


def _read_job(payload_fd: int, passed: list[int]) -> tuple[Job, memoryview]:
    """Read the request: length of the header, header, stdin, the files' contents."""
    held = memoryview(mmap.mmap(payload_fd, 0, access=mmap.ACCESS_READ))
    os.close(payload_fd)
    (size,) = struct.unpack_from("=I", held)
    header = json.loads(bytes(held[4 : 4 + size]))
    rest = held[4 + size :]
    stdin, rest = rest[: header["stdin"]], rest[header["stdin"] :]
    files = {}
    for name, length in header["files"]:
        files[name], rest = rest[:length], rest[length:]
    plan: dict[str, Any] = header["plan"]
    return (
        Job(
            argv=header["argv"],
            environment=header["environment"],
            files=files,
            limits=header["limits"],
            plan=plan,
            host_uid=_host_uid(plan["first_uid"]) if plan["user"] == "own" else os.geteuid(),
            host_gid=_host_uid(plan["first_uid"]) if plan["user"] == "own" else os.getegid(),
            pass_fds=dict(zip(header["pass_fds"], passed, strict=True)),
        ),
        stdin,
    )


def _supervise(fds: list[int], group: Group | None, ends: list[int]) -> None:
    """Be the supervisor of one run, in a process of its own."""
    client = socket.socket(fileno=fds[0])
    try:
        job, stdin = _read_job(fds[1], fds[2:])
        if group is not None:
            group.prepare(job.limits["memory_bytes"], job.limits["processes"])
        watch = supervisor.Watch(job, stdin, group)
        watch.start()
        status, code = watch.watch(client, ends)
        result = (status, code, watch.wall_s, *watch.outputs())
    except Exception as problem:
        text = f"sandbox: {type(problem).__name__}: {problem}"
        result = ("failed", None, 0.0, b"", text.encode(errors="replace"))
    with suppress(OSError):
        supervisor.answer(client, *result)


class Zygote:
    """The loop: take requests, fork, reap; end with the caller."""

    def __init__(self, control: socket.socket, caller_fd: int, wanted: set[str]) -> None:
        self._control, self._caller_fd = control, caller_fd
        self._pid = os.getpid()
        self._groups = Groups(wanted)
        self._running: dict[int, Group | None] = {}
        # Closed when the zygote ends, in whatever way: the supervisors read end of file.
        self._stopped, self._stop = os.pipe2(os.O_CLOEXEC)

    def hello(self) -> None:
        """Tell the caller what this kernel and this place offer."""
        told = {
            "landlock": rules.version(),
            "cgroups": self._groups.controllers,
            "cgroup_version": 2 if self._groups.unified else 1,
        }
        self._control.send(json.dumps(told).encode())

    def serve(self) -> None:
        """Serve until the caller is gone or has closed, then end every run."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        for fd in (self._control.fileno(), self._caller_fd, wake_read):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                self._reap(os.WNOHANG)
            if self._caller_fd in ready:
                break
            if self._control.fileno() in ready and not self._serve_one():
                break
        os.close(self._stop)
        while self._running:
            self._reap(0)
        self._groups.close()

    def _reap(self, flags: int) -> None:
        while self._running:
            try:
                pid, _ = os.waitpid(-1, flags)
            except ChildProcessError:
                return
            if not pid:
                return
            if (group := self._running.pop(pid, None)) is not None:
                self._groups.give_back(group)

    def _serve_one(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, 16, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        try:
            group = self._groups.take() if message == b"group" else None
            pid = os.fork()
        except OSError:
            # the caller sees its end of the run close
            return True
        else:
            if pid == 0:
                self._become_supervisor(fds, group)
            self._running[pid] = group
            return True
        finally:
            for fd in fds:
                os.close(fd)

    def _become_supervisor(self, fds: list[int], group: Group | None) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Should this process's parent be killed, the tree must not stay.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:
                return
            ends = [self._caller_fd, self._stopped]
            kernel.close_all_but({2, *ends, *fds})
            _supervise(fds, group, ends)
        finally:
            os._exit(0)


def main() -> None:
    """Serve the caller whose control socket is descriptor 0."""
    control = socket.socket(fileno=0)
    os.set_inheritable(0, False)
    caller = int(sys.argv[1])
    caller_fd = os.pidfd_open(caller)
    if os.getppid() != caller:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir("/")
    zygote = Zygote(control, caller_fd, set(filter(None, sys.argv[2].split(","))))
    seccomp.program()  # once, for all forks
    # A collection in a fork would copy every page the forks share.
    gc.disable()
    gc.freeze()
    zygote.hello()
    zygote.serve()
