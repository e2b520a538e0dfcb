"""One end of a channel between the program and its tests: asks, answers, and keeps what it lent."""

from __future__ import annotations

import _thread
import types

from . import values
from .wire import (
    CLASS,
    DICT,
    ERROR,
    FRAME_LIMIT,
    FROZENSET,
    HEAD,
    LIST,
    MINE,
    NAMED,
    OBJECT,
    RAISED,
    REPLY,
    REQUEST,
    SET,
    SUBCLASS,
    TUPLE,
    VALUE,
    Broken,
    decode,
    encode,
    make_plain,
    read_exactly,
    write_all,
    write_name,
    write_refs,
)

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Proxies(Protocol):
        """Makes what stands here for an object, a class or an exception of the other side."""

        def object(self, ref: int, class_ref: int) -> Any: ...
        def class_(self, ref: int) -> Any: ...
        def subclass(self, ref: int, class_ref: int, content: Any) -> Any: ...
        def error(self, ref: int, class_ref: int, parts: Any) -> Any: ...
        def ref_of(self, value: Any) -> int | None: ...


class Lent:
    """What of this side the other side holds by number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # held for good, so that its id stays its own
        return self._numbers[id(value)]

    def holds(self, value: Any) -> bool:
        return id(value) in self._numbers

    def get(self, number: int) -> Any:
        if number >= len(self._objects):
            raise Broken("an object that was never lent")
        return self._objects[number]


class Peer:
    """Strictly nested calls in both directions: whoever has read a frame is the one to write.

    `proxies` is set by the owner; `may_lend(value)` refuses what must not leave this side.
    """

    proxies: Proxies

    def __init__(
        self,
        descriptor: int,
        serve: Callable[[str, Sequence[Any]], Any],
        may_lend: Callable[[Any], bool] = lambda value: True,
    ) -> None:
        self._descriptor, self._serve, self._may_lend = descriptor, serve, may_lend
        self.lent, self.broken, self._asked = Lent(), False, 0
        self.lock = _thread.RLock()

    def ask(self, operation: str, *operands: Any) -> Any:
        """Return the other side's answer or raise its exception; answers its questions meanwhile.

        Raises Broken, now and on every later call, once the other side has broken the protocol.
        """
        if self.broken:
            raise Broken("the channel is broken")
        with self.lock:  # threads of the program, or of a snippet, ask one after the other
            return self._ask(operation, operands)

    def _ask(self, operation: str, operands: Sequence[Any]) -> Any:
        question = encode((operation, *operands), self._refer)
        self._asked = number = self._asked + 1
        try:
            self._write(REQUEST, number, question)
            while True:
                kind, answered, data = self._read()
                if kind == REQUEST:
                    self.answer(answered, data)
                elif answered == number:
                    break
                else:
                    raise Broken("an answer to another question")
            value = decode(data, self._make)
        except (Broken, OSError) as error:
            self.broken = True
            raise Broken(str(error)) from None
        if kind == RAISED:
            raise value if isinstance(value, BaseException) else RuntimeError("raised")
        return value

    def announce(self, text: str | None) -> None:
        """Say, before any question, what went wrong at the start, or None."""
        self._write(REPLY, 0, encode(text, self._refer))

    def greeting(self) -> str | None:
        """Return what the other side announced."""
        try:
            kind, number, data = self._read()
            text = decode(data, self._make)
        except (Broken, OSError) as error:
            self.broken = True
            raise Broken(str(error)) from None
        if (kind, number) != (REPLY, 0) or not (text is None or type(text) is str):
            self.broken = True
            raise Broken("no greeting")
        return text

    def serve_for_ever(self) -> None:
        """Answer questions until the channel ends."""
        while True:
            kind, number, data = self._read()
            if kind == REQUEST:
                self.answer(number, data)

    def answer(self, number: int, data: bytes) -> None:
        """Answer one question; whatever it raises is the answer."""
        kind = REPLY
        try:
            operation, *operands = decode(data, self._make)
            answer = encode(self._serve(operation, operands), self._refer)
        except Broken:
            raise
        except BaseException as error:
            kind, answer = RAISED, self._encode_error(error)
        self._write(kind, number, answer)

    def _encode_error(self, error: BaseException) -> bytes:
        try:
            return encode(error, self._refer)
        except BaseException as second:
            return encode(RuntimeError(type(second).__name__), self._refer)

    def _write(self, kind: bytes, number: int, data: bytes) -> None:
        write_all(self._descriptor, HEAD.pack(len(data), kind, number) + data)

    def _read(self) -> tuple[bytes, int, bytes]:
        size, kind, number = HEAD.unpack(read_exactly(self._descriptor, HEAD.size))
        if size > FRAME_LIMIT or kind not in (REQUEST, REPLY, RAISED):
            raise Broken("garbage on the channel")
        return kind, number, read_exactly(self._descriptor, size)

    def _refer(self, out: bytearray, value: Any) -> Sequence[Any] | None:
        """Write what is no plain data: by value, by name, or as something lent."""
        ref = self.proxies.ref_of(value)
        if ref is not None:
            return write_refs(out, MINE, ref)
        if parts := values.to_parts(value):
            write_name(out, VALUE, parts[0])
            return parts[1:]
        if (name := values.name_of(value)) is not None:
            return write_name(out, NAMED, name)
        if isinstance(value, types.TracebackType):
            return write_name(out, VALUE, "ellipsis") or ((),)
        if not self._may_lend(value):
            raise TypeError(f"a {type(value).__name__} of the tests cannot go to the program")
        number = self.lent.number(value)
        if isinstance(value, type):
            return write_refs(out, CLASS, number)
        class_number = self.lent.number(type(value))
        if isinstance(value, BaseException):
            write_refs(out, ERROR, number, class_number)
            return (([_plain_or_text(part) for part in value.args], value.__cause__),)
        if isinstance(value, values.IMMUTABLE):
            write_refs(out, SUBCLASS, number, class_number)
            return (values.content(value, mutable=False),)
        return write_refs(out, OBJECT, number, class_number)

    def _make(self, tag: bytes, head: tuple[Any, ...], items: list[Any]) -> Any:
        if tag in (LIST, TUPLE, DICT, SET, FROZENSET):
            return make_plain(tag, items)
        if tag == MINE:
            return self.lent.get(head[0])
        if tag == OBJECT:
            return self.proxies.object(*head)
        if tag == CLASS:
            return self.proxies.class_(*head)
        if tag == SUBCLASS:
            return self.proxies.subclass(*head, *items)
        if tag == ERROR:
            return self.proxies.error(*head, *items)
        try:
            found = values.from_parts(*head, *items) if tag == VALUE else values.find(*head)
        except ValueError as error:
            raise Broken(str(error)) from None
        if found is None:
            raise Broken("no such builtin")
        return found


def _plain_or_text(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    try:
        return repr(value)[:1000]
    except BaseException:
        return type(value).__name__


def describe(kind: type, operators: Sequence[str]) -> tuple[Any, ...]:
    """Return what the other side needs to stand in for a class: name, bases, operators, content.

    The last two: whether its instances can be hashed, and what builtin holds their content.
    """
    found = [name for name in operators if hasattr(kind, name) and not _is_default(kind, name)]
    held = next((base.__name__ for base in values.MUTABLE if issubclass(kind, base)), "")
    bases = [base for base in kind.__bases__ if base is not object]
    sort = next((name for sort, name in _SORTS if issubclass(kind, sort)), "")
    names = kind.__name__, kind.__module__ if isinstance(kind.__module__, str) else ""
    return (*names, bases, found, kind.__hash__ is not None, held, sort)


_SORTS = ((types.GeneratorType, "generator"), (types.CoroutineType, "coroutine"))


def _is_default(kind: type, name: str) -> bool:
    own = getattr(kind, name)
    return own is getattr(object, name, None) or own is None
