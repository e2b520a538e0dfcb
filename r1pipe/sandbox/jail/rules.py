"""Landlock: what may be read and written, said a second time, apart from the mounts."""

from __future__ import annotations

import ctypes
import os
import struct

from . import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_NET_ALL = 3
_SCOPE_ALL = 3


def version() -> int:
    """Return the Landlock ABI of the running kernel, 0 when it has none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def _handled(abi: int) -> int:
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    return (1 << bits) - 1


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            access &= _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, fd), 12)
        kernel.syscall("landlock_add_rule", ruleset, 1, rule, 0)
    finally:
        os.close(fd)


def restrict(abi: int, writable: list[str], devices: list[str]) -> None:
    """Confine this process: the root is readable, only `writable` and `devices` are writable.

    From ABI 4 on no TCP, from ABI 6 on no abstract sockets and no signals to the outside.
    """
    handled = _handled(abi)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", _NET_ALL)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPE_ALL)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = kernel.syscall("landlock_create_ruleset", buffer, len(attributes), 0)
    try:
        _allow(ruleset, "/", _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled & ~_IOCTL_DEV)
        for path in devices:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
        kernel.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
