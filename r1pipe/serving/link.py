"""Frames between the watching process and the engine's: a JSON head and some bodies, in order."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

HEAD = struct.Struct("<II")
LENGTH = struct.Struct("<Q")


class LinkClosed(Exception):
    """The other end is gone."""


class Link:
    """One end of a pair of sockets; several threads may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, head: dict[str, Any], bodies: list[bytes] | None = None) -> None:
        bodies = bodies or []
        text = json.dumps(head).encode()
        lengths = b"".join(LENGTH.pack(len(body)) for body in bodies)
        try:
            with self._sending:
                self._end.sendall(HEAD.pack(len(text), len(bodies)) + text + lengths)
                for body in bodies:
                    self._end.sendall(body)
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        size, count = HEAD.unpack(self._exactly(HEAD.size))
        head = json.loads(self._exactly(size))
        lengths = [LENGTH.unpack(self._exactly(LENGTH.size))[0] for _ in range(count)]
        return head, [bytes(self._exactly(length)) for length in lengths]

    def close(self) -> None:
        self._end.close()

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while len(view):
            try:
                count = self._end.recv_into(view)
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if not count:
                raise LinkClosed("the other end has closed")
            view = view[count:]
        return data
