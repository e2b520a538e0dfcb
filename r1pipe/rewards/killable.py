"""Calls pure functions in worker processes that can be killed: what hangs costs its own limit."""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import IO, Any

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.killable_channel import (
    ERROR,
    FRAME,
    KEEP_ALIVE,
    REQUEST,
    TICK_S,
    TIMED_OUT,
    from_bytes,
    to_bytes,
)
from r1pipe.rewards.killable_worker import DONE

TRUSTED = ("r1pipe.",)
"""What the name of a module that is called must begin with."""
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_START_S = 120.0
"""A first start reads Python and this package, perhaps from a slow network disk."""
_SILENCE_S = 180.0
"""Importing what is called is the longest that a server says nothing."""
_CACHED, _CACHED_BYTES = 1 << 16, 256
_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "TZ", "SYSTEMROOT")


@dataclass(frozen=True)
class Done:
    """The call returned `value`."""

    value: Any


@dataclass(frozen=True)
class TimedOut:
    """The call was killed at its limit."""


@dataclass(frozen=True)
class Failed:
    """The call raised an exception of type `kind`, ran out of memory, or its process died."""

    message: str
    kind: str = "Exception"


Outcome = Done | TimedOut | Failed


class WorkersUnavailable(UserError):
    """The machine does not let worker processes run."""

    def __init__(self, what: str) -> None:
        hint = "see `ulimit -a` and the memory and pids limits of the container"
        super().__init__(Problem("reward workers", what, hint))


def run_all(
    function: str, calls: Iterable[Sequence[Any]], timeout: float = 1.0, warm_up: str | None = None
) -> list[Outcome]:
    """Return the outcome of `function(*arguments)` for each of `calls`, in order.

    `function` is named `module:function`, lives in this package and is pure: equal calls are made
    once, and values are remembered. Arguments and values are what JSON can say (a tuple comes out
    as a list). `warm_up` names a function without arguments that is called once, before workers
    are forked from the process that called it.

    `timeout`: seconds of work, that is of CPU time and of sleeping; waiting for a core that others
    keep busy does not count, up to 5 times the limit. Slow calls share the cores evenly. Where they
    have kept a batch for 7 limits (of more than 1,024 calls: longer in proportion), each ends that
    has had a core for a tenth of its limit, or time for three tenths: 64 calls that hang in 1,024
    end within 10 limits on 2 cores.

    May be called from any thread and any process, forked ones too. Raises WorkersUnavailable where
    no process can be started, and RuntimeError where the function cannot be imported.
    """
    if not _NAME.fullmatch(function) or not function.startswith(TRUSTED):
        raise ValueError(f"{function!r} does not name a function of {TRUSTED}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout is {timeout!r}, not a positive number of seconds")
    asked = [to_bytes(list(arguments)) for arguments in calls]
    pool = _pool()
    keys = {arguments: _key(function, arguments) for arguments in asked}
    known = {arguments: pool.remembered(key) for arguments, key in keys.items()}
    unknown = [arguments for arguments, answer in known.items() if answer is None]
    if unknown:
        head = {"function": function, "warm_up": warm_up or "", "timeout": timeout}
        for arguments, answer in zip(unknown, pool.answers(head, unknown), strict=True):
            known[arguments] = answer
            pool.remember(keys[arguments], answer)
    return [_outcome(known[arguments]) for arguments in asked]


def shut_down() -> None:
    """Stop the worker processes of this process; the next call starts new ones."""
    _pool().close()


_Answer = tuple[bytes, bytes]
"""Status, and the value as JSON."""


def _key(function: str, arguments: bytes) -> bytes:
    digest = hashlib.blake2b(function.encode(), digest_size=16)
    digest.update(b"\0" + arguments)
    return digest.digest()


def _outcome(answer: _Answer | None) -> Outcome:
    if answer is None or answer[0] == TIMED_OUT:
        return TimedOut()
    value = from_bytes(answer[1])
    return Done(value) if answer[0] == DONE else Failed(message=value[1], kind=value[0])


class _ServerLost(Exception):
    """The server died, or says nothing."""


class _Server:
    """The server process, and the socket on which it takes batches."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        self._log = _anonymous_file()
        try:
            self.process = self._spawn(theirs.fileno())
        except (OSError, subprocess.SubprocessError) as error:
            self.control.close()
            raise WorkersUnavailable(f"no process can be started: {error}") from error
        finally:
            theirs.close()
        self.control.settimeout(_START_S)
        try:
            ready = self.control.recv(1)
        except OSError:
            ready = b""
        if not ready:
            self.stop()
            raise WorkersUnavailable(
                f"the server of the workers did not start: {self._last_words()}"
            )

    def _spawn(self, stdin: int) -> subprocess.Popen[bytes]:
        # Their own session: Ctrl-C goes to the trainer alone, which closes the socket.
        return subprocess.Popen(
            [sys.executable or "python3", "-P", "-m", "r1pipe.rewards.killable_server"],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )

    def hand_over(self, end: socket.socket) -> None:
        """Give the server one end of a pair on which a batch will be asked for."""
        socket.send_fds(self.control, [b"+"], [end.fileno()], socket.MSG_NOSIGNAL)

    def stop(self) -> None:
        self.control.close()
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Let go of it in a forked process, whose child it is not."""
        self.control.close()
        self.process.returncode = 0  # nothing to wait for

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"


class _Pool:
    """The server of one process (started when first needed), and the answers it gave."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._open: set[socket.socket] = set()
        self._memory: OrderedDict[bytes, _Answer] = OrderedDict()
        self._finalizer = Finalize(self, self.close, exitpriority=10)

    def remembered(self, key: bytes) -> _Answer | None:
        return self._memory.get(key)

    def remember(self, key: bytes, answer: _Answer) -> None:
        """Keep a value that is not large, and forget the oldest; limits and failures may change."""
        if answer[0] == DONE and len(answer[1]) <= _CACHED_BYTES:
            with self._lock:
                self._memory[key] = answer
                if len(self._memory) > _CACHED:
                    self._memory.popitem(last=False)

    def answers(self, head: dict[str, Any], calls: Sequence[bytes]) -> list[_Answer]:
        """Return the answer to each call; a server that dies is replaced once."""
        answers: dict[int, _Answer] = {}
        for _ in range(2):
            server = self._started()
            missing = [index for index in range(len(calls)) if index not in answers]
            try:
                self._exchange(server, head, calls, missing, answers)
            except _ServerLost:
                self._drop(server)
            else:
                return [answers[index] for index in range(len(calls))]
        raise WorkersUnavailable("the server of the workers was killed twice in one batch")

    def _exchange(
        self,
        server: _Server,
        head: dict[str, Any],
        calls: Sequence[bytes],
        missing: Sequence[int],
        answers: dict[int, _Answer],
    ) -> None:
        """Ask for the missing answers on a socket of this batch's own, and take them."""
        ours, theirs = socket.socketpair()
        self._open |= {ours, theirs}
        try:
            ours.settimeout(_SILENCE_S)
            header = to_bytes({**head, "sizes": [len(calls[index]) for index in missing]})
            request = [REQUEST.pack(len(header)), header, *(calls[i] for i in missing)]
            try:
                with self._lock:
                    server.hand_over(theirs)
                theirs.close()
                ours.sendall(b"".join(request), socket.MSG_NOSIGNAL)
            except OSError as error:
                raise _ServerLost from error
            ours.settimeout(4 * TICK_S)
            reader = _Reader(ours, server.process)
            for _ in missing:
                index, answer = reader.next_answer()
                answers[missing[index]] = answer
        finally:
            self._open -= {ours, theirs}
            ours.close()
            theirs.close()

    def _started(self) -> _Server:
        with self._lock:
            if self._server is None:
                self._server = _Server()
            return self._server

    def _drop(self, server: _Server) -> None:
        with self._lock:
            if self._server is server:
                self._server = None
                server.process.kill()
                server.stop()

    def close(self) -> None:
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stop()

    def forget(self) -> None:
        """Let go, in a forked process, of what belongs to its parent (locks may be held)."""
        for end in self._open:
            end.close()
        if self._server is not None:
            self._server.forget()


class _Reader:
    """Reads the answers of one batch."""

    def __init__(self, end: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._end, self._process = end, process
        self._inbox = bytearray()
        self._heard = time.monotonic()

    def next_answer(self) -> tuple[int, _Answer]:
        """Return (index, answer). Raises RuntimeError for a function that cannot be called."""
        while True:
            status, index, size = FRAME.unpack(self._take(FRAME.size))
            body = self._take(size)
            if status == ERROR:
                text = body.decode()
                if "Traceback" not in text:
                    raise WorkersUnavailable(text)
                raise RuntimeError(f"the function cannot be called by the workers:\n{text}")
            if status != KEEP_ALIVE:
                return index, (status, body)

    def _take(self, size: int) -> bytes:
        while len(self._inbox) < size:
            try:
                part = self._end.recv(1 << 18)
            except TimeoutError:
                silent = time.monotonic() - self._heard > _SILENCE_S
                if silent or self._process.poll() is not None:
                    raise _ServerLost from None
                continue
            except OSError as error:
                raise _ServerLost from error
            if not part:
                raise _ServerLost
            self._heard = time.monotonic()
            self._inbox += part
        taken = bytes(self._inbox[:size])
        del self._inbox[:size]
        return taken


def _environment() -> dict[str, str]:
    """Return what the server gets of this environment: how to run Python, and no secrets."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        # With gmpy2 sympy hangs where it would give up without, so verdicts differ by machine.
        "SYMPY_GROUND_TYPES": "python",
        "MPMATH_NOGMPY": "1",
    }


def _anonymous_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("r1pipe-reward-workers"), "w+b")


_pools: list[_Pool] = []


def _pool() -> _Pool:
    """Return the pool of this process."""
    if not _pools or _pools[-1].pid != os.getpid():
        with _pools_lock:
            if not _pools or _pools[-1].pid != os.getpid():
                _pools[:] = [_Pool()]
    return _pools[-1]


_pools_lock = threading.Lock()


def _after_fork() -> None:
    global _pools_lock
    _pools_lock = threading.Lock()
    for pool in _pools:
        pool.forget()
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
