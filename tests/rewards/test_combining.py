"""Gates and weighted sums."""

import pytest

from r1pipe.errors import UserError
from r1pipe.rewards.building import build_rewards, check_reward_terms
from r1pipe.rewards.combining import gated, weighted
from r1pipe.schema import RewardTerm


def values(*fixed):
    return lambda completions, **columns: list(fixed)


def test_a_closed_gate_takes_what_was_earned_and_leaves_what_was_lost() -> None:
    reward = gated(values(1.0, 1.0, -0.5, None, 0.5), values(1.0, 0.0, 0.0, 0.0, None))
    assert reward(completions=["a"] * 5) == [1.0, 0.0, -0.5, None, 0.5]


def test_a_gate_may_ask_for_less_than_full_marks() -> None:
    gate = values(0.75, 0.5)
    assert gated(values(1.0, 1.0), gate, least=0.75)(completions=["a", "b"]) == [1.0, 0.0]


def test_a_weighted_sum_leaves_out_what_does_not_apply() -> None:
    parts = {"a": (values(1.0, None, None), 2.0), "b": (values(0.5, 0.5, None), 1.0)}
    assert weighted(parts)(completions=["x"] * 3) == [2.5, 0.5, None]
    mean = weighted(parts, normalise="weights")(completions=["x"] * 3)
    assert mean == [pytest.approx(2.5 / 3), 0.5, None]


def test_weights_that_cannot_be_divided_by_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        weighted([(values(1.0), -1.0)], normalise="weights")
    with pytest.raises(ValueError, match="no rewards"):
        weighted([])


GOOD, BARE = "<think>add</think><answer>5</answer>", "<answer>5</answer>"


def test_a_recipe_gates_accuracy_by_the_form() -> None:
    terms = {
        "accuracy": RewardTerm(weight=1.0, gate="format", method="exact"),
        "format": RewardTerm(weight=0.5),
    }
    (accuracy, form), weights = build_rewards(terms)
    columns = {"answer": ["5", "5"], "prompts": ["2+3", "2+3"]}
    assert accuracy(completions=[GOOD, BARE], **columns) == [1.0, 0.0]
    assert form(completions=[GOOD, BARE], **columns) == [1.0, 0.0]
    assert (accuracy.__name__, weights) == ("accuracy", [1.0, 0.5])
    assert accuracy.best == 1.0


def test_a_gate_that_is_not_there_is_told_with_the_nearest_name() -> None:
    terms = {"accuracy": RewardTerm(weight=1.0, gate="formt"), "format": RewardTerm(weight=1.0)}
    (problem,) = check_reward_terms(terms)
    assert problem.where == "accuracy.gate" and "did you mean `format`" in (problem.hint or "")
    (problem,) = check_reward_terms({"format": RewardTerm(weight=1.0, gate="format")})
    assert "not another reward" in problem.what


def test_a_recipe_nests_rewards() -> None:
    inside = {"accuracy": {"weight": 3.0, "method": "exact"}, "format": {"weight": 1.0}}
    term = RewardTerm(weight=2.0, terms=inside, normalise="weights")
    (reward,), weights = build_rewards({"weighted": term})
    values = reward(completions=[GOOD, BARE], answer=["5", "5"], prompts=["2+3", "2+3"])
    assert values == [1.0, 0.75]
    assert (reward.__name__, weights) == ("weighted", [2.0])
    assert reward.best == 1.0
    assert reward.row_problems([{"answer": ""}])[0][0] == 0


def test_what_is_wrong_inside_is_told_with_its_whole_key() -> None:
    inside = {"acuracy": {"weight": 1.0}, "format": {"weight": 1.0, "gate": "sql"}}
    problems = check_reward_terms({"weighted": RewardTerm(weight=1.0, terms=inside)}, "reward.")
    assert {problem.where for problem in problems} == {
        "reward.weighted.terms.acuracy",
        "reward.weighted.terms.format.gate",
    }
    with pytest.raises(UserError):
        build_rewards({"weighted": RewardTerm(weight=1.0, terms={"format": {}})})
