"""Linux calls that Python 3.11 does not offer, through ctypes; every failure is an OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
ALL_BUT_USER = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
# keep-caps off, no set-uid fixup, root is nobody special, no ambient set: all locked
SECUREBITS = 0xEF

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

_MACHINE = os.uname().machine
# name: (x86_64, aarch64); numbers from 424 on are the same everywhere
_NUMBERS = {
    "clone": (56, 220),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "close_range": (436, 436),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "capset": (126, 91),
}
# PyDLL keeps the interpreter lock: the child of a raw clone must come back holding it.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def supported_machine() -> bool:
    """Whether the system call numbers of this machine are known (x86_64, aarch64)."""
    return _MACHINE in ("x86_64", "aarch64") and struct.calcsize("P") == 8


def _number(name: str) -> int:
    return _NUMBERS[name][0 if _MACHINE == "x86_64" else 1]


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)


def syscall(name: str, *arguments: int | bytes | ctypes.Array | None) -> int:
    """Make the named system call."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc.syscall(ctypes.c_long(_number(name)), *passed)
    if result < 0:
        _raise(name)
    return result


def prctl(option: int, *arguments: int) -> int:
    """Make a prctl call with up to four more arguments; the rest are zero."""
    rest = [ctypes.c_ulong(a) for a in arguments]
    rest += [ctypes.c_ulong(0)] * (4 - len(rest))
    result = _libc.prctl(option, *rest)
    if result < 0:
        _raise(f"prctl {option}")
    return result


def clone(flags: int) -> int:
    """Fork into new namespaces: the pid in the parent, 0 in the child.

    Python's fork hooks do not run, so the caller has to be single-threaded.
    """
    return syscall("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        _raise("unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount, bind or remount."""
    if (
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        )
        < 0
    ):
        _raise(f"mount {kind or 'bind'} on {target}")


def umount(target: str) -> None:
    """Detach a mount lazily."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) < 0:
        _raise(f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root and put the old root at `old`."""
    syscall("pivot_root", os.fsencode(new), os.fsencode(old))


def restrict_mounts(target: str, attributes: int) -> None:
    """Set mount attributes on a whole mounted tree (Linux 5.12); OSError ENOSYS before that."""
    attr = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    syscall("mount_setattr", AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attr, 32)


def set_hostname(name: str) -> None:
    """Set the host name of this UTS namespace."""
    raw = name.encode()
    if _libc.sethostname(raw, ctypes.c_size_t(len(raw))) < 0:
        _raise("sethostname")


def drop_bounding_set() -> None:
    """Make sure that no program started from here can gain a capability."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as problem:
            if problem.errno != errno.EINVAL:  # the first number the kernel does not know
                raise
            return


def drop_capabilities() -> None:
    """Empty the capability sets of this process."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    syscall("capset", header, ctypes.create_string_buffer(24))


def close_on_exec(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec."""
    try:
        syscall("close_range", first, 0x7FFFFFFF, 4)
    except OSError:
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.set_inheritable(int(name), False)
                except OSError:
                    continue


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor that is not in `kept`."""
    start = 0
    for fd in [*sorted(kept), 1 << 20]:
        if fd > start:
            os.closerange(start, fd)
        start = fd + 1
