"""What the server knows between requests: its engine, who holds it, and the work that is due."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from r1pipe.serving.identity import check_client
from r1pipe.serving.protocol import (
    BAD_REQUEST,
    BUSY,
    LEASE_SECONDS,
    NO_SESSION,
    OTHER_WEIGHTS,
    RESTARTED,
    START,
    STARTING,
    Group,
    Refusal,
)

MOST_WAITING = 1 << 30
"""Bytes of prompts that may wait, and of results that may be kept."""
KEPT_SECONDS = 600.0
"""How long a result waits for its client."""

Clock = Callable[[], float]


@dataclass
class Session:
    """A client that has the server for itself until it leaves or is not heard of."""

    name: str
    owner: str
    seen: float


@dataclass
class Part:
    """One request, known to its client by `name`."""

    name: str
    session: str
    body: bytes
    weights: str
    """What it is written with, and nothing else."""
    result: bytes | None = None
    refusal: Refusal | None = None
    finished: float | None = None


@dataclass
class Work:
    """What the engine does in one go: a request, or the parts of a group."""

    do: Literal["write", "score", "load"]
    weights: str
    parts: list[Part]
    head: dict[str, Any] = field(default_factory=dict)
    done: int = 0


class Desk:
    """Shared by the threads that answer requests and the one that watches the engine."""

    def __init__(self, lease: float = LEASE_SECONDS, clock: Clock = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._lease, self._clock = lease, clock
        self.info: dict[str, Any] | None = None
        self.ready = False
        self.reason = "the engine is starting"
        self.restarts = 0
        self.weights = START
        self._session: Session | None = None
        self._parts: dict[str, Part] = {}
        self._gathering: dict[str, dict[int, Part]] = {}
        self._due: deque[Work] = deque()
        self._running: Work | None = None
        self.cancel: Callable[[], None] = lambda: None
        """Called when nobody wants what the engine is writing."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is work."""

    # -- for clients ---------------------------------------------------------------------------

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Give the server to a client, or raise Refusal with the reason."""
        with self._changed:
            if not self.ready or self.info is None:
                raise Refusal(503, STARTING, self.reason)
            check_client(self.info, asked)
            owner = str(asked.get("owner", ""))[:400]
            if (held := self._session) is not None and held.owner != owner:
                left = self._lease - (self._clock() - held.seen)
                if left > 0:
                    what = f"it is held by {held.owner}"
                    raise Refusal(409, BUSY, what, {"free_in": round(left, 1)})
            self._drop_session()
            self._session = Session(uuid4().hex, owner, self._clock())
            return {"session": self._session.name, "lease": self._lease, **self.described()}

    def touch(self, session: str | None) -> None:
        """Note that a client lives; raises Refusal when the server is not its."""
        with self._changed:
            self._touch(session)

    def leave(self, session: str | None) -> None:
        with self._changed:
            if self._session is not None and self._session.name == session:
                self._drop_session()

    def submit(
        self,
        session: str | None,
        name: str,
        do: str,
        weights: str,
        group: Group | None,
        body: bytes,
    ) -> None:
        """Take in a request; the same name again is the same request."""
        with self._changed:
            owner = self._touch(session)
            if name in self._parts:
                return
            if do not in ("write", "score"):
                raise Refusal(400, BAD_REQUEST, f"nothing is called {do[:40]!r}")
            self._current(weights)
            self._clean()
            held = sum(len(p.body) + len(p.result or b"") for p in self._parts.values())
            if held + len(body) > MOST_WAITING:
                raise Refusal(503, BUSY, f"{held} bytes are waiting already")
            part = Part(name, owner, body, weights)
            if group is None:
                self._due.append(Work(do, weights, [part]))
            else:
                self._gather(do, weights, group, part)
            self._parts[name] = part
        self.wake()

    def submit_load(self, session: str | None, name: str, weights: str, paths: list[str]) -> None:
        """Let the engine take a whole set of weights; until then it serves the ones it has."""
        with self._changed:
            part = Part(name, self._touch(session), b"", weights)
            if not self.ready:
                raise Refusal(409, RESTARTED, self.reason)
            self._parts[name] = part
            self._due.append(Work("load", weights, [part], {"paths": paths}))
        self.wake()

    def wait(self, session: str | None, name: str, seconds: float) -> bytes | dict[str, Any]:
        """Return a request's result, {done} where it is not there in time; raises its Refusal."""
        until = self._clock() + seconds
        with self._changed:
            while True:
                self._touch(session)
                part = self._parts.get(name)
                if part is None:
                    raise Refusal(409, RESTARTED, "the server knows no such request (any more)")
                if part.refusal is not None:
                    del self._parts[name]
                    raise part.refusal
                if part.result is not None:
                    return part.result
                left = until - self._clock()
                if left <= 0:
                    work = self._running
                    done = work.done if work is not None and part in work.parts else 0
                    return {"done": done}
                self._changed.wait(min(left, 1.0))

    def written_with(self, name: str) -> str:
        """Return which weights a request was met with; nothing of one that is unknown."""
        with self._changed:
            part = self._parts.get(name)
            return part.weights if part is not None and part.finished is not None else ""

    def release(self, name: str) -> None:
        """Forget a result that has arrived."""
        with self._changed:
            part = self._parts.get(name)
            if part is not None and part.finished is not None:
                del self._parts[name]

    def described(self) -> dict[str, Any]:
        """Return what a client may know; identities of model and vocabulary are not among it."""
        info = {k: v for k, v in (self.info or {}).items() if k != "identity"}
        state = "ready" if self.ready else "starting"
        if self.ready and self._running is not None:
            state = "updating" if self._running.do == "load" else "writing"
        held = self._session.owner if self._session is not None else None
        return {
            "state": state,
            "weights": self.weights,
            "restarts": self.restarts,
            "held_by": held,
            **({} if self.ready else {"reason": self.reason}),
            **info,
        }

    # -- for the watcher of the engine -----------------------------------------------------------

    def begin(self) -> Work | None:
        """Return the next work, which is then running; None when there is none."""
        with self._changed:
            self._clean()
            while self.ready and self._running is None and self._due:
                work = self._due.popleft()
                if work.do != "load" and work.weights != self.weights:
                    self._refuse(work, self._other_weights())
                    continue
                self._running = work
                return work
            return None

    def progress(self, done: int) -> bool:
        """Note how many completions are written; returns whether they are more than before."""
        with self._changed:
            work = self._running
            if work is None or done <= work.done:
                return False
            work.done = done
            return True

    def finish(self, results: list[bytes]) -> None:
        with self._changed:
            work, self._running = self._running, None
            if work is None:
                return
            if work.do == "load":
                self.weights = work.weights
            for part, result in zip(work.parts, results, strict=True):
                part.result, part.body, part.finished = result, b"", self._clock()
            self._changed.notify_all()

    def fail(self, refusal: Refusal) -> None:
        """The engine refused what is running, and goes on."""
        with self._changed:
            work, self._running = self._running, None
            if work is not None:
                self._refuse(work, refusal)

    def engine_up(self, info: dict[str, Any]) -> None:
        with self._changed:
            self.info, self.ready, self.weights = info, True, START
            self._changed.notify_all()

    def engine_down(self, reason: str) -> None:
        """Whatever was asked is to be asked again, of an engine that has its first weights."""
        with self._changed:
            lost, self._running = self._running, None
            self.ready, self.reason, self.weights = False, reason, START
            self.restarts += 1
            waiting = [part for parts in self._gathering.values() for part in parts.values()]
            due = [part for work in self._due for part in work.parts]
            for part in [*(lost.parts if lost else []), *due, *waiting]:
                part.refusal, part.body = Refusal(409, RESTARTED, reason), b""
                part.finished = self._clock()
            self._due.clear()
            self._gathering.clear()
            self._changed.notify_all()

    # -- inside ----------------------------------------------------------------------------------

    def _touch(self, session: str | None) -> str:
        if self._session is None or self._session.name != session:
            raise Refusal(409, NO_SESSION, "the server is not held by this client (any more)")
        self._session.seen = self._clock()
        return self._session.name

    def _current(self, weights: str) -> None:
        if not self.ready:
            raise Refusal(503, STARTING, self.reason)
        if weights != self.weights:
            raise self._other_weights()

    def _other_weights(self) -> Refusal:
        what = f"the engine holds other weights (`{self.weights}`)"
        return Refusal(409, OTHER_WEIGHTS, what, {"have": self.weights})

    def _gather(self, do: Any, weights: str, group: Group, part: Part) -> None:
        key = f"{do} {weights} {group.name} {group.parts}"
        there = self._gathering.setdefault(key, {})
        if group.part in there:
            raise Refusal(400, BAD_REQUEST, f"part {group.part} of `{group.name}` came twice")
        there[group.part] = part
        if len(there) == group.parts:
            del self._gathering[key]
            self._due.append(Work(do, weights, [there[number] for number in range(group.parts)]))

    def _refuse(self, work: Work, refusal: Refusal) -> None:
        for part in work.parts:
            part.refusal, part.body, part.finished = refusal, b"", self._clock()
        self._changed.notify_all()

    def _drop_session(self) -> None:
        wanted = self._running is not None
        self._session = None
        self._parts.clear()
        self._gathering.clear()
        self._due.clear()
        if wanted:
            self.cancel()

    def _clean(self) -> None:
        limit = self._clock() - KEPT_SECONDS
        for name in [n for n, p in self._parts.items() if p.finished and p.finished < limit]:
            del self._parts[name]
