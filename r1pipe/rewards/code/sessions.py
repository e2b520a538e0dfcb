"""Runs a program against tests of one kind, each kind in the processes that it needs.

What is expected stays out of every process the program runs in: for input and call tests it stays
here, for asserts it is in a second sandbox, which the program can only answer.
"""

from __future__ import annotations

import marshal
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from r1pipe import sandbox
from r1pipe.rewards.code.channels import OUT_OF_TIME, Channel, Ended, Verdicts
from r1pipe.rewards.code.comparing import same_output, same_value
from r1pipe.rewards.code.inside import program_side, test_side, wire
from r1pipe.rewards.code.snippets import compile_snippet
from r1pipe.rewards.code.testing import AssertTest, CallTest, InputTest

_MODULES = (
    *("wire", "values", "sharing", "peer", "operators", "asking", "remote", "objects"),
    *("files", "late_site", "pytest_names"),
)
_BOOT = """
import builtins, marshal, sys, types
package = sys.modules["inside"] = types.ModuleType("inside")
package.__path__ = []
own = dict(vars(builtins))
for name, code in marshal.load(open("inside", "rb")):
    module = sys.modules["inside." + name] = types.ModuleType("inside." + name)
    module.__package__, module.__builtins__ = "inside", own
    setattr(package, name, module)
    exec(code, vars(module))
module.main({})
"""
_TRIES = 4
"""Starts of a sandbox before the machine is held to be at fault; the waits between them double."""


_Started = TypeVar("_Started")


class SandboxFailed(RuntimeError):
    """A sandbox that worked before could not be started; no fault of the program."""


@dataclass(frozen=True)
class Bounds:
    """What one test may take: seconds by the clock, and bytes of memory of the program."""

    timeout: float
    memory_bytes: int
    isolation: sandbox.Isolation

    def limits(self, tests: int = 1) -> sandbox.Limits:
        """Return limits for a process that `tests` tests run in; each is timed here as well."""
        wall = self.timeout * tests + (0.0 if tests == 1 else 1.0)
        return sandbox.Limits(
            wall_s=wall, cpu_s=wall + 1.0, memory_bytes=self.memory_bytes, processes=32
        )


Reasons = Iterator[str]
"""For each test in order: why the program fails it, an empty text where it passes."""


@lru_cache(maxsize=2)
def _bundle(side: str) -> bytes:
    """Return the code of one side: it cannot import this package, nor should it compile it."""
    folder = Path(wire.__file__).parent
    parts = []
    for name in (*_MODULES, side):
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        parts.append((name, compile(source, f"inside/{name}.py", "exec", dont_inherit=True)))
    return marshal.dumps(parts)


def _retried(start: Callable[[], _Started]) -> _Started:
    """Start a sandbox; a machine short of processes or descriptors for a moment is waited for."""
    for attempt in range(_TRIES):
        try:
            return start()
        except (OSError, SandboxFailed) as error:
            if attempt == _TRIES - 1:
                raise SandboxFailed(str(error)) from error
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def _never_started(result: sandbox.Result) -> bool:
    """Return whether the sandbox, and not the program, is at fault."""
    return (
        result.status == "failed"
        and result.stderr.startswith(b"sandbox: ")
        and result.wall_s < 1e-3
    )


def run_inputs(program: str, tests: Sequence[InputTest], bounds: Bounds) -> Reasons:
    """Run the program once per test, each time in a fresh sandbox."""
    source = _source(program)
    for test in tests:
        yield _run_once(source, test, bounds)


def _source(program: str) -> bytes:
    return program.encode("utf-8", "surrogatepass")


def _run_once(source: bytes, test: InputTest, bounds: Bounds) -> str:
    stdin = test.stdin.encode("utf-8", "surrogatepass")

    def run() -> sandbox.Result:
        result = sandbox.run(
            [sandbox.PYTHON, "main.py"],
            files={"main.py": source},
            stdin=stdin,
            limits=bounds.limits(),
            isolation=bounds.isolation,
        )
        if _never_started(result):
            raise SandboxFailed(f"a sandbox could not be started: {_tail(result)}")
        return result

    result = _retried(run)
    if result.status != "exited":
        return f"stopped: {_STOPPED.get(result.status, result.status)}"
    if result.exit_code != 0:
        return f"exit status {result.exit_code}: {_tail(result)}"
    if not same_output(result.stdout, test.stdout, test.tolerance):
        return "wrong output"
    return ""


_STOPPED = {
    "wall": OUT_OF_TIME,
    "cpu": "out of CPU time",
    "memory": "out of memory",
    "output": "too much output",
    "signalled": "by a signal",
    "failed": "it brought its sandbox down",
}


def _tail(result: sandbox.Result) -> str:
    return result.stderr[-300:].decode("utf-8", "replace").strip().rpartition("\n")[2]


@contextmanager
def _started(
    side: str,
    argument: Any,
    files: Mapping[str, bytes],
    passed: Mapping[int, int],
    limits: sandbox.Limits,
    bounds: Bounds,
) -> Iterator[sandbox.Run]:
    # Without `site`, which costs more than the rest; what needs it imports it (see late_site).
    argv = [sandbox.PYTHON, "-E", "-S", "-c", _BOOT.replace("{}", repr(argument))]
    files = {"inside": _bundle(side), **files}
    isolation = bounds.isolation
    with _retried(
        lambda: sandbox.start(
            argv, files=files, limits=limits, isolation=isolation, pass_fds=passed
        )
    ) as run:
        yield run


def _started_program(
    program: str, plain: bool, end: socket.socket, limits: sandbox.Limits, bounds: Bounds
) -> AbstractContextManager[sandbox.Run]:
    files = {f"{program_side.NAME}.py": _source(program)}
    passed = {program_side.CHANNEL: end.fileno()}
    return _started("program_side", plain, files, passed, limits, bounds)


GOES_ON, BROKEN, UNLOADABLE = "goes on", "broken", "unloadable"
Steps = Iterator[tuple[str, str]]
"""For each test: why the program fails it (empty: it passes), and what became of the session."""


def run_calls(program: str, tests: Sequence[CallTest], bounds: Bounds) -> Reasons:
    """Call the program's functions in one process; a fresh one after one that broke."""
    return _in_sessions(_call_session, program, tests, bounds)


def run_asserts(program: str, tests: Sequence[AssertTest], bounds: Bounds) -> Reasons:
    """Run the snippets in a sandbox of their own beside the program's; fresh ones after a break."""
    return _in_sessions(_assert_session, program, tests, bounds)


def _in_sessions(
    session: Callable[..., Steps], program: str, tests: Sequence[Any], bounds: Bounds
) -> Reasons:
    done = 0
    while done < len(tests):
        steps = _retried(lambda left=tests[done:]: _begun(session(program, left, bounds)))
        for reason, state in steps:
            done += 1
            yield reason
            if state == UNLOADABLE:  # neither would it load again
                yield from [reason] * (len(tests) - done)
                return
            if state == BROKEN:
                break


def _begun(steps: Steps) -> Steps:
    """Go on to the first test: a sandbox that does not start is known by then."""
    first = next(steps)
    return chain([first], steps)


def _call_session(program: str, tests: Sequence[CallTest], bounds: Bounds) -> Steps:
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        deadline = time.monotonic() + bounds.timeout
        with theirs:
            run = stack.enter_context(
                _started_program(program, True, theirs, bounds.limits(len(tests) + 1), bounds)
            )
        channel, state = Channel(ours), UNLOADABLE
        channel.deadline = deadline
        try:
            _, greeting = channel.answer(0, 10_000)
            problem = wire.decode(greeting, _no_container, 1)
            if problem is not None:
                yield f"cannot be loaded: {str(problem)[:300]}", UNLOADABLE
                return
            state = BROKEN
            for number, test in enumerate(tests, 1):
                yield _call(channel, number, test), GOES_ON
                channel.deadline = time.monotonic() + bounds.timeout
        except (Ended, wire.Broken) as error:
            yield _why_ended([run], error, state, bounds), state


def _no_container(*parts: Any) -> Any:
    raise wire.Broken("no greeting")


def _no_reference(out: bytearray, value: Any) -> None:
    raise TypeError(f"{type(value).__name__} is no plain data")


def _call(channel: Channel, number: int, test: CallTest) -> str:
    question = ("value", test.function, tuple(test.args), test.kwargs)
    data = wire.encode(question, _no_reference)
    channel.send(wire.HEAD.pack(len(data), wire.REQUEST, number) + data)
    longest = 10_000 + 4 * len(wire.encode(test.returns, _no_reference))
    kind, answer = channel.answer(number, longest)
    if not channel.is_quiet():
        raise Ended("more than one answer")
    if kind == wire.RAISED:
        return f"raised {str(wire.decode(answer, _no_container, 1))[:300]}"
    if not same_value(answer, test.returns, test.tolerance, test.wrapped):
        return "wrong value"
    return ""


def _why_ended(
    runs: Sequence[sandbox.Run], error: BaseException, state: str, bounds: Bounds
) -> str:
    """Return why a session ended; raises SandboxFailed where the machine is at fault."""
    for run in runs:
        run.kill()
    results = [run.wait() for run in runs]
    for result in results:
        if _never_started(result):
            raise SandboxFailed(f"a sandbox could not be started: {_tail(result)}")
    late = state == UNLOADABLE and str(error) == OUT_OF_TIME
    if late and min(result.wall_s for result in results) < bounds.timeout / 2:
        raise SandboxFailed("the machine is too busy to start a sandbox in time")
    # The limits of the first, which is the program's, say more than a channel that broke.
    status = results[0].status
    return _STOPPED[status] if status in ("memory", "cpu") else str(error)


def _assert_session(program: str, tests: Sequence[AssertTest], bounds: Bounds) -> Steps:
    snippets = [compile_snippet(test.source) for test in tests]
    code = marshal.dumps([(marshal.loads(code), *rest) for code, *rest in snippets])
    limits = bounds.limits(len(tests) + 1)
    with ExitStack() as stack:
        verdicts, told = os.pipe()
        stack.callback(os.close, verdicts)
        deadline = time.monotonic() + bounds.timeout
        ends = socket.socketpair()
        try:
            run = stack.enter_context(_started_program(program, False, ends[0], limits, bounds))
            passed = {test_side.CHANNEL: ends[1].fileno(), test_side.VERDICTS: told}
            tester = stack.enter_context(
                _started("test_side", None, {"tests": code}, passed, limits, bounds)
            )
        finally:
            os.close(told)
            for end in ends:
                end.close()
        told_of, state = Verdicts(verdicts), UNLOADABLE
        try:
            problem, _ = told_of.next(deadline)
            if problem:
                yield f"cannot be loaded: {problem}", UNLOADABLE
                return
            state = BROKEN
            for _ in tests:
                reason, broken = told_of.next(deadline)
                if broken:
                    raise Ended(reason)
                yield reason, GOES_ON
                deadline = time.monotonic() + bounds.timeout
        except Ended as error:
            yield _why_ended([run, tester], error, state, bounds), state
