"""Weights on their way to the engine: a private folder in memory, filled shard by shard."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from r1pipe.serving.protocol import (
    BAD_REQUEST,
    MOST_RANGE,
    MOST_SHARDS,
    NAME,
    RESTARTED,
    Refusal,
)

MEMORY = Path("/dev/shm")
STEM = "r1pipe-serve-"
WITNESS, LOCK = "witness", "lock"
"""A file that a client on the same machine can read, and one that a living server holds."""
COPY = 1 << 20


def shard_name(number: int) -> str:
    return f"{number:05d}.safetensors"


@dataclass
class Upload:
    """One set of weights that is not yet whole."""

    folder: Path
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes received of each shard that came over the wire."""


class Spool:
    """A folder of this server's own, mode 0700; what is in it is deleted with it.

    A client on the same machine and of the same user writes shards there itself. It never names a
    path: the server makes the names, and takes only plain files of its own user.
    """

    def __init__(self, parent: Path | None = None) -> None:
        place = parent or (MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None)
        self._place = place or Path(tempfile.gettempdir())
        remove_left_behind(self._place)
        self.folder = Path(tempfile.mkdtemp(prefix=STEM, dir=self._place))
        self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.witness = secrets.token_hex(16)
        write_private(self.folder / WITNESS, self.witness.encode())
        self._uploads: dict[str, Upload] = {}

    def begin(self) -> str:
        """Start a set; one that was under way is given up. Returns its name."""
        self.forget()
        name = secrets.token_hex(16)
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        self._uploads[name] = Upload(folder)
        return name

    def receive(
        self, upload: str, shard: str, offset: str, length: int, check: str | None, source: BinaryIO
    ) -> None:
        """Write `length` bytes at a shard's end; raises Refusal, with none of them kept."""
        found = self._upload(upload)
        number, start = _number(shard, MOST_SHARDS), _number(offset, 1 << 50)
        if length > MOST_RANGE:
            raise Refusal(
                413, BAD_REQUEST, f"{length} bytes of weights at once; at most {MOST_RANGE}"
            )
        if start != found.sizes.get(number, 0):
            have = found.sizes.get(number, 0)
            what = f"shard {number} has {have} bytes, the next ones cannot begin at {start}"
            raise Refusal(409, BAD_REQUEST, what, {"have": have})
        self._room(length)
        path = found.folder / shard_name(number)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as target:
            target.seek(start)
            crc = _copy(source, target, length)
            if crc is None or (check is not None and check != f"{crc:08x}"):
                target.truncate(start)
                what = "ended early" if crc is None else "arrived changed (checksum)"
                raise Refusal(400, BAD_REQUEST, f"shard {number}: {length} bytes at {start} {what}")
        found.sizes[number] = start + length

    def commit(self, upload: str, sizes: Any) -> list[str]:
        """Return the paths of the shards, all of them there and as long as `sizes` says."""
        found = self._upload(upload)
        if not isinstance(sizes, list) or not 0 < len(sizes) <= MOST_SHARDS:
            raise Refusal(400, BAD_REQUEST, "`sizes` is not a list of the shards' bytes")
        paths = []
        for number, expected in enumerate(sizes):
            path = found.folder / shard_name(number)
            try:
                status = path.lstat()
            except FileNotFoundError:
                raise Refusal(400, BAD_REQUEST, f"shard {number} is missing") from None
            plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if not plain or status.st_uid != os.getuid():
                raise Refusal(
                    400, BAD_REQUEST, f"shard {number} is not a plain file of the server's user"
                )
            if status.st_size != expected:
                what = f"shard {number} has {status.st_size} of {expected} bytes"
                raise Refusal(400, BAD_REQUEST, what)
            paths.append(str(path))
        if len(paths) != sum(1 for _ in found.folder.iterdir()):
            raise Refusal(400, BAD_REQUEST, "more shards were sent than are named")
        return paths

    def received(self) -> int:
        """Return the bytes that came over the wire of what is not whole yet."""
        return sum(sum(upload.sizes.values()) for upload in self._uploads.values())

    def forget(self) -> None:
        """Delete what has come so far; the engine has it, or nobody wants it."""
        for upload in self._uploads.values():
            shutil.rmtree(upload.folder, ignore_errors=True)
        self._uploads.clear()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def _upload(self, name: str) -> Upload:
        if not NAME.fullmatch(name):
            raise Refusal(400, BAD_REQUEST, "no name of an upload")
        if name not in self._uploads:
            raise Refusal(409, RESTARTED, "this set of weights was given up; send it again")
        return self._uploads[name]

    def _room(self, length: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < length + COPY:
            what = f"{self._place} has no room for the weights: {free} bytes are free"
            raise Refusal(507, BAD_REQUEST, what)


def remove_left_behind(place: Path) -> None:
    """Delete the folders of this user's servers that were killed."""
    for folder in place.glob(f"{STEM}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def shared_folder(path: Any, witness: Any) -> Path | None:
    """Return the server's folder where this process sees the same one and may write; else None."""
    if not isinstance(path, str) or not isinstance(witness, str):
        return None
    folder = Path(path)
    try:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
            return None
        if status.st_uid != os.getuid() or not folder.name.startswith(STEM):
            return None
        same = (folder / WITNESS).read_text() == witness
    except (OSError, ValueError):
        return None
    return folder if same else None


def write_private(path: Path, *parts: bytes | memoryview) -> int:
    """Write a new file that only this user reads; returns its bytes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as stream:
        for part in parts:
            view = memoryview(part)
            while len(view):
                view = view[stream.write(view) :]
        return stream.tell()


def _number(text: str, below: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 18 and int(text) < below):
        raise Refusal(400, BAD_REQUEST, f"{text[:40]!r} is no number below {below}")
    return int(text)


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> int | None:
    """Copy `length` bytes; returns their CRC-32, None when the source ends before."""
    crc = 0
    while length:
        block = source.read(min(COPY, length))
        if not block:
            return None
        target.write(block)
        crc = zlib.crc32(block, crc)
        length -= len(block)
    return crc
