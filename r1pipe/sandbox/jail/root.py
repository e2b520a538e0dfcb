"""The file system a program sees: read-only binds on a tmpfs, and one small private tmpfs."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from . import kernel

WORK = "/sandbox"
WRITABLE = [WORK, "/tmp", "/dev/shm"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
_OLD = "/.old"
_PRIVATE = "/.private"
# What the dynamic loader reads; nothing else of /etc is needed.
_ETC = ["/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"]
_TOP = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]
_PASSWD = "sandbox:x:{uid}:{gid}:sandbox:/sandbox:/bin/sh\n"
_GROUP = "sandbox:x:{gid}:\n"
# The first bits of mount attributes and of mount flags are the same.
_READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV


def build(visible: list[tuple[str, str | None]], private_options: str, uid: int, gid: int) -> None:
    """Replace the root of this (new) mount namespace.

    `visible` holds pairs of a path inside and the resolved path outside; without the latter the
    path is hidden under an empty directory.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    staging = "/tmp" if os.path.isdir("/tmp") else "/usr"
    # nosuid only: /dev is bound below this mount, and binds keep their own flags
    kernel.mount("tmpfs", staging, "tmpfs", kernel.MS_NOSUID, "size=1m,nr_inodes=2000,mode=755")
    os.mkdir(staging + _OLD)
    os.chdir(staging)
    kernel.pivot_root(".", staging + _OLD)
    os.chdir("/")
    _bind_visible(visible)
    _make_etc(uid, gid)
    _make_dev()
    _make_private(private_options)
    _make_proc()
    kernel.umount(_OLD)
    os.rmdir(_OLD)
    # Also keeps the device nodes' mount points from being replaced.
    kernel.mount(
        "none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
    )


def _bind(source: str, target: str, attributes: int) -> None:
    """Bind an outside path (a directory, file or device) with all that is mounted under it."""
    outside = _OLD + source
    if os.path.isdir(outside):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(outside, target, None, kernel.MS_BIND | kernel.MS_REC)
    try:
        kernel.restrict_mounts(target, attributes)
    except OSError as problem:
        if problem.errno != errno.ENOSYS:
            raise
        _restrict_one_by_one(target, attributes)


def _restrict_one_by_one(target: str, attributes: int) -> None:
    """Do what mount_setattr does for a tree, for kernels before 5.12."""
    with open(_OLD + "/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    names = {b"nosuid": 2, b"nodev": 4, b"noexec": 8}
    top = os.fsencode(target)
    for fields in lines:
        point = fields[4].replace(b"\\040", b" ").replace(b"\\134", b"\\")
        if point == top or point.startswith(top + b"/"):
            # In a user namespace flags that are set already are locked: keep them.
            flags = sum(bit for name, bit in names.items() if name in fields[5].split(b","))
            flags |= kernel.MS_REMOUNT | kernel.MS_BIND | attributes
            kernel.mount("none", os.fsdecode(point), None, flags)


def _bind_visible(visible: list[tuple[str, str | None]]) -> None:
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    hidden = []
    for inside, outside in visible:
        if outside is not None:
            _bind(outside, inside, _READ_ONLY)
        elif os.path.isdir(inside):
            kernel.mount("tmpfs", inside, "tmpfs", flags, "size=64k,nr_inodes=100,mode=755")
            hidden.append(inside)
    for path in hidden:
        kernel.mount("none", path, None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)
    for path in _TOP:
        try:
            mode = os.lstat(_OLD + path).st_mode
        except FileNotFoundError:
            continue
        if os.path.lexists(path):
            continue
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(_OLD + path), path)
        else:
            _bind(path, path, _READ_ONLY)


def _make_etc(uid: int, gid: int) -> None:
    os.makedirs("/etc", mode=0o755, exist_ok=True)
    for path in _ETC:
        if os.path.exists(_OLD + path) and not os.path.islink(_OLD + path):
            _bind(path, path, _READ_ONLY)
    for name, text in (("passwd", _PASSWD), ("group", _GROUP)):
        with open(f"/etc/{name}", "w", encoding="ascii") as file:
            file.write(text.format(uid=uid, gid=gid))


def _make_dev() -> None:
    os.mkdir("/dev", 0o755)
    for path in DEVICES:
        _bind(path, path, kernel.MOUNT_ATTR_NOSUID)
    os.symlink("/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")


def _make_private(options: str) -> None:
    """Mount the one writable tmpfs, so that its size bounds all writable places together."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    os.mkdir(_PRIVATE)
    kernel.mount("tmpfs", _PRIVATE, "tmpfs", flags, options)
    for target in WRITABLE:
        part = f"{_PRIVATE}/{os.path.basename(target)}"
        os.mkdir(part)
        os.chmod(part, 0o700 if target == WORK else 0o1777)
        os.makedirs(target, mode=0o755, exist_ok=True)
        kernel.mount(part, target, None, kernel.MS_BIND)
    kernel.umount(_PRIVATE)
    os.rmdir(_PRIVATE)


def _make_proc() -> None:
    """Mount a /proc that shows this PID namespace only; without one the directory stays empty.

    A container that masks parts of its own /proc is not allowed a new one.
    """
    os.mkdir("/proc", 0o555)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_RDONLY
    # A kernel or container that refuses leaves the directory empty: Python does not need it.
    with suppress(OSError):
        # Linux 5.8: processes that may be traced only (not process 1), and no kernel files
        kernel.mount("proc", "/proc", "proc", flags, "hidepid=ptraceable,subset=pid")
