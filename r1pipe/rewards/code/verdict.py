"""Runs a program against its tests and says of each whether it passed, and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from r1pipe.rewards.code.sessions import Bounds, Reasons, run_asserts, run_calls, run_inputs
from r1pipe.rewards.code.testing import AssertTest, CallTest, InputTest, Test, read_tests
from r1pipe.sandbox import Isolation, require

_RUNNERS: dict[type, Callable[..., Reasons]] = {
    InputTest: run_inputs,
    CallTest: run_calls,
    AssertTest: run_asserts,
}
NOT_RUN = "not run"


@dataclass(frozen=True)
class TestResult:
    """Of one test: whether the program passed, and if not, why."""

    __test__ = False  # pytest: not a class of tests

    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Of one program: a result for each test, in order."""

    results: tuple[TestResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every test passed; never true without a test."""
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def share(self) -> float:
        """Passed tests / all tests; 0 without a test."""
        return sum(result.passed for result in self.results) / max(1, len(self.results))


def verify(
    program: str,
    tests: Any,
    *,
    timeout: float = 5.0,
    memory_mb: int = 512,
    isolation: Isolation = "sandbox",
    stop_at_failure: bool = False,
) -> Verdict:
    """Return how `program` does on `tests` (the value of a row's column `verification`).

    `timeout`: seconds by the clock for each test, its share of starting and loading included;
    `memory_mb`: MiB of all processes of the program; `stop_at_failure`: leave the tests after the
    first failure out (they count as failed). Whatever the program does is a failed test, never an
    exception; raises BadTests on unusable tests, SandboxUnavailable without the isolation asked
    for, SandboxFailed where the machine cannot start it now.
    """
    require(isolation)
    return verify_tests(
        program, read_tests(tests), Bounds(timeout, memory_mb << 20, isolation), stop_at_failure
    )


def verify_tests(
    program: str, tests: tuple[Test, ...], bounds: Bounds, stop_at_failure: bool
) -> Verdict:
    """As `verify`, for tests that were read already and isolation that is known to be had."""
    results: list[TestResult] = []
    failed = False
    for kind, group in groupby(tests, type):
        chosen = list(group)
        if failed and stop_at_failure:
            break
        for reason in _RUNNERS[kind](program, chosen, bounds):
            results.append(TestResult(not reason, reason))
            failed |= bool(reason)
            if failed and stop_at_failure:
                break
    left = len(tests) - len(results)
    return Verdict((*results, *[TestResult(False, NOT_RUN)] * left))
