"""The labelled texts of `cases/language*.jsonl`: each reward lies between its bounds."""

import json
from pathlib import Path

import pytest

from r1pipe.rewards.language import language_consistency

CASES = [
    json.loads(line)
    for path in sorted((Path(__file__).parent / "cases").glob("language*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
    if line.strip()
]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_labelled_text_gets_a_reward_in_its_bounds(case) -> None:
    assert case["low"] <= language_consistency(case["text"], case["language"]) <= case["high"]
