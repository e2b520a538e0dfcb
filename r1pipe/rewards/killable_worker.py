"""A worker of the killable pool: takes one call after the other from its socket, within limits."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from r1pipe.rewards.killable_channel import from_bytes, to_bytes

CALL = struct.Struct("!HI")
"""Before a call: bytes of the function's name, bytes of its arguments (both follow)."""
ANSWER = struct.Struct("!cBI")
"""Before an answer: DONE or FAILED, 1 where this worker is worn, bytes of the JSON that follows."""
DONE, FAILED = b"D", b"F"

ADDRESS_SPACE_BYTES = 2 << 30
"""Of which the warm image itself takes about 0.1 GiB."""
ANSWER_BYTES = 16 << 20
_CALLS_PER_WORKER = 2000
_GROWTH_KB = 256 << 10
"""A worker is worn after this many calls or this much growth: caches and leaks stay bounded."""
_PR_SET_PDEATHSIG = 1
_SOCKET = 3


def serve(socket: int, server: int) -> NoReturn:
    """Answer calls from `socket` until it closes; never returns. `server`: the parent's pid."""
    try:
        _confine(socket, server)
        _answer_calls(_SOCKET)
    finally:  # whatever happens, a fork never runs on into its parent's code
        os._exit(0)


def _confine(socket: int, server: int) -> None:
    """Set limits, die with the server, and keep no file but the socket."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it died before the line above
        os._exit(1)
    for kind, most in ((resource.RLIMIT_AS, ADDRESS_SPACE_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    try:  # where memory runs out, the kernel takes this process and not the trainer
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass
    os.dup2(socket, _SOCKET)
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    os.closerange(_SOCKET + 1, max(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _answer_calls(socket: int) -> None:
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in range(1, _CALLS_PER_WORKER + 1):
        header = _read(socket, CALL.size)
        name_size, size = CALL.unpack(header)
        name, arguments = _read(socket, name_size).decode(), _read(socket, size)
        status, body, worn = _outcome(name, arguments)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base > _GROWTH_KB
        worn = worn or grown or count == _CALLS_PER_WORKER
        _write(socket, ANSWER.pack(status, worn, len(body)) + body)
        if worn:
            return


def _outcome(name: str, arguments: bytes) -> tuple[bytes, bytes, bool]:
    """Return DONE or FAILED, the value or [kind, message] as JSON, and whether to retire."""
    try:
        body = to_bytes(resolve(name)(*from_bytes(arguments)))
        if len(body) <= ANSWER_BYTES:
            return DONE, body, False
        error: BaseException = ValueError(f"the value takes more than {ANSWER_BYTES} bytes")
    except BaseException as raised:  # math-verify's TimeoutException is no Exception
        error = raised
    worn = not isinstance(error, ValueError)  # after the others the process may be in any state
    try:
        message = str(error)[:1000] or type(error).__name__
    except BaseException:
        message = ""
    return FAILED, to_bytes([type(error).__name__, message]), worn


def resolve(name: str) -> Callable[..., Any]:
    """Return the function called `module:function`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _read(socket: int, size: int) -> bytes:
    """Return exactly `size` bytes; ends the process where the socket closes."""
    parts = []
    while size:
        part = os.read(socket, min(size, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(socket: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(socket, view) :]
