"""Runs in the sandbox of the tests: each snippet against stand-ins for what the program defines."""

from __future__ import annotations

import builtins
import io
import marshal
import os
import sys
import types

from . import asking, late_site, pytest_names, remote
from .files import Files
from .objects import OPERATIONS, synchronised
from .peer import Peer
from .remote import RemoteClass, Stands, ref_of
from .wire import HEAD, REPLY, Broken, write_all

TYPE_CHECKING = False  # not from `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

CHANNEL, VERDICTS = 3, 4
SNIPPET, TESTS_MODULE = "<test>", "__main__"
PROGRAM_MODULES = (
    *("solution", "solutions", "my_solution", "your_solution", "submission", "answer", "program"),
    *("main", "candidate", "module", "my_module", "your_module", "task", "implementation"),
)
_OPENERS = (getattr, setattr, delattr, eval, exec, compile, open, vars, globals, locals)
"""Builtins that lead from a function to its globals."""
_ITERATORS = (
    *(types.GeneratorType, type(iter([])), type(iter(())), type(iter(range(0)))),
    *(map, filter, zip, enumerate),
)


class _Checks:
    """What the snippet's own asserts found; the snippet itself cannot take it back."""

    def __init__(self) -> None:
        self.reached, self.failed = 0, False

    def held(self, value: Any) -> bool:
        """Called with the condition of every assert."""
        truth = bool(value)
        self.reached += truth
        self.failed |= not truth
        return truth

    def looked(self, value: Any) -> Any:
        """Called where the snippet checks without an assert: `if x: raise`, an `except`."""
        self.reached += 1
        return value


class _Names(dict):  # type: ignore[type-arg]
    """The globals of a snippet; what it does not define is the program's."""

    def __init__(self, peer: Peer, stands: Stands, shadowed: Sequence[str]) -> None:
        super().__init__(__name__=TESTS_MODULE, __builtins__=builtins)
        self.taken, self._functions = False, {}
        self._peer, self._stands, self._shadowed = peer, stands, shadowed

    def __missing__(self, name: str) -> Any:
        builtin = hasattr(builtins, name) and name not in self._shadowed
        if builtin or (name.startswith("__") and name.endswith("__")):
            raise KeyError(name)
        return self.take(name)

    def take(self, name: str) -> Any:
        """Return a global of the program; raises KeyError without one."""
        if name in self._functions:
            return self._functions[name]
        try:
            value = asking.fetch("name", name)
        except NameError:
            raise KeyError(name) from None
        self.taken = True
        if ref_of(value) is not None and type(value).__name__ == "function":
            self._functions[name] = value  # hardly ever rebound, and asked for most
        if isinstance(value, RemoteClass) and name.lstrip("_")[:1].isupper():
            return self._stands.class_(ref_of(value), trusted=True)  # type: ignore[arg-type]
        return value


class _ProgramModule(types.ModuleType):
    """What `import solution` gives."""

    names: _Names
    peer: Peer

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return [name for name in self.peer.ask("names") if type(name) is str]
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.names.take(name)
        except KeyError:
            raise AttributeError(f"the program has no `{name}`") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or name in ("names", "peer"):
            super().__setattr__(name, value)
        else:
            self.peer.ask("setattr", self.peer.ask("module"), name, value)


def _same_object(one: Any, other: Any) -> bool:
    """`is`, for stand-ins too: one object of the program can have two of them."""
    return one is other or (ref_of(one) is not None and ref_of(one) == ref_of(other))


def _of_tests(value: Any) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == TESTS_MODULE


def may_lend(value: Any) -> bool:
    """Functions to be called, iterators, and instances of classes that the snippet defines.

    Nothing that leads to the globals of the snippet, where the expected values are.
    """
    if isinstance(value, types.ModuleType) or any(value is opener for opener in _OPENERS):
        return False
    return callable(value) or isinstance(value, _ITERATORS) or _of_tests(value)


def _serve(peer: Peer, operation: str, operands: Sequence[Any]) -> Any:
    """Answer the program: it may call what it was given and read public attributes, no more."""
    if operation == "sync":
        return synchronised(lambda *asked: _serve(peer, *asked), operands)
    if operation == "class":
        return OPERATIONS["class"](peer.lent.get(operands[0]))
    if not _allowed(peer, operation, operands):
        raise AttributeError("not for the program")
    try:
        return OPERATIONS[operation](*operands)
    except AssertionError:
        raise AssertionError from None  # its message may hold what was expected


def _allowed(peer: Peer, operation: str, operands: Sequence[Any]) -> bool:
    if operation == "operate":
        operation, *operands = operands
        target = operands[0]
        drawing = operation in ("__iter__", "__next__") and isinstance(target, _ITERATORS)
        return peer.lent.holds(target) and (drawing or _of_tests(target))
    target = operands[0]
    if not peer.lent.holds(target):  # a builtin by name: `getattr` would open everything
        return False
    if operation == "call":
        return _of_tests(target) or not isinstance(target, type)
    if operation in ("getattr", "setattr", "delattr"):
        name = operands[1] if len(operands) > 1 else None
        return _of_tests(target) and type(name) is str and not name.startswith("_")
    return operation in ("repr", "str", "hash", "content") and _of_tests(target)


def _run_snippet(code: types.CodeType, names: _Names, checks: _Checks) -> str:
    """Return why the snippet fails, an empty text where it passes."""
    names |= {
        "__held__": checks.held,
        "__looked__": checks.looked,
        "__same__": _same_object,
    }
    pytest_names.looked = checks.looked
    try:
        exec(code, names)
        if not checks.reached:
            _call_test_functions(names)
    except BaseException as error:
        if checks.failed and not isinstance(error, AssertionError):
            return "an assertion failed"
        return _reason(error)
    if checks.failed:
        return "an assertion failed and was swallowed"
    if not names.taken:
        return "the test takes nothing from the program"
    return "" if checks.reached else "no assertion was reached"


def _call_test_functions(names: _Names) -> None:
    """Call `def test_...():` as pytest does, for snippets that only define them."""
    for name, value in list(names.items()):
        if name.startswith("test") and isinstance(value, types.FunctionType):
            code = value.__code__
            needed = code.co_argcount - len(value.__defaults__ or ())
            if needed <= 0 and code.co_kwonlyargcount <= len(value.__kwdefaults__ or ()):
                value()


def _reason(error: BaseException) -> str:
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == SNIPPET:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return f"line {line}: {type(error).__name__}{': ' if text else ''}{text}"


class _Streams:
    """Lets a snippet redirect its own stdin, `input` and stdout, and means the program's.

    So for files: a snippet that uses any has the same ones as the program around each call.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer, self._nowhere = peer, sys.stdout
        self._stdin, self._input, self._replaced = sys.stdin, builtins.input, False
        self.files: Files | None = None

    def reset(self) -> None:
        """Undo what the last snippet redirected."""
        sys.stdout, sys.stdin, builtins.input = self._nowhere, self._stdin, self._input

    def before_call(self) -> None:
        if self.files is not None:
            self._peer.ask("files", self.files.changed())
        if sys.stdin is not self._stdin:
            self._peer.ask("feed", str(sys.stdin.read()))
        replaced = builtins.input is not self._input
        if replaced or self._replaced:
            function = (lambda prompt: builtins.input(prompt)) if replaced else None
            self._peer.ask("ask_with", function)
        self._replaced = replaced

    def after_call(self) -> None:
        if self.files is not None:
            self.files.take(self._peer.ask("files", None))
        if sys.stdout is not self._nowhere:
            text = self._peer.ask("printed")
            if type(text) is str and text:
                sys.stdout.write(text)


def _asserting(lines: frozenset[int]) -> Any:
    """Return whether an exception stands in an assert: no object of the program may swallow it."""

    def is_final(trace: Any) -> bool:
        while trace:
            if trace.tb_frame.f_code.co_filename == SNIPPET and trace.tb_lineno in lines:
                return True
            trace = trace.tb_next
        return False

    return is_final


def _tell(reason: str, broken: bool) -> None:
    text = reason[:1000].encode("utf-8", "replace")
    write_all(VERDICTS, HEAD.pack(len(text), REPLY, broken) + text)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "replace")


def main(_: None) -> None:
    """Run the snippets; one line about the loading of the program, then one for each snippet."""
    with open("tests", "rb") as file:
        snippets = marshal.load(file)
    _silence()
    late_site.install()
    sys.setrecursionlimit(20_000)  # a decorated function of a snippet calls back and forth
    peer = Peer(CHANNEL, lambda *asked: _serve(peer, *asked), may_lend)
    stands = peer.proxies = Stands(peer)
    streams = _Streams(peer)
    asking.before_call, asking.after_call = streams.before_call, streams.after_call
    sys.modules["pytest"] = pytest_names.module()
    try:
        problem = peer.greeting()
    except Broken:
        problem = "the program ended while it was loaded"
    _tell(problem or "", peer.broken)
    for code, lines, shadowed, uses_files in snippets if problem is None else []:
        streams.reset()
        if uses_files and streams.files is None:
            streams.files = Files()
        checks, names = _Checks(), _Names(peer, stands, shadowed)
        remote.is_final = _asserting(frozenset(lines))
        for name in PROGRAM_MODULES:
            module = sys.modules[name] = _ProgramModule(name)
            module.names, module.peer = names, peer
        reason = _run_snippet(code, names, checks)
        if peer.broken:
            reason = reason or "the channel to the program broke"
        _tell(reason, peer.broken)
        if peer.broken:
            return
