"""Watches one run from outside: feeds and reads its pipes, holds its limits, ends its tree."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import struct
import tempfile
import time
from contextlib import suppress

from . import inside, kernel, tree
from .groups import Group

_SETUP_S = 20.0
_CHUNK = 1 << 16


class Watch:
    """One run: start it, watch it, and say how it ended."""

    def __init__(self, job: inside.Job, stdin: memoryview, group: Group | None) -> None:
        self.job, self.group = job, group
        self._stdin = stdin
        self._limits = job.limits
        self._output: dict[int, bytearray] = {}
        self._left = job.limits["output_bytes"]
        self._report = bytearray()
        self._sampler: tree.Sampler | None = None
        self._started: float | None = None
        self._pid = 0
        self._directory: str | None = None

    def start(self) -> None:
        """Make the pipes and the first process of the tree."""
        own: list[int] = []
        theirs: list[int] = []
        for index in range(5):  # stdin, stdout, stderr, report, go
            read, write = os.pipe2(os.O_CLOEXEC)
            outward = index in (0, 4)
            own.append(write if outward else read)
            theirs.append(read if outward else write)
        stdio = (theirs[0], theirs[1], theirs[2])
        if self.job.plan["isolation"] == "process":
            self._directory = tempfile.mkdtemp(prefix="r1pipe-")
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            self._pid = os.fork()
            if self._pid == 0:
                _run_plain(self.job, stdio, theirs[3], theirs[4], self._directory)
        else:
            flags = kernel.ALL_BUT_USER
            if self.job.plan["user"] == "namespace":
                flags |= kernel.CLONE_NEWUSER
            self._pid = kernel.clone(flags)
            if self._pid == 0:
                inside.run_as_init(self.job, stdio, theirs[3], theirs[4])
        for fd in {*theirs, *self.job.pass_fds.values()}:
            os.close(fd)
        for fd in own:
            os.set_blocking(fd, False)
        self._in, self._out, self._err, self._reports, go = own
        self._output = {self._out: bytearray(), self._err: bytearray()}
        if self.group is not None:
            self.group.join(self._pid)
        os.write(go, b"g")
        os.close(go)

    def watch(self, client: socket.socket, ends: list[int]) -> tuple[str, int | None]:
        """Wait for the end; return the status and the exit code.

        Whatever can be read from `client` or `ends` is the order to kill.
        """
        poll = select.poll()
        watched = {client.fileno(), *ends, self._reports, *self._output}
        for fd in watched:
            poll.register(fd, select.POLLIN)
        if self._stdin:
            poll.register(self._in, select.POLLOUT)
        else:
            self._close_stdin(poll)
        setup_end = time.monotonic() + _SETUP_S
        verdict: str | None = None
        pause = 0.02
        while verdict is None:
            for fd, _ in poll.poll(pause * 1000):
                if fd == self._in:
                    self._feed(poll)
                elif fd in self._output:
                    self._take(fd, poll)
                elif fd == self._reports:
                    verdict = self._hear()
                else:
                    verdict = "killed"
                if verdict:
                    break
            verdict = verdict or ("output" if self._left < 0 else None)
            if verdict is None and self._started is None:
                verdict = "failed" if time.monotonic() > setup_end else None
            elif verdict is None:
                verdict, pause = self._check_limits()
        self.wall_s = time.monotonic() - (self._started or time.monotonic())
        self._end_tree()
        self._drain()
        return self._judge(verdict)

    def _feed(self, poll: select.poll) -> None:
        try:
            written = os.write(self._in, self._stdin[:_CHUNK])
            self._stdin = self._stdin[written:]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self._stdin = self._stdin[:0]
        if not self._stdin:
            poll.unregister(self._in)
            self._close_stdin(None)

    def _close_stdin(self, poll: select.poll | None) -> None:
        if self._in >= 0:
            os.close(self._in)
            self._in = -1

    def _take(self, fd: int, poll: select.poll | None) -> bool:
        """Read once; False when there is no more for now."""
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            if poll is not None:
                poll.unregister(fd)
            return False
        self._output[fd] += chunk[: max(0, self._left)]
        self._left -= len(chunk)
        return True

    def _hear(self) -> str | None:
        """Read what process 1 says: S started, X ended with a status, E failed."""
        chunk = os.read(self._reports, 8192)
        self._report += chunk
        if self._started is None and self._report.startswith(b"S"):
            self._started = time.monotonic()
        if not chunk:
            return "ended"
        rest = self._report.removeprefix(b"S")
        return "ended" if rest[:1] in (b"X", b"E") else None

    def _check_limits(self) -> tuple[str | None, float]:
        """Return what is exceeded, if anything, and the seconds until the next look."""
        assert self._started is not None
        limits = self._limits
        elapsed = time.monotonic() - self._started
        if elapsed >= limits["wall_s"]:
            return "wall", 0
        pause = min(limits["wall_s"] - elapsed, 0.05)
        cpu: float | None = None
        memory, sampled = 0, self.group is None or "memory" not in self.group.places
        if self.group is not None:
            cpu = self.group.cpu_s()
            if self.group.oom_kills():
                return "memory", 0
        if cpu is None or sampled:
            if self._sampler is None:
                self._sampler = tree.Sampler(self._pid)
            memory, seen, alive = self._sampler.sample()
            cpu = seen if cpu is None else cpu
            pause = min(pause, 0.01)
            if self.job.plan["isolation"] == "process" and alive > limits["processes"] + 1:
                return "killed", 0
        if sampled and memory > limits["memory_bytes"]:
            # Forked children share pages; the exact figure is too slow for every look.
            exact = tree.proportional_memory(self._pid)
            if exact is None or exact > limits["memory_bytes"]:
                return "memory", 0
        if cpu >= limits["cpu_s"]:
            return "cpu", 0
        return None, max(0.001, min(pause, limits["cpu_s"] - cpu))

    def _end_tree(self) -> None:
        """Kill process 1: the kernel ends all in its PID namespace before the wait returns."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        if self._directory is not None:
            tree.kill_descendants(os.getpid())
            _remove_directory(self._directory)

    def _drain(self) -> None:
        """Take what is left in the pipes; the tree is dead, so this ends."""
        for fd in self._output:
            while self._left >= 0 and self._take(fd, None):
                pass
        with suppress(BlockingIOError):
            self._report += os.read(self._reports, 8192)

    def _judge(self, verdict: str) -> tuple[str, int | None]:
        rest = self._report.removeprefix(b"S")
        if verdict == "ended" and self._left < 0:
            return "output", None
        if self.group is not None and self.group.oom_kills() and verdict in ("ended", "wall"):
            return "memory", None
        if verdict == "killed":
            return "signalled", -signal.SIGKILL
        if verdict == "failed":
            self._output[self._err] = bytearray(b"sandbox: not ready within %d s" % _SETUP_S)
        if verdict != "ended":
            return verdict, None
        if rest[:1] == b"X":
            code = os.waitstatus_to_exitcode(int.from_bytes(rest[1:5], "little"))
            if code >= 0:
                return "exited", code
            if -code == signal.SIGXCPU:
                return "cpu", None
            return "signalled", code
        message = rest[1:].split(b"X")[0] if rest[:1] == b"E" else b"process 1 was killed"
        self._output[self._err] = bytearray(b"sandbox: " + message)
        return "failed", None

    def outputs(self) -> tuple[bytes, bytes]:
        """Return what came out of stdout and stderr."""
        return bytes(self._output[self._out]), bytes(self._output[self._err])


def _run_plain(
    job: inside.Job, stdio: tuple[int, int, int], report_fd: int, go_fd: int, directory: str
) -> None:
    """Be the parent of a program without isolation (trusted programs only)."""
    try:
        os.setsid()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.read(go_fd, 1)
        os.chdir(directory)
        inside.put_files(job.files)
        os.write(report_fd, b"S")
        child = os.fork()
        if child == 0:
            try:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                report_fd = inside.place_descriptors(stdio, job.pass_fds, report_fd)
                inside.set_limits(job.limits, None)
                inside.execute(job.argv, job.environment | {"HOME": directory})
            except BaseException as problem:
                os.write(report_fd, b"E" + str(problem).encode(errors="replace")[:4000])
            os._exit(127)
        kernel.close_all_but({report_fd})
        status = os.waitpid(child, 0)[1]
        os.write(report_fd, b"X" + status.to_bytes(4, "little"))
    except BaseException as problem:
        os.write(report_fd, b"E" + str(problem).encode(errors="replace")[:4000])
    os._exit(0)


def _remove_directory(path: str) -> None:
    """Remove a tree, also one whose directories were made unreadable."""
    os.chmod(path, 0o700)
    for top, names, _ in os.walk(path):
        for name in names:
            with suppress(OSError):
                os.chmod(os.path.join(top, name), 0o700, follow_symlinks=False)
    shutil.rmtree(path, ignore_errors=True)


def answer(
    client: socket.socket, status: str, code: int | None, wall_s: float, *texts: bytes
) -> None:
    """Send a result: length of the header, header, then the texts."""
    sizes = [len(text) for text in texts]
    header = json.dumps([status, code, wall_s, sizes]).encode()
    client.setblocking(True)
    client.sendall(struct.pack("=I", len(header)) + header + b"".join(texts))
