"""Rewards are tried on completions of known worth before a run."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.registry import REWARDS, register_reward
from r1pipe.rewards.building import build_rewards
from r1pipe.rewards.completions import final_answer
from r1pipe.rewards.probes import make_case, probes_of
from r1pipe.rewards.trial import Trial, gold_data_problems, try_rewards
from r1pipe.schema import RewardTerm


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REWARDS, "_known", dict(REWARDS._known))


def rows(count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {i}+1?", "answer": str(i + 1), "language": "en", "id": f"q{i}"}
        | changes
        for i in range(count)
    ]


def tried(found: list[dict[str, Any]], opened: bool = False, **terms: Any) -> Trial:
    functions, _ = build_rewards(
        {name: RewardTerm(weight=1.0, **options) for name, options in terms.items()}
    )
    cases = [make_case(row, None, opened, lambda text: True) for row in found]
    return try_rewards(found, cases, functions, lambda text: True)


def told(trial: Trial) -> str:
    return "\n".join(map(str, trial.problems))


def test_the_shipped_rewards_hold() -> None:
    trial = tried(rows(), accuracy={"method": "exact"}, format={}, language={}, tag_count={})
    assert told(trial) == ""
    assert trial.values["accuracy"]["gold"] == [1.0] * 4
    assert max(trial.values["accuracy"]["two answers in one"]) == 0.0
    assert max(trial.values["format"]["nested thinking"]) == 0.0
    assert max(trial.values["language"]["another language"]) < 0.5


def test_they_hold_where_the_prompt_opens_the_thinking() -> None:
    found = [{**row, "prompt": row["prompt"] + "\n<think>"} for row in rows()]
    assert told(tried(found, opened=True, accuracy={"method": "exact"}, format={})) == ""


TESTS = [{"call": "double", "args": [2], "returns": 4}, {"assert": "assert double(0) == 0"}]
PROGRAM = "<think>We add.</think><answer>```python\ndef double(x):\n    return x + x\n```</answer>"
TABLE = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);"
KINDS = {
    "choice": {"answer": "B", "options": ["one", "two", "three"]},
    "code": {"verification": TESTS, "completion": PROGRAM, "answer": None},
    "sql": {"answer": "SELECT a FROM t WHERE a > 1", "database": TABLE},
    "maze_path": {"maze": "S.#\n#..\n##E", "answer": None},
    "geo_distance": {"latitude": 48.85, "longitude": 2.35, "answer": None},
    "general": {"answer": "a b c", "domain": "general"},
    "repetition": {},
    "accuracy": {"answer": "\\frac{3}{4}"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_row_has_gold_that_is_paid_and_hacks_that_are_not(name: str) -> None:
    trial = tried(rows(2, **KINDS[name]), **{name: {}}, format={})
    assert told(trial) == ""
    assert set(trial.values[name]["gold"]) == {0.0 if name == "repetition" else 1.0}
    assert len(trial.values[name]) > 5


def test_a_reward_checked_like_accuracy_is_caught_when_a_hack_pays() -> None:
    @register_reward("lenient", like="accuracy")
    def lenient(completions, answer, **columns):
        return [float(gold in text) for text, gold in zip(completions, answer, strict=True)]

    trial = tried(rows(), lenient={})
    assert "`answer only in the thinking` earns 1 on 4 of 4 rows" in told(trial)
    assert "`two answers in one` earns 1" in told(trial)
    assert ("lenient", "two answers in one") in trial.broken


def test_gold_that_is_not_paid_in_full_is_named() -> None:
    @register_reward("strict", like="accuracy")
    def strict(completions, answer, **columns):
        return [
            float((final_answer(text) or "") == f"{gold}.0")
            for text, gold in zip(completions, answer, strict=True)
        ]

    text = told(tried(rows(), strict={}))
    assert "4 of 4 gold answers earn less than 1: row `q0` (gold '1')" in text


def test_a_reward_that_knows_one_value_is_told() -> None:
    register_reward("flat")(lambda completions, **columns: [0.5 for _ in completions])
    assert "0.5 on gold answers, wrong answers and empty completions alike" in told(
        tried(rows(), flat={})
    )


def test_a_reward_of_the_users_own_is_not_judged_by_rules_it_does_not_claim() -> None:
    register_reward("brevity")(
        lambda completions, **columns: [1 / (1 + len(c)) for c in completions]
    )
    assert told(tried(rows(), brevity={})) == ""


def test_rows_that_cannot_be_rewarded_are_all_found_and_named() -> None:
    found = rows(60)
    found[17]["answer"], found[41]["answer"] = "", "\\frac{1}{"
    functions, _ = build_rewards({"accuracy": RewardTerm(weight=1.0)})
    (problem,) = gold_data_problems(found, functions)
    assert "2 of 60 rows" in problem.what
    assert "row `q17`" in problem.what and "row `q41`" in problem.what


def test_every_gold_probe_of_a_row_comes_with_wrong_ones_and_hacks() -> None:
    case = make_case(rows()[0], None, False, lambda text: True)
    kinds = [probe.kind for probe in probes_of(case)]
    assert kinds.count("gold") == 1 and kinds.count("hack") >= 8 and kinds.count("wrong") >= 3
    chinese = make_case({**rows()[0], "language": "zh"}, None, False, lambda text: True)
    assert "我们" in chinese.thought and "We" in (chinese.foreign or "")
