"""Whatever a model writes, no reward raises, and each stays in its range."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.rewards import (
    accuracy_reward,
    choice_reward,
    code_reward,
    exact_answer_reward,
    format_reward,
    geo_distance_reward,
    language_consistency_reward,
    math_equal,
    maze_path_reward,
    repetition_penalty,
    soft_overlong_penalty,
    sql_reward,
    tag_count_reward,
)
from r1pipe.rewards.language import LANGUAGES

PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "<", ">", "25", "25r3", "-", "+", "=", " ",
    "\n", "\x00", "\ud800", "\u200b", "进", "add", "é", "$", "\\boxed{", "}", "{", "\\frac", "^",
    "!", "%", "`", "```", "\\(", "\\[", ",", "x", "9" * 70, "א", "```python", "print(1)", "SELECT",
    "up", "(B)", "48.85° N", "\\text{", "\\begin{pmatrix}", "&", "\\\\", "∞", "½",
)  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
)
ROW = {
    "prompts": "What is 5*5?",
    "solution": "25",
    "language": "en",
    "maze": "S.#\n..E",
    "latitude": 48.85,
    "longitude": 2.35,
}
CHEAP = {
    format_reward: (0, 1),
    tag_count_reward: (0, 1),
    exact_answer_reward: (0, 1),
    language_consistency_reward: (0, 1),
    maze_path_reward: (0, 1),
    geo_distance_reward: (0, 1),
    repetition_penalty: (-1, 0),
}
BY_CHOICE = {"solution": "B"}
BY_QUERY = {"solution": "SELECT a FROM t", "database": "CREATE TABLE t(a); INSERT INTO t VALUES(1)"}
BY_TESTS = {"verification": [{"call": "f", "args": [1], "returns": 2}]}


def rewarded(reward: Any, texts: list[Any], row: dict[str, Any], **options: Any) -> list[Any]:
    columns = {name: [value] * len(texts) for name, value in row.items()}
    values = reward(completions=texts, **columns, **options)
    assert len(values) == len(texts)
    return values


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["reasoning", "general"]), st.sampled_from(sorted(LANGUAGES)))
def test_every_text_gets_a_number_in_range(text: str, domain: str, language: str) -> None:
    row = {**ROW, "domain": domain, "language": language}
    both = [text, f"<think>{text}</think><answer>{text}</answer>"]
    for reward, (low, high) in CHEAP.items():
        for completions in (both, [[{"role": "assistant", "content": t}] for t in both]):
            for value in rewarded(reward, completions, row):
                assert value is None or low <= value <= high
    for value in rewarded(choice_reward, both, BY_CHOICE):
        assert value in (0.0, 1.0)
    for value in rewarded(
        soft_overlong_penalty, both, {}, unit="characters", max_length=100, cache=50
    ):
        assert -1 <= value <= 0


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_verifiers_with_workers_give_verdicts_too(texts: list[str]) -> None:
    whole = [f"<think>t</think><answer>{text}</answer>" for text in texts]
    for row in (ROW, {**ROW, "solution": "\\frac{1}{2}"}):
        assert set(rewarded(accuracy_reward, whole + texts, row)) <= {0.0, 1.0}
    assert set(rewarded(sql_reward, whole + texts, BY_QUERY)) <= {0.0, 1.0}


@pytest.mark.usefixtures("sandboxed")
@settings(max_examples=10, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_programs_of_any_text_get_a_verdict(texts: list[str]) -> None:
    whole = [f"<think>t</think><answer>```python\n{text}\n```</answer>" for text in texts]
    assert set(rewarded(code_reward, whole + texts, BY_TESTS)) <= {0.0, 1.0}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_mathematics_of_any_shape_gets_a_verdict(text: str) -> None:
    assert math_equal(text, "\\frac{1}{2}") in (True, False)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789r abcxyz", min_size=1).filter(str.strip))
def test_gold_is_its_own_right_answer(gold: str) -> None:
    completion = f"<think>so</think><answer>{gold}</answer>"
    assert accuracy_reward([completion], solution=[gold], method="exact") == [1.0]
    assert exact_answer_reward([completion], solution=[gold], domains=["reasoning"]) == [1.0]
    assert format_reward([completion]) == [1.0]


@pytest.mark.parametrize("piece", ["a", "<think>", "\x00", "进", "e\u0301\u0300", "</answer>", "$"])
def test_a_megabyte_is_only_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    both = [text, f"<think>t</think><answer>{text}</answer>"]
    for reward, (low, high) in CHEAP.items():
        for value in rewarded(reward, both, {**ROW, "domain": "reasoning"}):
            assert value is None or low <= value <= high
    assert rewarded(accuracy_reward, both, ROW) == [0.0, 0.0]
    assert rewarded(choice_reward, both, BY_CHOICE) == [0.0, 0.0]
    assert rewarded(sql_reward, both, BY_QUERY) == [0.0, 0.0]


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize("piece", ["a", "\x00", "</answer>", "("])
def test_a_megabyte_of_program_is_only_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    both = [text, f"<think>t</think><answer>{text}</answer>"]
    assert rewarded(code_reward, both, BY_TESTS) == [0.0, 0.0]
