"""Runs in the sandbox of the program: loads it as a module and serves calls of it.

Nothing here is trusted by anybody: the program may take this process over. It never holds what the
tests expect.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import types

from . import late_site, values
from .files import Files
from .objects import OPERATIONS, numbered, synchronised
from .peer import Peer
from .remote import Stands
from .wire import OPAQUE, VALUE, Broken, encode, write_name

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

CHANNEL = 3
NAME = "solution"
PRINTED_LIMIT = 1 << 20
_STACK = 40
"""Frames of these modules under a call: a program keeps the recursion depth it counts on."""


_INPUT = builtins.input


class _Service:
    def __init__(self, program: types.ModuleType, capture: bool) -> None:
        self._program, self._capture, self._owner = program, capture, os.getpid()
        self._files: Files | None = None
        self._printed, self._depth = sys.stdout, 0

    def __call__(self, operation: str, operands: Sequence[Any]) -> Any:
        if operation == "sync":
            return synchronised(self, operands)
        if operation == "class":
            operands = [self.peer.lent.get(operands[0])]
        if operation in _OWN:
            operands = [self, *operands]
        elif operation == "call" and self._depth == 0:
            self.printed()  # what it printed before is not this call's
        self._depth += 1
        # Calls back and forth take frames here that a program on its own would not need.
        sys.setrecursionlimit(sys.getrecursionlimit() + _STACK)
        try:
            return (_OWN.get(operation) or OPERATIONS[operation])(*operands)
        finally:
            self._depth -= 1
            sys.setrecursionlimit(max(_STACK, sys.getrecursionlimit() - _STACK))
            if os.getpid() != self._owner:
                os._exit(0)  # a fork of the program came back here: it has nothing to answer

    peer: Peer

    def value(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call by name and return plain content: a subclass of a builtin becomes the builtin."""
        function: Any = self._program
        if "." not in name and not hasattr(function, name) and hasattr(function, "Solution"):
            function = function.Solution()
        for part in name.split("."):
            function = getattr(function, part)
        return function(*args, **kwargs)

    def name(self, name: str, number: int) -> Any:
        """Return a global of the program; raises NameError without it."""
        namespace = vars(self._program)
        if name not in namespace:
            raise NameError(name)
        return numbered(namespace[name], number)

    def names(self) -> list[str]:
        public = vars(self._program).get("__all__")
        if isinstance(public, (list, tuple)):
            return [name for name in public if type(name) is str]
        return [name for name in vars(self._program) if not name.startswith("_")]

    def module(self) -> Any:
        return self._program

    def subclass(self, name: str, bases: list[type], body: dict[str, Any]) -> Any:
        """Make a class whose methods are functions of the tests."""
        methods = {key: _method(part) if callable(part) else part for key, part in body.items()}
        return types.new_class(name, tuple(bases), {}, lambda own: own.update(methods))

    def super_init(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super(type(instance), instance).__init__(*args, **kwargs)

    def files(self, changed: list[tuple[str, bytes]] | None) -> list[tuple[str, bytes]]:
        """Take over the files of a snippet, or (None) return those the program changed."""
        if self._files is None:
            self._files = Files()
        if changed is None:
            return self._files.changed()
        self._files.take(changed)
        return []

    def feed(self, text: str) -> None:
        """Let the program read `text` from stdin."""
        sys.stdin = io.StringIO(text)

    def ask_with(self, function: Any) -> None:
        """Let `input` be the function with which the tests replaced theirs; None: Python's own."""
        builtins.input = _INPUT if function is None else lambda prompt="": function(prompt)

    def printed(self) -> str:
        """Return what the program printed since the last time, through Python's own stdout."""
        if sys.stdout is not self._printed or self._printed.closed or not self._capture:
            return ""
        sys.stdout.flush()
        buffer: Any = self._printed.buffer
        text = buffer.getvalue()[:PRINTED_LIMIT].decode("utf-8", "replace")
        buffer.seek(0)
        buffer.truncate()
        return text


_OWN = {
    "value": _Service.value,
    "name": _Service.name,
    "names": _Service.names,
    "module": _Service.module,
    "printed": _Service.printed,
    "feed": _Service.feed,
    "files": _Service.files,
    "subclass": _Service.subclass,
    "super_init": _Service.super_init,
    "ask_with": _Service.ask_with,
}


class _PlainPeer(Peer):
    """Lends nothing: what is no plain data goes out as the name of its type."""

    def _refer(self, out: bytearray, value: Any) -> Sequence[Any] | None:
        for mutable in (False, True):
            held = values.content(value, mutable)
            if held is not None:
                # A value class with one part: the reader takes the part for the value.
                return write_name(out, VALUE, "content") or (held,)
        if values.is_number_of_numpy(type(value)):
            return write_name(out, VALUE, "content") or (value.item(),)
        return write_name(out, OPAQUE, type(value).__name__)

    def _encode_error(self, error: BaseException) -> bytes:
        return encode(_text(error), self._refer)


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return type(error).__name__


def _method(function: Any) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return method


def _silence() -> None:
    """What the program prints goes nowhere, so that it cannot run into the limit on output."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _load(source: bytes) -> types.ModuleType:
    module = types.ModuleType(NAME)
    module.__file__ = f"{NAME}.py"
    module.__builtins__ = builtins  # type: ignore[attr-defined]  (not this file's private copy)
    sys.modules[NAME] = module
    exec(compile(source, module.__file__, "exec", dont_inherit=True), vars(module))
    return module


def main(plain: bool) -> None:
    """Load the program, say whether that worked, then serve calls until the channel ends."""
    with open(f"{NAME}.py", "rb") as file:
        source = file.read()
    _silence()
    late_site.install()
    sys.path.insert(0, os.getcwd())
    owner, error = os.getpid(), None
    if not plain:
        sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", write_through=True)
    try:
        module = _load(source)
    except BaseException as problem:
        module, error = types.ModuleType(NAME), problem
    if os.getpid() != owner:
        os._exit(0)
    service = _Service(module, not plain)
    peer = service.peer = (_PlainPeer if plain else Peer)(CHANNEL, service)
    peer.proxies = Stands(peer, trust=True)
    peer.announce(None if error is None else _text(error))
    try:
        peer.serve_for_ever()
    except (Broken, OSError):
        os._exit(0)
