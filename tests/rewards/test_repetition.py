"""The repetition penalty: loops cost, in any script, honest text does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.repetition import repeated_share, repetition_penalty

HONEST = (
    "We want the sum of the first ten odd numbers. The first is 1 and the last is 19, so the mean "
    "is 10 and the sum is 100. To check, add the pairs 1 + 19, 3 + 17, 5 + 15, 7 + 13 and 9 + 11: "
    "there are five of them and each one makes 20, which gives 100 again."
)


def penalty(text: str, **options) -> float:
    (value,) = repetition_penalty([text], **options)
    assert value is not None
    return value


def naive(units: list, size: int) -> float:
    grams = [tuple(units[start : start + size]) for start in range(len(units) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def test_the_formula_is_one_minus_distinct_over_all() -> None:
    # a b a b a b: five pairs, two of them different.
    assert penalty("a b a b a b", ngram_size=2) == pytest.approx(-3 / 5)
    assert penalty("a b a b a b", ngram_size=2, max_penalty=-0.5) == pytest.approx(-3 / 10)
    assert penalty("A a A a", ngram_size=1) == pytest.approx(-3 / 4)
    assert penalty("a b c d", ngram_size=2) == 0.0


@pytest.mark.parametrize("text", ["", " \n", "one two three", HONEST])
def test_short_and_honest_texts_cost_nothing(text: str) -> None:
    assert penalty(text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "wait, let me check. " * 100,
        f"{HONEST} " * 20,
        "再检查一遍。" * 100,
        "もう一度確かめます。" * 100,
        "ลองตรวจอีกครั้ง" * 100,
        "ещё раз проверим. " * 100,
        "फिर से जाँचते हैं। " * 100,
        "3" * 2000,
        "haha" * 500,
        "!" * 2000,
        "= - " * 500,
        "<answer>" * 300,
    ],
)
def test_loops_cost_nearly_everything(text: str) -> None:
    assert -1.0 <= penalty(text) < -0.9


def test_units_are_words_characters_or_tokens() -> None:
    assert penalty("ab ab", ngram_size=2, unit="characters") == pytest.approx(-1 / 3)
    ids = [[1, 2, 1, 2, 1, 2], [1, 2, 3]]
    got = repetition_penalty(["x", "y"], completion_ids=ids, ngram_size=2, unit="tokens")
    assert got == pytest.approx([-3 / 5, 0.0])
    with pytest.raises(UserError, match="completion_ids"):
        repetition_penalty(["x"], unit="tokens")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ngram_size": 0}, "ngram_size"),
        ({"max_penalty": 0.5}, "max_penalty"),
        ({"max_penalty": float("nan")}, "max_penalty"),
        ({"max_penalty": float("-inf")}, "max_penalty"),
        ({"unit": "bytes"}, "unit"),
    ],
)
def test_options_that_make_no_sense_are_errors(options: dict, told: str) -> None:
    with pytest.raises(UserError, match=f"reward.repetition.{told}"):
        repetition_penalty(["x"], **options)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_the_share_is_that_of_counting_tuples(units: list[int], size: int) -> None:
    assert repeated_share(units, size) == pytest.approx(naive(units, size))


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=200),
    st.integers(1, 5),
    st.sampled_from(["words", "characters"]),
)
def test_any_text_gets_a_penalty_in_range(text: str, size: int, unit) -> None:
    for completion in (text, [{"role": "assistant", "content": text}]):
        (value,) = repetition_penalty([completion], ngram_size=size, unit=unit)
        assert value is not None and -1.0 <= value <= 0.0


@pytest.mark.parametrize("piece", ["a", "进", "\x00", "\ud800", "e\u0301\u0316", "<think>", " "])
def test_a_megabyte_is_only_long(piece: str) -> None:
    assert -1.0 <= penalty(piece * (1_000_000 // len(piece))) <= 0.0
