"""This end of the channels to a program and to its tests: everything has a deadline and a cap."""

from __future__ import annotations

import os
import select
import socket
import time

from r1pipe.rewards.code.inside import wire

OUT_OF_TIME = "out of time"


class Ended(Exception):
    """The session cannot go on; says why the test it was at fails."""


class Channel:
    """This end of a channel to a program: everything has a deadline and a cap."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end, self.deadline = end, 0.0

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._end, event)
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise Ended(OUT_OF_TIME)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._end.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError:
                raise Ended("the program ended or closed its channel") from None

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._end.recv(min(size - len(parts), 1 << 20))
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            except OSError:
                part = b""
            if not part:
                raise Ended("the program ended or closed its channel")
            parts += part
            if time.monotonic() > self.deadline:
                raise Ended(OUT_OF_TIME)
        return bytes(parts)

    def answer(self, number: int, limit: int) -> tuple[bytes, bytes]:
        """Return kind and content of the answer to question `number`."""
        size, kind, answered = wire.HEAD.unpack(self._exactly(wire.HEAD.size))
        if kind not in (wire.REPLY, wire.RAISED) or answered != number:
            raise Ended("garbage on the channel")
        if size > limit:
            raise Ended("a value much larger than the expected one")
        return kind, self._exactly(size)

    def is_quiet(self) -> bool:
        """Return whether nothing came that was not asked for."""
        try:
            return not self._end.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return True


class Verdicts:
    """Reads verdicts of the tests' side, each up to a deadline."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor, self._buffer = descriptor, b""

    def next(self, deadline: float) -> tuple[str, bool]:
        size, _, broken = wire.HEAD.unpack(self._exactly(wire.HEAD.size, deadline))
        return self._exactly(size, deadline).decode("utf-8", "replace"), bool(broken)

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._buffer) < size:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise Ended(OUT_OF_TIME)
            part = os.read(self._descriptor, 1 << 16)
            if not part:
                raise Ended("the tests ended before their verdict")
            self._buffer += part
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
