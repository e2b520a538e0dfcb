"""The length rewards: DAPO's penalty by formula, Kimi's within the group of a prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.length import length_reward, row_problems, soft_overlong_penalty


def ids(*lengths: int) -> list[list[int]]:
    return [[7] * length for length in lengths]


def same_text(completions, solution=None, **columns):
    return [
        None if gold is None else float(text == gold)
        for text, gold in zip(completions, solution, strict=True)
    ]


def test_the_penalty_falls_in_a_line_over_the_cache() -> None:
    lengths = [0, 79, 80, 81, 90, 99, 100, 101, 1000]
    got = soft_overlong_penalty(["x"] * 9, ids(*lengths), max_length=100, cache=20)
    assert got == pytest.approx([0, 0, 0, -0.05, -0.5, -0.95, -1, -1, -1])


def test_without_a_cache_the_limit_is_hard() -> None:
    assert soft_overlong_penalty(["x"] * 2, ids(10, 11), max_length=10, cache=0) == [0.0, -1.0]


def test_characters_may_stand_in_for_tokens() -> None:
    got = soft_overlong_penalty(["x" * 5, "x" * 9], max_length=10, cache=4, unit="characters")
    assert got == [0.0, -0.75]
    with pytest.raises(UserError, match="completion_ids"):
        soft_overlong_penalty(["x"])


@pytest.mark.parametrize(
    "options", [{"max_length": 10, "cache": 11}, {"cache": -1}, {"max_length": 0, "cache": 0}]
)
def test_a_cache_that_does_not_fit_is_an_error(options: dict) -> None:
    with pytest.raises(UserError, match="cache"):
        soft_overlong_penalty(["x"], ids(1), **options)
    with pytest.raises(UserError, match="unit"):
        soft_overlong_penalty(["x"], ids(1), unit="bytes")  # pyright: ignore[reportArgumentType]


def lengths_of(texts, golds, lengths, prompts, **options):
    return length_reward(texts, golds, ids(*lengths), prompts, correctness=same_text, **options)


def test_short_right_answers_gain_and_long_wrong_ones_lose() -> None:
    got = lengths_of("aaxx", "aaaa", [10, 20, 10, 20], ["p"] * 4)
    assert got == pytest.approx([0.5, -0.5, 0.0, -0.5])
    got = lengths_of("axa", "aaa", [10, 15, 20], ["p"] * 3)
    assert got == pytest.approx([0.5, 0.0, -0.5])


def test_groups_are_the_same_prompts_wherever_they_stand() -> None:
    chat = [{"role": "user", "content": "p"}]
    prompts = ["p", chat, "p", [dict(chat[0])]]
    assert lengths_of("aaaa", "aaaa", [1, 5, 3, 9], prompts) == [0.5, 0.5, -0.5, -0.5]


def test_one_completion_or_one_length_gets_nothing() -> None:
    assert lengths_of("ax", "aa", [3, 9], ["p", "q"]) == [0.0, 0.0]
    assert lengths_of("ax", "aa", [3, 3], ["p", "p"]) == [0.0, 0.0]


def test_rows_without_a_verdict_are_no_part_of_their_group() -> None:
    got = lengths_of("aaa", ["a", None, "a"], [2, 100, 4], ["p"] * 3)
    assert got == [0.5, None, -0.5]


def test_characters_of_the_completion_may_be_counted() -> None:
    got = length_reward(["a", "aaa"], ["a", "aaa"], None, ["p"] * 2, unit="characters",
                        correctness=same_text)  # fmt: skip
    assert got == [0.5, -0.5]


def test_missing_columns_are_errors() -> None:
    with pytest.raises(UserError, match="prompts"):
        length_reward(["a"], ["a"], ids(1), correctness=same_text)
    with pytest.raises(UserError, match="completion_ids"):
        length_reward(["a"], ["a"], None, ["p"], correctness=same_text)


def test_correctness_sees_the_row_and_the_prompt() -> None:
    seen = {}

    def spy(completions, **columns):
        seen.update(columns)
        return [1.0] * len(completions)

    length_reward(["a"], ["g"], ids(1), ["p"], prefilled=True, correctness=spy, domain=["d"])
    assert seen["solution"] == ["g"] and seen["prompts"] == ["p"]
    assert seen["prefilled"] is True and seen["domain"] == ["d"]


def test_right_and_wrong_are_told_by_the_accuracy_reward() -> None:
    texts = [f"<think>t</think><answer>{n}</answer>" for n in ("13", "13", "14")]
    assert length_reward(texts, ["13"] * 3, ids(5, 9, 5), ["p"] * 3) == [0.5, -0.5, 0.0]
    assert [index for index, _ in row_problems([{"solution": "13"}, {"solution": " "}])] == [1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(alphabet=st.characters(exclude_categories=()), max_size=30),
            st.sampled_from(["p", "q"]),
            st.sampled_from([0.0, 1.0, None]),
        ),
        max_size=8,
    )
)
def test_any_texts_get_rewards_in_range(rows: list[tuple[str, str, float | None]]) -> None:
    texts = [text for text, _, _ in rows]
    verdicts = [verdict for _, _, verdict in rows]
    got = length_reward(
        texts,
        prompts=[prompt for _, prompt, _ in rows],
        unit="characters",
        correctness=lambda completions, **columns: verdicts,
    )
    for value, verdict in zip(got, verdicts, strict=True):
        assert (value is None) == (verdict is None)
        assert value is None or -0.5 <= value <= (0.5 if verdict else 0.0)
    for value in soft_overlong_penalty(texts, max_length=20, cache=10, unit="characters"):
        assert value is not None and -1.0 <= value <= 0.0
