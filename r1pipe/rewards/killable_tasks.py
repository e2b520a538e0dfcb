"""What the server of the killable pool keeps account of: batches, calls, and their workers."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from r1pipe.rewards.killable_channel import FRAME, REQUEST, TICK_S, Channel, from_bytes
from r1pipe.rewards.killable_worker import ANSWER, CALL

QUANTUM_S = 0.1
"""A call runs this long before another may take its core; nearly all are done by then."""
WALL_FACTOR = 5
"""A call ends after this many times its limit of running time, however busy the machine is."""
PATIENCE, PATIENCE_CALLS = 7, 1024
"""A batch of up to 1,024 calls that slow ones keep for 7 limits is late, a larger one later."""
GUARANTEED, GUARANTEED_IDLE = 0.1, 0.3
"""Shares of its limit that a call gets in a late batch, of a core and of time in which it has none:
64 that hang then end within 10 limits, and one that the machine holds up for a moment does not."""


class Batch(Channel):
    """The calls that one `run_all` asked for, and the socket on which it hears of them."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self.function, self.warm_up, self.timeout = "", "", 1.0
        self.queued: deque[Task] = deque()
        self.count = 0
        self.started = time.monotonic()
        self.next_sign = self.started + TICK_S
        self.slow_seconds = 0.0
        self._header: int | None = None
        self._sizes: list[int] | None = None

    def parse(self) -> bool:
        """True once the whole request is there; then its calls are queued."""
        if self._sizes is not None and self.count:
            return False
        if self._header is None and len(self.inbox) >= REQUEST.size:
            (self._header,) = REQUEST.unpack(self.take(REQUEST.size))
        if self._sizes is None and self._header is not None and len(self.inbox) >= self._header:
            head = from_bytes(self.take(self._header))
            self.function, self.warm_up = head["function"], head["warm_up"]
            self.timeout, self._sizes = head["timeout"], head["sizes"]
        if self._sizes is None or len(self.inbox) < sum(self._sizes):
            return False
        for index, size in enumerate(self._sizes):
            self.queued.append(Task(self, index, self.take(size)))
        self.count = len(self._sizes)
        self.started = time.monotonic()
        return True

    def send(self, status: bytes, index: int = 0, body: bytes = b"") -> bool:  # pyright: ignore
        """Send one answer, or a sign of life."""
        return super().send(FRAME.pack(status, index, len(body)) + body)


@dataclass(eq=False)
class Task:
    """One call; `worked`, `used`, `ran` are seconds: of work charged to it, of a core, of not being
    stopped."""

    batch: Batch
    index: int
    arguments: bytes
    worked: float = 0.0
    used: float = 0.0
    ran: float = 0.0
    deaths: int = 0

    def add(self, seconds: float, used: float, waited: float) -> None:
        """Count `seconds` more; `used`, `waited`: how long it has had and awaited a core so far."""
        if self.ran > 0:  # what comes after the first quantum is slow
            self.batch.slow_seconds += seconds
        self.ran += seconds
        self.worked, self.used = max(0.0, self.ran - waited), used

    def is_spent(self, now: float, cores: int) -> bool:
        """True where the call has had its limit, or its share of a batch that is late."""
        batch = self.batch
        limit = batch.timeout
        if self.worked >= limit or self.ran >= WALL_FACTOR * limit:
            return True
        patience = PATIENCE * limit * max(1.0, batch.count / PATIENCE_CALLS)
        spendable = (4 if batch.queued else 2) * limit * cores  # no haste before all have begun
        late = now - batch.started >= patience and batch.slow_seconds >= spendable
        return late and (self.used >= GUARANTEED * limit or self.worked >= GUARANTEED_IDLE * limit)


class Worker(Channel):
    """A process that runs one call at a time."""

    def __init__(self, end: socket.socket, pid: int, generation: int) -> None:
        super().__init__(end)
        self.pid, self.generation = pid, generation
        self.task: Task | None = None
        self.check_at = 0.0
        self._since = 0.0  # when it last began
        self._used = self._waited = 0.0  # what it had used and waited before the call

    def begin(self, task: Task) -> None:
        self.task = task
        task.worked = task.used = task.ran = 0.0
        self._used, self._waited = seconds_scheduled(self.pid)
        function = task.batch.function.encode()
        self.go_on(time.monotonic())
        self.send(CALL.pack(len(function), len(task.arguments)) + function + task.arguments)

    def go_on(self, now: float) -> None:
        """Count from now on what the call takes."""
        self._since = now
        self._set_check(now)

    def charge(self, now: float) -> None:
        """Add the time since the last count to the call; what it waited for a core is no work."""
        if self.task is not None:
            used, waited = seconds_scheduled(self.pid)
            self.task.add(now - self._since, used - self._used, waited - self._waited)
        self.go_on(now)

    def had(self) -> float:
        return self.task.worked if self.task is not None else 0.0

    def parse(self) -> tuple[bytes, bool, bytes] | None:
        """Return (status, worn, JSON) once an answer is complete."""
        if len(self.inbox) < ANSWER.size:
            return None
        status, worn, size = ANSWER.unpack_from(self.inbox)
        if len(self.inbox) < ANSWER.size + size:
            return None
        self.take(ANSWER.size)
        return status, bool(worn), self.take(size)

    def _set_check(self, now: float) -> None:
        left = self.task.batch.timeout - self.task.worked if self.task is not None else QUANTUM_S
        self.check_at = now + min(QUANTUM_S, max(0.002, left))


def seconds_scheduled(pid: int) -> tuple[float, float]:
    """Return how long a process had a core, and how long it was ready while others had it; 0 where
    that is not known."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            used, waited, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0.0, 0.0
    return used / 1e9, waited / 1e9


def private_bytes(pid: int) -> int:
    """Return what a process holds in memory beside files; a fork's includes what it shares."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def memory_limit() -> int:
    """Return how much all workers may hold together: a quarter of the machine or its cgroup."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(Path("/sys/fs/cgroup", name))
        if text.isdigit():
            limits.append(int(text))
    return max(1 << 29, min(limits) // 4)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
