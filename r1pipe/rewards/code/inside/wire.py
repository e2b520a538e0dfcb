"""Values as bytes: plain data by exact type, everything else by reference.

Read by both sides of a channel of which one side is hostile, so reading is strict: every length is
checked, nothing is imported, called or unpickled, and nothing nests through Python's own stack.
"""

from __future__ import annotations

import os
import struct
from itertools import chain

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Refer = Callable[[bytearray, Any], Iterable[Any] | None]
    # Writes what is not plain data; returns the values that follow it (after their head), if any.
    Make = Callable[[bytes, tuple[Any, ...], list[Any]], Any]
    # Makes a value that is no scalar of its tag, what its head says, and the values inside it.

FRAME_LIMIT = 16 << 20
"""Bytes of one frame."""
NODE_LIMIT = 2_000_000
"""Values in one frame."""
KEY_DEPTH = 100
"""Nesting of what is hashed: hashing a tuple nests through C's stack, without a limit there."""

REQUEST, REPLY, RAISED = b"?", b"=", b"!"
HEAD = struct.Struct("<IcI")
_COUNT, _FLOAT, _COMPLEX, _REF = (struct.Struct(form) for form in ("<I", "<d", "<dd", "<Q"))

LIST, TUPLE, DICT, SET, FROZENSET = b"l", b"t", b"d", b"e", b"z"
PACKED = {b"I": "q", b"D": "d"}
"""Lists of many small integers, or of many floats, in one piece: as fast as they are common."""
_PACK_FROM = 16
VALUE, OBJECT, SUBCLASS, ERROR = b"V", b"H", b"S", b"X"
"""A value class by name; an object of the sender; one with plain content; an exception of it."""
CLASS, MINE, NAMED, OPAQUE = b"K", b"O", b"B", b"?"
"""A class of the sender; an object of the receiver; a builtin by name; the name of a type."""


class Broken(BaseException):
    """The other side broke the protocol; no `except Exception` of a test may swallow it."""


class TooLarge(ValueError):
    """A value is larger than a frame may be (or contains itself)."""


def _write_int(out: bytearray, value: int) -> None:
    size = value.bit_length() // 8 + 1
    out += b"i" + _COUNT.pack(size) + value.to_bytes(size, "little", signed=True)


def _write_str(out: bytearray, value: str) -> None:
    data = value.encode("utf-8", "surrogatepass")
    out += b"s" + _COUNT.pack(len(data)) + data


_SCALARS: dict[type, Callable[[bytearray, Any], None]] = {
    type(None): lambda out, value: out.extend(b"N"),
    bool: lambda out, value: out.extend(b"T" if value else b"F"),
    int: _write_int,
    float: lambda out, value: out.extend(b"f" + _FLOAT.pack(value)),
    complex: lambda out, value: out.extend(b"c" + _COMPLEX.pack(value.real, value.imag)),
    str: _write_str,
    bytes: lambda out, value: out.extend(b"b" + _COUNT.pack(len(value)) + value),
    bytearray: lambda out, value: out.extend(b"a" + _COUNT.pack(len(value)) + value),
}
_CONTAINERS = {list: LIST, tuple: TUPLE, set: SET, frozenset: FROZENSET}


def encode(value: Any, refer: Refer, limit: int = FRAME_LIMIT) -> bytes:
    """Return `value` as bytes; raises TooLarge, also for a value that contains itself."""
    out = bytearray()
    pending, nodes = [iter((value,))], 0
    while pending:
        for item in pending[-1]:
            nodes += 1
            if len(out) > limit or nodes > NODE_LIMIT:
                raise TooLarge("a value of too many parts")
            if write := _SCALARS.get(type(item)):
                write(out, item)
            elif (children := _open(out, item, refer)) is not None:
                pending.append(iter(children))
                break
        else:
            pending.pop()
    if len(out) > limit:
        raise TooLarge(f"a value of more than {limit} bytes")
    return bytes(out)


def _open(out: bytearray, item: Any, refer: Refer) -> Iterable[Any] | None:
    tag = _CONTAINERS.get(type(item))
    if tag == LIST and len(item) >= _PACK_FROM and _pack(out, item):
        return ()
    if tag is not None:
        out += tag + _COUNT.pack(len(item))
        return item
    if type(item) is dict:
        out += DICT + _COUNT.pack(len(item))
        return chain.from_iterable(item.items())
    return refer(out, item)


def _pack(out: bytearray, items: list[Any]) -> bool:
    kinds = set(map(type, items))
    tag = {int: b"I", float: b"D"}.get(kinds.pop()) if len(kinds) == 1 else None
    if tag is None:
        return False
    try:
        packed = struct.pack(f"<{len(items)}{PACKED[tag]}", *items)
    except struct.error:  # an integer beyond 64 bits
        return False
    out += tag + _COUNT.pack(len(items)) + packed
    return True


def write_name(out: bytearray, tag: bytes, name: str) -> None:
    """Write a tag and a name (a value class, a builtin, the type of what is opaque)."""
    data = name.encode("utf-8", "replace")[:500]
    out += tag + _COUNT.pack(len(data)) + data


def write_refs(out: bytearray, tag: bytes, *refs: int) -> None:
    """Write a tag and the numbers of objects."""
    out += tag
    for ref in refs:
        out += _REF.pack(ref)


_HEADS = {CLASS: 1, MINE: 1, OBJECT: 2, SUBCLASS: 2, ERROR: 2}
_CHILDREN = {VALUE: 1, SUBCLASS: 1, ERROR: 1}


def decode(data: bytes, make: Make, nodes: int = NODE_LIMIT) -> Any:
    """Return the value in `data`; raises Broken where it is anything but exactly one value."""
    try:
        return _decode(data, make, nodes)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Broken(f"garbage on the channel ({error})") from None


def _decode(data: bytes, make: Make, nodes: int) -> Any:
    at, open_values = 0, []
    while True:
        nodes -= 1
        if nodes < 0:
            raise Broken("the value has too many parts")
        tag = data[at : at + 1]
        at += 1
        if tag in _READERS:
            value, at = _READERS[tag](data, at)
        elif tag in PACKED:
            (count,) = _COUNT.unpack_from(data, at)
            if count > min(nodes, (len(data) - at) // 8):
                raise Broken("a value that is longer than its frame, or has too many parts")
            nodes -= count
            packed = struct.unpack_from(f"<{count}{PACKED[tag]}", data, at + 4)
            value, at = make(LIST, (), list(packed)), at + 4 + 8 * count
        else:
            head, count, at = _read_head(tag, data, at)
            if count > len(data) - at:
                raise Broken("a value that is longer than its frame")
            open_values.append((tag, head, count, []))
            value = None if count else make(tag, head, open_values.pop()[3])
            if count:
                continue
        while open_values:
            tag, head, count, items = open_values[-1]
            items.append(value)
            if len(items) < count:
                break
            open_values.pop()
            value = make(tag, head, items)
        if not open_values:
            if at != len(data):
                raise Broken("more than one value in a frame")
            return value


def _read_head(tag: bytes, data: bytes, at: int) -> tuple[tuple[Any, ...], int, int]:
    """Return what the head of a value says, how many values follow, and where they start."""
    if tag in (LIST, TUPLE, DICT, SET, FROZENSET):
        (count,) = _COUNT.unpack_from(data, at)
        return (), count * 2 if tag == DICT else count, at + 4
    if tag in (VALUE, NAMED, OPAQUE):
        name, at = _read_bytes(data, at)
        return (name.decode("utf-8", "replace"),), _CHILDREN.get(tag, 0), at
    if tag not in _HEADS:
        raise Broken("an unknown kind of value")
    refs = tuple(_REF.unpack_from(data, at + 8 * n)[0] for n in range(_HEADS[tag]))
    return refs, _CHILDREN.get(tag, 0), at + 8 * len(refs)


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _COUNT.unpack_from(data, at)
    at += 4
    if size > len(data) - at:
        raise Broken("a value that is longer than its frame")
    return data[at : at + size], at + size


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    content, at = _read_bytes(data, at)
    return int.from_bytes(content, "little", signed=True), at


def _read_str(data: bytes, at: int) -> tuple[str, int]:
    content, at = _read_bytes(data, at)
    return content.decode("utf-8", "surrogatepass"), at


def _read_bytearray(data: bytes, at: int) -> tuple[bytearray, int]:
    content, at = _read_bytes(data, at)
    return bytearray(content), at


_READERS: dict[bytes, Callable[[bytes, int], tuple[Any, int]]] = {
    b"N": lambda data, at: (None, at),
    b"T": lambda data, at: (True, at),
    b"F": lambda data, at: (False, at),
    b"i": _read_int,
    b"f": lambda data, at: (_FLOAT.unpack_from(data, at)[0], at + 8),
    b"c": lambda data, at: (complex(*_COMPLEX.unpack_from(data, at)), at + 16),
    b"s": _read_str,
    b"b": _read_bytes,
    b"a": _read_bytearray,
}


def make_plain(tag: bytes, items: list[Any]) -> Any:
    """Return the container of `tag`; raises Broken where a key cannot be one."""
    if tag == LIST:
        return items
    if tag == TUPLE:
        return tuple(items)
    keys = items[::2] if tag == DICT else items
    if any(type(key) in (tuple, frozenset) and too_deep(key) for key in keys):
        raise Broken("a key that is nested too deep")
    try:
        if tag == DICT:
            return dict(zip(keys, items[1::2], strict=True))
        return set(items) if tag == SET else frozenset(items)
    except TypeError:
        raise Broken("a key that cannot be one") from None


def too_deep(key: Any) -> bool:
    """Return whether a tuple or frozenset nests deeper than KEY_DEPTH."""
    level = [key]
    for _ in range(KEY_DEPTH):
        level = [part for item in level for part in item if type(part) in (tuple, frozenset)]
        if not level:
            return False
    return True


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` to a descriptor that blocks."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_exactly(descriptor: int, size: int) -> bytes:
    """Read `size` bytes from a descriptor that blocks; raises Broken at its end."""
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise Broken("the channel was closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
