"""One end of a socket that never blocks: bytes are kept until the other side takes them."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

REQUEST = struct.Struct("!I")
"""Before a batch: bytes of its JSON header, after which the arguments of its calls follow."""
FRAME = struct.Struct("!cII")
"""Before an answer: status, index of the call, bytes of the JSON that follows."""
TIMED_OUT, KEEP_ALIVE, ERROR = b"T", b"K", b"E"
TICK_S = 0.5
"""How often the server gives a sign of life, and looks whether its parent lives."""
_CHUNK = 1 << 18


def to_bytes(value: Any) -> bytes:
    """Return `value` as JSON in which every string survives, lone surrogates too."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def from_bytes(data: bytes) -> Any:
    """Return what `to_bytes` was given (a tuple as a list)."""
    return json.loads(data.decode("utf-8", "surrogatepass"))


class Channel:
    """A non-blocking stream socket with what was read and what is still to be written."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self.inbox, self._outbox = bytearray(), bytearray()

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._outbox)

    def send(self, data: bytes) -> bool:
        """Send `data` now or later. False where the other side is gone."""
        self._outbox += data
        return self.flush()

    def flush(self) -> bool:
        """Send what is due. False where the other side is gone."""
        try:
            while self._outbox:
                sent = self.socket.send(self._outbox, socket.MSG_NOSIGNAL)
                del self._outbox[:sent]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def receive(self) -> bool:
        """Read what is there into `inbox`. False where the other side is gone."""
        try:
            part = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.inbox += part
        return bool(part)

    def take(self, size: int) -> bytes:
        """Remove and return the first `size` bytes of the inbox."""
        taken = bytes(self.inbox[:size])
        del self.inbox[:size]
        return taken

    def close(self) -> None:
        self.socket.close()
