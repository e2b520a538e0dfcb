"""The reward of general rows: the answer block equals the gold text."""

import pytest

from r1pipe.errors import UserError
from r1pipe.rewards.general import exact_answer_reward, row_problems


def score(text: str, gold, **columns) -> float | None:
    return exact_answer_reward(completions=[text], answer=[gold], domain=["general"], **columns)[0]


@pytest.mark.parametrize(
    ("text", "gold", "reward"),
    [
        ("<answer>abc</answer>", "abc", 1.0),
        ("<answer> a  b\n</answer>", "a b", 1.0),
        ("<answer>ａｂｃ</answer>", "abc", 1.0),
        ("<think>t</think><answer>abc</answer>", "abc", 1.0),
        ("<answer>ABC</answer>", "abc", 0.0),
        ("<answer>cba</answer>", "abc", 0.0),
        ("<answer>007</answer>", "7", 0.0),
        ("<answer>ab</answer>", "abc", 0.0),
        ("<think>abc</think>", "abc", 0.0),
        ("<think><answer>abc</answer>", "abc", 0.0),
        ("abc", "abc", 0.0),
        ("", "abc", 0.0),
        ("<answer>二十五</answer>", "二十五", 1.0),
    ],
)
def test_exact_answer(text: str, gold: str, reward: float) -> None:
    assert score(text, gold) == reward


def test_other_rows_are_left_out_and_need_no_gold() -> None:
    assert exact_answer_reward(completions=["x"]) == [None]
    rewards = exact_answer_reward(
        completions=["<answer>a</answer>"] * 3,
        answer=[None, "a", None],
        domain=["reasoning", "general", "general"],
    )
    assert rewards == [None, 1.0, None]


def test_gold_is_the_solution_or_else_the_answer_of_a_row() -> None:
    texts = ["<answer>a</answer>"] * 2
    domain = ["general"] * 2
    assert exact_answer_reward(texts, ["a", "b"], domain=domain) == [1.0, 0.0]
    assert exact_answer_reward(texts, [None, "b"], None, ["a", "a"], domain=domain) == [1.0, 0.0]
    with pytest.raises(UserError, match="neither a column `solution` nor `answer`"):
        exact_answer_reward(texts, domain=domain)


def test_a_prompt_may_have_opened_the_thinking() -> None:
    texts = ["<answer>abc</answer>", "t</think><answer>abc</answer>"]
    columns = {"solution": ["abc"] * 2, "domain": ["general"] * 2}
    assert exact_answer_reward(texts, prompts=["q<think>"] * 2, **columns) == [0.0, 1.0]
    assert exact_answer_reward(texts, prompts=["q"] * 2, **columns) == [1.0, 1.0]


@pytest.mark.parametrize("gold", ["", "\u200b", 5, ["a"]])
def test_bad_gold_is_an_error(gold) -> None:
    with pytest.raises(UserError, match="row `g1`"):
        score("<answer>a</answer>", gold, id=["g1"])


def test_bad_rows_are_named_before_training() -> None:
    rows = [
        {"answer": "a", "domain": "general"},
        {"answer": " ", "domain": "general"},
        {"solution": 5, "domain": "general"},
        {"answer": "", "domain": "reasoning"},
        {"domain": "general"},
    ]
    assert [index for index, _ in row_problems(rows)] == [1, 2]
    assert [index for index, _ in row_problems(rows, domains=["reasoning"])] == [3]
    assert getattr(exact_answer_reward, "row_problems") is row_problems  # noqa: B009
