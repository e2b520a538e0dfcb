"""Every honest program earns full marks; every wrong, hostile or hanging one earns nothing."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from r1pipe.rewards.code import Verdict, verify
from tests.rewards.code_programs import HANGING, HONEST, HOSTILE, Case

pytestmark = pytest.mark.usefixtures("sandboxed")

LIMIT_S = 1.0


def _timed(case: Case) -> tuple[Verdict, float]:
    start = time.monotonic()
    verdict = verify(case.program, case.verification, timeout=LIMIT_S, stop_at_failure=True)
    return verdict, time.monotonic() - start


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Future[tuple[Verdict, float]]]:
    """All verdicts, found side by side as the reward does; waited for where they are needed."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        found = {
            case.name: pool.submit(verify, case.program, case.verification, timeout=20.0)
            for case in HONEST
        }
        found |= {
            case.name: pool.submit(verify, case.program, case.verification, timeout=20.0)
            for case in HOSTILE
        }
        return found | {f"hanging {case}": pool.submit(_timed, case) for case in HANGING}


@pytest.mark.parametrize("case", HONEST, ids=str)
def test_an_honest_program_passes(case: Case, verdicts) -> None:
    verdict = verdicts[case.name].result()
    assert verdict.passed, [result.reason for result in verdict.results]
    assert verdict.share == 1.0


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_a_wrong_or_hostile_program_fails(case: Case, verdicts) -> None:
    verdict = verdicts[case.name].result()
    assert not verdict.passed
    assert all(result.passed == (not result.reason) for result in verdict.results)


@pytest.mark.parametrize("case", HANGING, ids=str)
def test_a_hanging_program_costs_its_limit(case: Case, verdicts) -> None:
    verdict, seconds = verdicts[f"hanging {case}"].result()
    assert not verdict.passed
    assert seconds < LIMIT_S + 30  # loose: the machine may be busy


def test_the_names_of_the_cases_are_their_own() -> None:
    names = [case.name for case in (*HONEST, *HOSTILE)]
    assert len(set(names)) == len(names)
