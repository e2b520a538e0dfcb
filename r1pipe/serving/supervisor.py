"""Keeps the engine's process alive: gives it work, listens for signs of life, starts it again."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from r1pipe.errors import EXIT_FAILED_STAGE
from r1pipe.launch import QUIET, die_with_parent
from r1pipe.serving.desk import Desk, Work
from r1pipe.serving.link import Link, LinkClosed
from r1pipe.serving.protocol import Refusal
from r1pipe.serving.spool import Spool

ENGINE = "r1pipe.rollout.remote.engine_process"
BEATS = 1.0
"""Seconds between two signs of life."""
MOST_FAILURES = 5
"""Ends of an engine in a row, with nothing finished in between, after which it is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
GRACE = 10.0
"""Seconds an engine gets to end by itself."""
LOOK = 0.2
"""Seconds between two looks at who is silent."""


@dataclass(frozen=True)
class Patience:
    """Seconds after which an engine is taken for hung."""

    silent: float
    """Without a sign of life from the process."""
    stalled: float
    """At work, without another completion."""


@dataclass
class Process:
    """One process of the engine; it has several where it spreads over GPUs."""

    rank: int
    popen: subprocess.Popen[bytes]
    link: Link
    heard: float


class GaveUp(Exception):
    """The engine cannot be kept alive; `exit_code` as of the stage that would have run it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """Runs in the main thread: the kernel ends engines with the thread that started them."""

    def __init__(
        self, desk: Desk, spool: Spool, settings: dict[str, Any], parts: int, patience: Patience
    ) -> None:
        """`settings` is what the engine is made of, as JSON; `parts` how many processes it has."""
        self._desk, self._spool, self._settings = desk, spool, settings
        self._parts, self._patience = parts, patience
        self._processes: list[Process] = []
        self._up = 0
        self._running: Work | None = None
        self._answers: dict[int, tuple[dict[str, Any], list[bytes]]] = {}
        self._moved = 0.0
        self._failures, self._was_up, self._stopping = 0, False, False
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        desk.cancel, desk.wake = self.cancel, self.wake

    def run(self) -> None:
        """Serve until `stop` is called; raises GaveUp."""
        while not self._stopping:
            self._start()
            reason = self._serve()
            if self._stopping:
                return
            self._kill()
            self._failures += 1
            self._spool.forget()
            self._desk.engine_down(reason)
            if self._failures >= MOST_FAILURES:
                raise GaveUp(f"{reason}, {self._failures} times in a row", EXIT_FAILED_STAGE)
            say(f"{reason}; starting it again")
            self._pause(min(LONGEST_PAUSE, FIRST_PAUSE * 4 ** (self._failures - 1)))

    def stop(self) -> None:
        """Let `run` return; a signal handler may call this, which may not raise: exceptions are
        lost where Python itself forks."""
        self._stopping = True
        self.wake()

    def close(self) -> None:
        """End the engine, gently first."""
        for process in self._processes:
            with suppress(LinkClosed):
                process.link.send({"do": "stop"})
        until = time.monotonic() + GRACE
        with suppress(subprocess.TimeoutExpired):
            for process in self._processes:
                process.popen.wait(max(0.0, until - time.monotonic()))
        self._kill()

    def cancel(self) -> None:
        """Let the engine drop what it writes; other threads call this."""
        for process in list(self._processes):
            with suppress(LinkClosed):
                process.link.send({"do": "cancel"})

    def wake(self) -> None:
        """Look for work now; other threads call this."""
        with suppress(OSError):  # full: it is awake
            self._ring.send(b".")

    def _start(self) -> None:
        self._up, self._running, self._answers = 0, None, {}
        port = _free_port() if self._parts > 1 else 0
        for rank in range(self._parts):
            ours, theirs = socket.socketpair()
            spread = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self._parts),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            popen = subprocess.Popen(
                [sys.executable, "-m", ENGINE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**QUIET, **os.environ, **(spread if self._parts > 1 else {})},
                pass_fds=(theirs.fileno(),),
                preexec_fn=partial(die_with_parent, os.getpid()),
                start_new_session=True,
            )
            theirs.close()
            ours.settimeout(self._patience.silent)  # an engine that stops in mid-frame is hung too
            process = Process(rank, popen, Link(ours), time.monotonic())
            self._processes.append(process)
            process.link.send({"do": "make", "beats": BEATS, **self._settings})

    def _serve(self) -> str:
        """Give work and take results until an engine ends or hangs; returns what happened."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            for process in self._processes:
                selector.register(process.link, selectors.EVENT_READ, process)
            process = self._processes[0]
            while True:
                try:
                    if self._stopping:
                        return "it was asked to"
                    self._give_work()
                    for key, _ in selector.select(LOOK):
                        if key.data is None:
                            self._bell.recv(1 << 12)
                            continue
                        process = key.data
                        self._hear(process, *process.link.receive())
                except LinkClosed:
                    return self._ending(process)
                if hung := self._hung():
                    return hung

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(min(LOOK, seconds))

    def _give_work(self) -> None:
        if self._running is not None or self._up < self._parts:
            return
        self._running = self._desk.begin()
        if self._running is None:
            return
        self._moved, self._answers = time.monotonic(), {}
        work = self._running
        for process in self._processes:
            bodies = [part.body for part in work.parts] if work.do != "load" else []
            process.link.send({"do": work.do, **work.head}, bodies)

    def _hear(self, process: Process, head: dict[str, Any], bodies: list[bytes]) -> None:
        process.heard = time.monotonic()
        what = head["is"]
        if what == "up":
            self._up += 1
            if process.rank == 0:
                self._info = head["info"]
            if self._up == self._parts:
                self._was_up = True
                self._desk.engine_up(self._info)
        elif what == "not up":
            if not self._was_up:
                raise GaveUp(head["message"], head["exit_code"])
            say(head["message"])
        elif what == "progress":
            if process.rank == 0 and self._desk.progress(head["done"]):
                self._moved = process.heard
        elif what in ("result", "refused"):
            self._answers[process.rank] = (head, bodies)
            if len(self._answers) == self._parts:
                self._finish(*self._answers[0])

    def _finish(self, head: dict[str, Any], bodies: list[bytes]) -> None:
        work, self._running = self._running, None
        if work is not None and work.do == "load":
            self._spool.forget()  # before the client hears of it, and sends the next ones
        if head["is"] == "refused":
            self._desk.fail(Refusal(head["status"], head["error"], head["message"]))
        else:
            self._failures = 0
            self._desk.finish(bodies)

    def _ending(self, process: Process) -> str:
        try:
            code = process.popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "the engine's process does not answer any more"
        if code < 0:
            return f"the engine's process was ended by {signal.Signals(-code).name}"
        return f"the engine's process ended with exit code {code}"

    def _hung(self) -> str | None:
        now, patience = time.monotonic(), self._patience
        for process in self._processes:
            if now - process.heard > patience.silent:
                return f"the engine's process gave no sign of life for {patience.silent:g} s"
        if self._running is not None and now - self._moved > patience.stalled:
            return f"the engine finished nothing for {patience.stalled:g} s"
        return None

    def _kill(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.popen.pid, signal.SIGKILL)
        for process in self._processes:
            process.popen.wait()
            process.link.close()
        self._processes.clear()


def say(text: str) -> None:
    print(f"serve: {text}", file=sys.stderr, flush=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
