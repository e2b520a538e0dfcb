"""Arithmetic problems: answers, the held-out split, determinism and the checker."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.data import arithmetic, beyond
from r1pipe.data.arithmetic import LIMIT, TASKS, Problem

OPERANDS = st.integers(0, LIMIT - 1)


def expected_answer(problem: Problem) -> str:
    """The answer by Python's own evaluation, independent of the module."""
    if problem.task != "div":
        return str(eval(problem.expression))  # digits and one operator only
    quotient, remainder = problem.left // problem.right, problem.left % problem.right
    return f"{quotient}r{remainder}" if remainder else str(quotient)


@given(st.sampled_from(TASKS), st.sampled_from(("train", "test")), st.integers(0, 10**6))
def test_drawn_problems_stay_within_the_limit_and_their_split(
    task: str, split: str, seed: int
) -> None:
    problem = arithmetic.draw_problem(task, split, random.Random(seed))
    assert problem.task == task
    assert 0 <= problem.left < LIMIT and 0 <= problem.right < LIMIT
    assert problem.answer == expected_answer(problem)
    assert all(0 <= int(part) < LIMIT for part in problem.answer.split("r"))
    assert arithmetic.is_held_out(problem.canonical) == (split == "test")


@given(OPERANDS, OPERANDS)
def test_operand_order_changes_the_split_only_where_it_changes_the_problem(
    left: int, right: int
) -> None:
    for task in ("add", "mul"):
        assert Problem(task, left, right).canonical == Problem(task, right, left).canonical
    if left != right:
        assert Problem("sub", left, right).canonical != Problem("sub", right, left).canonical


@given(
    st.sampled_from(TASKS),
    OPERANDS,
    st.integers(1, LIMIT - 1),
    st.sampled_from(arithmetic.LANGUAGES),
)
def test_the_last_problem_of_a_prompt_is_parsed_back(
    task: str, left: int, right: int, language: str
) -> None:
    problem = Problem(task, left, right)
    prompt = "compute 1+1\n<answer>2</answer>\n" + arithmetic.prompt_of(problem, language)
    assert arithmetic.parse_problem(prompt) == problem
    assert arithmetic.parse_problem("no problem here") is None


def test_the_whole_space_is_split_without_overlap() -> None:
    """Every problem that can be asked, in both orders: the splits share no canonical problem."""
    train, test = set(), set()
    for left in range(LIMIT):
        for right in range(LIMIT):
            for task in TASKS:
                if (task == "add" and left + right >= LIMIT) or (task == "sub" and right > left):
                    continue
                if (task == "mul" and left * right >= LIMIT) or (
                    task == "div" and not 0 < right <= left
                ):
                    continue
                key = Problem(task, left, right).canonical
                (test if arithmetic.is_held_out(key) else train).add(key)
    assert not train & test
    assert 0.19 < len(test) / (len(train) + len(test)) < 0.21


def test_no_training_row_asks_a_test_problem() -> None:
    held_out = {row["id"].split("|")[0] for row in arithmetic.rows("test", 0, per_task=1000)}
    train = {row["id"].split("|")[0] for row in arithmetic.rows("train", 0, 50_000)}
    assert not held_out & train
    listed = arithmetic.multiplications("test")
    assert not {p.canonical for p in listed} & {
        p.canonical for p in arithmetic.multiplications("train")
    }


def test_a_thousand_distinct_test_problems_for_each_task() -> None:
    rows = list(arithmetic.rows("test", 3, per_task=1000))
    for task in TASKS:
        prompts = [row["prompt"] for row in rows if row["task"] == task]
        expressions = {arithmetic.parse_problem(prompt) for prompt in prompts}
        assert len(expressions) == 1000
    assert {row["language"] for row in rows} == set(arithmetic.LANGUAGES)
    trivial = [p for p in arithmetic.multiplications("test") if min(p.left, p.right) < 2]
    assert len(trivial) < 0.1 * len(arithmetic.multiplications("test"))


def test_ten_thousand_held_out_rows_no_two_alike() -> None:
    counts = {"add": 2659, "sub": 2659, "mul": 2024, "div": 2658}
    rows = list(arithmetic.rows("test", 0, per_task=counts))
    assert len(rows) == len({row["prompt"] for row in rows}) == 10_000
    assert {task: sum(row["task"] == task for row in rows) for task in TASKS} == counts
    products = {row["id"].split("|")[0] for row in rows if row["task"] == "mul"}
    assert len(products) == 510  # neither order nor language makes a multiplication another one
    with pytest.raises(ValueError, match="expected add, sub, mul, div; received pow"):
        next(arithmetic.rows("test", 0, per_task={"pow": 3}))


@given(st.integers(0, 10**6), st.sampled_from(TASKS))
def test_problems_beyond_the_range_are_four_digits_long_somewhere(seed: int, task: str) -> None:
    problem = beyond.draw_problem(task, random.Random(seed))
    numbers = [problem.left, problem.right, *map(int, problem.answer.split("r"))]
    assert problem.answer == expected_answer(problem)
    assert 999 < max(numbers) <= 9999 and min(numbers) >= 0


def test_rows_beyond_the_range_are_named_apart_and_only_tested_on() -> None:
    rows = list(beyond.rows("test", 0, per_task=50))
    assert len({row["prompt"] for row in rows}) == 200
    assert {row["domain"] for row in rows} == {"out_of_range"}
    assert not {row["task"] for row in rows} & set(TASKS)
    assert all(arithmetic.parse_problem(row["prompt"]) for row in rows)
    assert rows == list(beyond.rows("test", 0, per_task=50))
    with pytest.raises(ValueError, match="test"):
        next(beyond.rows("train", 0, 10))


def test_rows_depend_on_the_seed_alone() -> None:
    first = list(arithmetic.rows("train", 5, 300))
    assert first == list(arithmetic.rows("train", 5, 300))
    assert first != list(arithmetic.rows("train", 6, 300))
    assert first[:100] == list(arithmetic.rows("train", 5, 100))
    assert len(first) == 300


def test_row_keys_and_weights() -> None:
    row = next(arithmetic.rows("train", 0, 1, weights={"div": 1.0}, languages=("zh",)))
    assert set(row) == {"prompt", "completion", "answer", "domain", "task", "language", "id"}
    assert (row["task"], row["language"], row["domain"]) == ("div", "zh", "reasoning")
    assert row["completion"] == f"<answer>{row['answer']}</answer>"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>x</think><answer>25r3</answer>", True),
        ("<answer> 025r3 </answer>", True),
        ("25r3", True),
        ("<answer>25</answer>", False),
        ("<answer>25r3</answer><answer>25r3</answer>", False),
        ("<answer>25r3", False),
        ("", False),
        ("<answer>²⁵</answer>", False),
    ],
)
def test_checker(text: str, right: bool) -> None:
    assert arithmetic.is_correct(Problem("div", 203, 8), text) is right


@given(st.text(max_size=40))
def test_checker_never_raises(text: str) -> None:
    for said in (text, f"<answer>{text}</answer>"):
        assert arithmetic.is_correct(Problem("add", 1, 2), said) in (True, False)


def test_unknown_split_and_misplaced_per_task_are_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        next(arithmetic.rows("dev", 0, 1))
    with pytest.raises(ValueError, match="per_task"):
        next(arithmetic.rows("train", 0, per_task=5))


def test_data_modules_import_without_torch() -> None:
    code = (
        "import sys, r1pipe.data.corpus, r1pipe.data.general;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
