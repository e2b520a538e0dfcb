"""The multiple-choice reward: one clear choice counts, hedges and prose about letters do not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.choice import choice_reward, row_problems

CITIES = ["London", "Paris", "Rome", "A and B"]


def score(answer: str, gold="B", options=None, **recipe) -> float | None:
    completion = f"<think>hm</think><answer>{answer}</answer>"
    columns = {} if options is None else {"options": [options]}
    return choice_reward([completion], [gold], **columns, **recipe)[0]


@pytest.mark.parametrize(
    "answer",
    [
        "B", "b", "(B)", "(b)", "[B]", "B.", "b.", "B)", "B:", "B!", " \n B \n",
        "Ｂ", "（Ｂ）", "Ⓑ", "«B»", "「B」", "【B】", "B。", "B),", "\\{B\\}",
        "<b>B</b>", "#### B",
        "\"B\"", "'B'", "**B**", "*B*", "**(B)**", "`B`", "B ✓",
        "$B$", "\\(B\\)", "\\boxed{B}", "\\text{(B)}", "\\boxed{\\text{B}}", "\\mathrm{B}",
        "\\[ \\boxed{B} \\]", "$\\boxed{\\textbf{(B)}\\ 42}$", "\\textbf{(B) }12",
        "Option B", "option b", "Choice (B)", "Answer: B", "ANSWER: B", "Final answer: **B**",
        "The answer is B", "The answer is B.", "The correct answer is (B).", "It's B.",
        "the correct option is b", "I choose B", "I would choose B.", "I think the answer is B",
        "B is correct", "B is the correct answer.", "Option B is the best choice.",
        "So the answer is \\boxed{B}.", "The answer is **B) Paris**.", "B. B",
        "B) Paris", "B. Paris", "B: Paris", "(B) Paris", "B - Paris", "B – Paris", "B (Paris)",
        "B\nParis", "B\n\nBecause it is the capital.", "B because Paris is the capital",
        "B) Yes", "B) A cat", "B) It is not known", "B) red or blue",
        "B. The vitamin A hypothesis",
        "B) P(A) + P(C)",
        "Paris is the capital of France, so the answer is B.",
        "The capital is Paris. Therefore the answer is (B).",
        "答案是B", "答案：B", "选B", "正确答案是（B）", "正解はB", "정답은 B입니다", "ответ: B",
        "故选B", "答案为B。", "B 是正确的", "B选项", "الجواب هو B", "उत्तर B है",
        "Đáp án B", "คำตอบคือ B",
        "B.Paris", "B)Paris", "B—Paris", "B, Paris", "The answer is B, which is Paris.", "Ans. B",
        "Option B: Paris", "The answer is (B) Paris", "**Answer:** B", "Answer:\n\nB) Paris",
        "\\boxed{\\textbf{B. Paris}}", "I'm going with B", "The answer must be B",
        "B) x = 2, y = 3",
        "B) f(a) = b", "B) 3.5 A", "B) Both are correct", "B) None of the above",
        "The answer is B because A and C are wrong.",
        "Die richtige Antwort ist B", "La respuesta correcta es B", "La réponse est B",
    ],
)  # fmt: skip
def test_one_clear_choice_is_read_in_any_usual_form(answer: str) -> None:
    assert score(answer) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "", "A", "C", "K", "1", "Paris", "Be", "band", "bb", "BB", "B2", "B+", "B-", "!B", "¬B",
        "~B", "B≠",
        "A or B", "B or A", "either B", "maybe B", "A/B", "A|B", "B-D", "A-D", "B=C", "A B",
        "A, B", "A and B", "AB", "A\nB", "B\nC",
        "ABCD", "A B C D", "A, B, C, D", "A) B) C) D)", "A) London B) Paris C) Rome",
        "A) London\nB) Paris", "(A) or (B)", "B) Paris or C) Rome", "B) Paris, or maybe C",
        "B) Paris. Actually C", "B (or C)",
        "not B", "Not B.", "B is not correct", "B is wrong", "B) is wrong", "B) wrong",
        "B (not C)", "B isn't right", "It can't be B", "anything but B", "neither B", "B or not B",
        "all of them except B", "The answer is not B", "I would not choose B", "If not A then B",
        "The wrong answer is B", "The answer could be B", "It is false that the answer is B",
        "I am sure it is not A, the answer may be B", "The answer is A. Or B.", "between A and B",
        "\\boxed{A} or \\boxed{B}", "\\boxed{A}, \\boxed{B}", "\\boxed{A} \\boxed{B}",
        "A bee is an insect", "I bet",
        "B; C", "B... or C", "b/c", "(B)(C)", "1. B 2. C", "B (Paris) or C (Rome)",
        "B > C", "B → C",
        "B) Paris; C) Rome", "B. Paris C. Rome", "B: 50% C: 50%", "A. London B. Paris C. Rome",
        "Paris (B), Rome (C)", "B most likely, C possibly", "B but C", "Answer: B Answer: C",
        "B\nNo wait, C", "B) Paris\n\nActually, the answer is C", "B rather than C", "B over C",
        "B) Paris (C also works)", "b) paris\nc) rome", "B：巴黎 C：罗马", "选B或选C",
        "答案不是B", "B错误",
        "nicht B", "B? No.", "B seems unlikely", "B) can be ruled out",
        "B. This is not the answer.",
        "B - wrong answer", "B) no, it is C", "B, no, C", "B, not sure", "None of the above",
    ],
)  # fmt: skip
def test_hedges_denials_and_words_are_no_choice(answer: str) -> None:
    assert score(answer) == 0.0


def test_words_are_not_letters() -> None:
    for answer in ("I", "The answer is I", "(I)", "I is correct"):
        assert score(answer, "I") == 1.0
    for answer in ("A", "a", "The answer is A.", "A is correct", "A) dog"):
        assert score(answer, "A") == 1.0
    for answer in ("I think so", "I believe the answer is B", "I am not sure"):
        assert score(answer, "I") == 0.0
    for answer in ("A dog", "a dog", "It is a dog", "A good answer is B"):
        assert score(answer, "A") == 0.0


@pytest.mark.parametrize("gold", ["AC", "A, C", "A and C", "(A)(C)", ["A", "C"], ("c", "a"), "C,A"])
def test_several_right_choices_must_all_be_stated(gold) -> None:
    for answer in ("A and C", "A, C", "C, A", "AC", "(A), (C)", "A;C", "A 和 C", "A、C", "A+C",
                   "\\boxed{A, C}", "A) x\nC) y", "The answers are A and C."):  # fmt: skip
        assert score(answer, gold) == 1.0
    for answer in ("A", "C", "A or C", "A/C", "A-C", "A, B, C", "not A and C", "ABCD"):
        assert score(answer, gold) == 0.0


def test_the_text_of_an_option_counts_word_for_word() -> None:
    for answer in ("Paris", "paris.", "**Paris**", "\\boxed{Paris}", "B) Paris", "B Paris", "B"):
        assert score(answer, "B", CITIES) == 1.0
    for answer in ("Rome", "B) Rome", "London or Paris", "Par", "Paris, Texas", "not Paris"):
        assert score(answer, "B", CITIES) == 0.0
    assert score("A and B", "D", CITIES) == 1.0
    assert score("A and B", ["A", "B"], CITIES) == 0.0
    assert score("Paris", "Paris", CITIES) == score("B", "Paris", CITIES) == 1.0
    assert score("E. coli", "C", ["yeast", "algae", "E. coli"]) == 1.0
    assert score("Paris", "B", {"A": "London", "B": "Paris", "C": None}) == 1.0
    assert score("Paris", "B", {"a": "London", "b": "Paris"}) == 1.0


def test_equal_option_texts_decide_nothing() -> None:
    assert score("same", "A", ["same", "same"]) == 0.0
    assert score("mg", "B", ["Mg", "mg"]) == 1.0
    assert score("MG", "B", ["Mg", "mg"]) == 0.0
    # A letter is the choice, even where it is also the text of another option.
    assert score("B", "A", ["B", "C"]) == 0.0


def test_choices_may_be_other_letters_or_digits() -> None:
    for answer in ("2", "(2)", "Option 2", "2) Paris"):
        assert score(answer, "2", choices="1234") == 1.0
    for answer in ("12", "2.5", "1 or 2", "B"):
        assert score(answer, "2", choices="1234") == 0.0
    assert score("T", "T", choices="TF") == 1.0
    for choices in ("", "AA", "aA", "A B", "é"):
        with pytest.raises(UserError, match="choices"):
            score("B", choices=choices)


def test_only_the_answer_counts() -> None:
    texts = [
        "<think>B</think>",
        "<think><answer>B</answer>",
        "B",
        "<think>t</think><answer>B</answer><answer>C</answer>",
        "<think>t</think><answer></answer>",
        "t</think><answer>B</answer>",
    ]
    assert choice_reward(texts, ["B"] * 6) == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert choice_reward(["<answer>B</answer>"], ["B"], ["q <think>"]) == [0.0]


def test_rows_without_gold_are_left_out() -> None:
    assert choice_reward(["x", "<answer>b</answer>"], [None, "B"]) == [None, 1.0]
    with pytest.raises(UserError, match="neither a column `solution` nor `answer`"):
        choice_reward(["x"])


@pytest.mark.parametrize(
    ("gold", "options"),
    [
        *((gold, None) for gold in ("", "K", "A or B", "not B", "Paris", 2, True, [], ["A", 2])),
        ("D", ["London", "Paris"]),
        ("Oslo", CITIES),
        ("A", "London, Paris"),
        ("A", ["London", ""]),
        ("A", ["x"] * 11),
        ("A", {"A": "London", "z": "Paris"}),
        ("A", {}),
    ],
)
def test_gold_that_is_no_choice_is_an_error_that_names_the_row(gold, options) -> None:
    with pytest.raises(UserError, match="row `q1`"):
        choice_reward(["x"], [gold], options=[options], id=["q1"])
    rows = [{"solution": "A"}, {"solution": gold, "options": options}, {}]
    assert [index for index, _ in row_problems(rows)] == [1]


PIECES = ["A", "B", "b", "(", ")", ".", " ", "\n", "or", "the answer is ", "not ", "\\boxed{",
          "}", "应该", "选", "<answer>", "</answer>", "</think>", "\x00", "\ud800", "'",
          "I "]  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=100),
    st.lists(st.sampled_from(PIECES), max_size=15).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.booleans())
def test_any_text_gets_a_verdict(text: str, prefilled: bool) -> None:
    for completion in (text, f"<answer>{text}</answer>", [{"role": "assistant", "content": text}]):
        for options in (None, CITIES):
            (value,) = choice_reward([completion], ["B"], options=[options], prefilled=prefilled)
            assert value in (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=15).map("".join))
def test_no_text_is_right_for_two_choices(text: str) -> None:
    assert sum(score(text, gold) or 0 for gold in "ABCDEFGHIJ") <= 1


@pytest.mark.parametrize("piece", ["B", "B) ", "应该", "\\boxed{", "the ", "\x00", "e\u0301\u0316"])
def test_a_megabyte_is_only_long(piece: str) -> None:
    assert score(piece * (1_000_000 // len(piece))) == 0.0
    # Just short enough to be looked at.
    assert score(piece * (900 // len(piece)) + "x") in (0.0, 1.0)
