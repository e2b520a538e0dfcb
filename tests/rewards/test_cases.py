"""The labelled cases: nothing wrong is rewarded, and almost everything right is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from r1pipe.rewards import accuracy_reward, code_reward

CASES = Path(__file__).parent / "cases"
MOST_MISSED = 0.01
"""Share of right answers that the verifier of mathematics may fail to see."""
TRACES = ("r1pipe_trace", "r1blind_", "r1-case-marker")
"""What the programs write outside has one of these in its name."""


def completed(answer: str) -> str:
    return f"<think>so</think><answer>{answer}</answer>"


def lines(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in CASES.glob(pattern) for line in path.open()]


def test_mathematics() -> None:
    cases = lines("math*.jsonl")
    answers = [
        case["answer"] if "answer" in case else case["answer_repeat"][0] * case["answer_repeat"][1]
        for case in cases
    ]
    rewards = accuracy_reward(
        [completed(answer) for answer in answers], solution=[case["gold"] for case in cases]
    )
    wrong = [c["id"] for c, r in zip(cases, rewards, strict=True) if r == 1.0 and not c["equal"]]
    missed = [c["id"] for c, r in zip(cases, rewards, strict=True) if r != 1.0 and c["equal"]]
    assert wrong == []
    assert len(missed) <= MOST_MISSED * sum(case["equal"] for case in cases), missed


def orphans(before: set[int]) -> set[int]:
    """Return the Python processes that are new and have lost their parent."""
    found = psutil.process_iter(["name", "ppid"])
    python = (p for p in found if "python" in p.info["name"] and p.info["ppid"] == 1)
    return {process.pid for process in python} - before


@pytest.mark.slow
def test_programs(sandboxed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_what_a_program_must_not_see")
    cases = [c for path in CASES.glob("programs*.yaml") for c in yaml.safe_load(path.open())]
    before = set(psutil.pids())
    rewards = code_reward(
        [completed(f"```python\n{case['program']}\n```") for case in cases],
        verification=[case["verification"] for case in cases],
    )
    judged = {case["id"]: reward for case, reward in zip(cases, rewards, strict=True)}
    assert [c["id"] for c in cases if c["honest"] and judged[c["id"]] != 1.0] == []
    assert [c["id"] for c in cases if not c["honest"] and judged[c["id"]] == 1.0] == []
    left = orphans(before)
    deadline = time.monotonic() + 30  # orphans of tests that run beside this one go away
    while left and time.monotonic() < deadline:
        time.sleep(0.5)
        left &= orphans(before)
    assert left == set()
    places = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/"), Path.home(), Path.cwd())
    written = [path for place in places for path in place.glob("*")]
    assert [path for path in written if any(trace in path.name for trace in TRACES)] == []
