"""Traces: every step recomputed from its text, languages, web-like styles, the corpus."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.data import arithmetic, corpus, traces
from r1pipe.data.arithmetic import TASKS, Problem

FORM = re.compile(r"<think>([^<>]+)</think><answer>([^<>]+)</answer>")
SUM_STEP = re.compile(r"(\d)([+\-])(\d)[+\-](\d)=(\d)(\d) ")
PRODUCT_STEP = re.compile(r"(\d)\*(\d)=(\d\d) \+(\d)=(\d\d) ")
COLUMN = r"(\d)\+(\d)\+(\d)=(\d)(\d) "
PRODUCT_IN_COLUMNS = re.compile(rf"(\d)\*(\d)=(\d)(\d) {COLUMN}{COLUMN}")
STEP = re.compile(r"\d\*\d=\d\d (?:\+\d=\d\d )?|\d\+\d\+\d=\d\d ")
LATIN, CHINESE = re.compile(r"[a-z]"), re.compile(r"[\u4e00-\u9fff]")

problems = st.builds(
    lambda task, split, seed: arithmetic.draw_problem(task, split, random.Random(seed)),
    st.sampled_from(TASKS),
    st.sampled_from(("train", "test")),
    st.integers(0, 10**6),
)
languages = st.sampled_from(arithmetic.LANGUAGES)


def read_number(digits: list[str]) -> int:
    """A number from its digits, ones first."""
    return int("".join(reversed(digits)))


@given(problems, languages)
def test_completion_has_the_form_and_the_answer(problem: Problem, language: str) -> None:
    match = FORM.fullmatch(traces.gold_completion(problem, language))
    assert match and match[2] == problem.answer
    assert arithmetic.is_correct(problem, match[0])
    foreign = CHINESE if language == "en" else LATIN
    native = LATIN if language == "en" else CHINESE
    assert native.search(match[1]) and not foreign.search(match[1])


@given(st.sampled_from(("add", "sub")), st.integers(0, 10**6), languages)
def test_column_sums_are_right_step_by_step(task: str, seed: int, language: str) -> None:
    problem = arithmetic.draw_problem(task, "train", random.Random(seed))
    steps = SUM_STEP.findall(traces.think_text(problem, language))
    assert len(steps) == 3
    assert read_number([step[0] for step in steps]) == problem.left
    assert read_number([step[2] for step in steps]) == problem.right
    previous_flag = "0"
    for a, sign, b, carry, flag, digit in steps:
        assert carry == previous_flag
        result = int(a) + int(b) + int(carry) if sign == "+" else int(a) - int(b) - int(carry)
        assert result == (
            10 * int(flag) + int(digit) if sign == "+" else int(digit) - 10 * int(flag)
        )
        previous_flag = flag
    assert previous_flag == "0"
    assert read_number([step[5] for step in steps]) == int(problem.answer)


@given(st.integers(0, 10**6), languages, st.booleans())
def test_long_multiplication_is_right_step_by_step(
    seed: int, language: str, carry_in_columns: bool
) -> None:
    problem = arithmetic.draw_problem("mul", "train", random.Random(seed))
    text = traces.think_text(problem, language, carry_in_columns)
    longer, shorter = sorted((str(problem.left), str(problem.right)), key=len, reverse=True)
    words = traces.TRACE_WORDS[language]
    parts = re.split("|".join(words[name] for name in ("ones", "tens", "sum")), text)[1:]
    read_row = row_in_columns if carry_in_columns else row_at_once
    total = 0
    for place, (part, factor) in enumerate(zip(parts, reversed(shorter), strict=False)):
        digits = longer.zfill(3)[::-1][: 3 - place]
        total += read_number(read_row(part, digits, factor)) * 10**place
    assert total == problem.left * problem.right
    assert len(parts) == (3 if len(shorter) == 2 else 1)
    if len(shorter) == 2:
        columns = SUM_STEP.findall(parts[2])
        assert all(int(a) + int(b) + int(c) == int(f + d) for a, _, b, c, f, d in columns)
        assert read_number([column[-1] for column in columns]) == total // 10


def row_at_once(text: str, factors: str, factor: str) -> list[str]:
    """The digits of a row, ones first; every step is looked at."""
    digits, carried = [], "0"
    for digit, step in zip(factors, PRODUCT_STEP.findall(text), strict=True):
        a, b, product, carry, result = step
        assert (a, b, carry) == (digit, factor, carried)
        assert int(a) * int(b) == int(product) and int(product) + int(carry) == int(result)
        digits, carried = [*digits, result[1]], result[0]
    assert carried == "0"
    return digits


def row_in_columns(text: str, factors: str, factor: str) -> list[str]:
    """The same, where a carry is added in two columns."""
    digits, carried = [], "0"
    for digit, step in zip(factors, PRODUCT_IN_COLUMNS.findall(text), strict=True):
        a, b, tens, ones, x, carry, none, flag, low, y, nothing, flagged, no_flag, high = step
        assert (a, b, x, carry, y) == (digit, factor, ones, carried, tens)
        assert (none, nothing, flagged, no_flag) == ("0", "0", flag, "0")
        assert int(a) * int(b) == int(tens + ones)
        assert int(flag + low) == int(x) + int(carry) and int(high) == int(y) + int(flag)
        digits, carried = [*digits, low], high
    assert carried == "0"
    return digits


def test_in_columns_no_step_of_a_held_out_multiplication_is_new() -> None:
    """Else nobody could learn it from the train split, by supervision or by reward."""

    def steps(split: str, carry_in_columns: bool) -> set[str]:
        texts = (
            traces.think_text(problem, "en", carry_in_columns)
            for problem in arithmetic.multiplications(split)
        )
        return {step for text in texts for step in STEP.findall(text)}

    assert len(steps("test", True)) > 200
    assert not steps("test", True) - steps("train", True)
    assert steps("test", False) - steps("train", False), "added at once, some are"


def test_a_corpus_and_a_source_write_products_as_they_are_asked_to() -> None:
    for asked in (False, True):
        rows = [
            *corpus.rows("train", 5, 300, web_share=0.5, carry_in_columns=asked),
            *traces.rows("train", 5, 50, carry_in_columns=asked),
        ]
        products = [
            text
            for row in rows
            for text in (row["prompt"], row["completion"])
            if re.search(r"\d\*\d=", text)
        ]
        assert len(products) > 40
        assert all(bool(PRODUCT_IN_COLUMNS.search(text)) == asked for text in products)
        assert all(bool(PRODUCT_STEP.search(text)) != asked for text in products)


@given(st.integers(0, 10**6))
def test_long_division_is_right_step_by_step(seed: int) -> None:
    problem = arithmetic.draw_problem("div", "train", random.Random(seed))
    text = traces.think_text(problem, "en")
    quotient, carried = "", 0
    places = re.findall(
        r"(?:hundreds|tens|ones) ((?:=0\d ){3})((?:\d(?:=\d\d ){3})+)so =0(\d) ", text
    )
    assert len(places) == 3
    for (state, trials, digit), dividend_digit in zip(places, f"{problem.left:03d}", strict=True):
        remainder = read_number(re.findall(r"=0(\d)", state))
        assert remainder == 10 * carried + int(dividend_digit)
        tries = re.findall(r"(\d)((?:=\d\d ){3})", trials)
        for count, (label, trial) in enumerate(tries):
            columns = re.findall(r"=(\d)(\d) ", trial)
            assert int(label) == count
            difference = read_number([column[1] for column in columns])
            borrowed = columns[-1][0] == "1"
            assert difference - 1000 * borrowed == remainder - problem.right
            assert borrowed == (count == len(tries) - 1)
            remainder = remainder if borrowed else difference
        assert int(digit) == len(tries) - 1
        quotient, carried = quotient + digit, remainder
    assert int(quotient) == problem.left // problem.right
    assert carried == problem.left % problem.right
    assert read_number(re.findall(r"=0(\d)", text.split("left")[1])) == carried


@given(problems)
def test_a_trace_starts_with_both_numbers_ones_first(problem: Problem) -> None:
    first = traces.think_text(problem, "en").split(" ")[0]
    assert first[::-1] == f"{problem.right:03d}{first[3]}{problem.left:03d}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_trace_rows_match_the_direct_rows(split: str) -> None:
    for direct, traced in zip(
        arithmetic.rows(split, 2, 200), traces.rows(split, 2, 200), strict=True
    ):
        assert {**direct, "completion": ""} == {**traced, "completion": ""}
        assert FORM.fullmatch(traced["completion"])


@given(problems, languages, st.sampled_from(traces.WEB_FORMS), st.integers(0, 1000))
def test_web_like_completions_keep_to_their_form(
    problem: Problem, language: str, form: str, seed: int
) -> None:
    text = traces.web_like_completion(problem, language, form, random.Random(seed))
    assert ("<answer>" in text) == (form in ("answer", "tagged"))
    assert ("<think>" in text) == (form == "tagged")
    assert (traces.think_text(problem, language) in text) == (form in ("working", "tagged"))
    assert text.removesuffix("</answer>").endswith(problem.answer)
    words = re.sub(r"<.*?>|\dr\d", "", text)
    assert not (CHINESE if language == "en" else LATIN).search(words)


def test_mixed_working_mixes_and_errors_appear() -> None:
    rng = random.Random(0)
    problem = Problem("div", 742, 37)
    mixed = traces.web_like_completion(problem, "en", "working", rng, mixed=True)
    assert CHINESE.search(mixed) and LATIN.search(mixed)
    wrong = [
        traces.web_like_completion(problem, "en", "answer", rng, error_rate=1.0) for _ in range(20)
    ]
    assert not any(arithmetic.is_correct(problem, text) for text in wrong)


def test_corpus_order_share_and_determinism() -> None:
    rows = list(corpus.rows("train", 1, 1000, web_share=0.3))
    assert len(rows) == 1000 and rows == list(corpus.rows("train", 1, 1000, web_share=0.3))
    skill, web = rows[:700], rows[700:]
    assert all("<answer>" in row["completion"] for row in skill)
    assert sum("<answer>" not in row["completion"] for row in web) > 50
    assert (
        {row["domain"] for row in skill}
        == {row["domain"] for row in web}
        == {"reasoning", "general"}
    )


def test_corpus_asks_and_shows_no_test_problem() -> None:
    for row in corpus.rows("train", 3, 5000, web_share=0.5, few_shot_share=0.5):
        if row["domain"] == "reasoning":
            for line in row["prompt"].splitlines():
                problem = arithmetic.parse_problem(line) if re.match("compute|计算", line) else None
                assert problem is None or not arithmetic.is_held_out(problem.canonical)


def test_few_shot_rows_show_a_clean_example_first() -> None:
    for row in corpus.few_shot_rows("train", 0, 50):
        first, example, last = row["prompt"].rstrip("\n").split("\n")
        shown = arithmetic.parse_problem(first)
        assert shown is not None and example == traces.gold_completion(shown, row["language"])
        assert arithmetic.parse_problem(last).canonical == row["id"].split("|")[0]
