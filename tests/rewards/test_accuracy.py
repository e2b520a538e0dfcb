"""The accuracy reward: what counts as the answer, when it is right, and what it costs."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards import accuracy
from r1pipe.rewards.accuracy import (
    accuracy_reward,
    answer_in,
    boxed_answer,
    math_equal,
    row_problems,
)
from r1pipe.rewards.mathematics import BadGold
from r1pipe.rewards.restated import restates


def score(text: str, gold, method="exact", **columns) -> float | None:
    return accuracy_reward([text], [gold], method=method, **columns)[0]


def solved(answer: str, thought: str = "so") -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("this needs no worker")

    monkeypatch.setattr(accuracy, "run_all", refuse)


@pytest.mark.parametrize("gold", ["0", "25", "25r3", "-7", "999", "x", "ab c", 25, -7, 0.5, 1e-7])
@pytest.mark.parametrize("method", ["exact", "auto"])
@pytest.mark.usefixtures("no_workers")
def test_gold_earns_full_marks(gold, method: str) -> None:
    written = f"{gold:.7f}" if gold == 1e-7 else str(gold)
    assert score(solved(written), gold, method) == 1.0
    assert score(solved(f"\n {written} \n"), gold, method) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("025", "25", 1.0),
        ("25r0", "25", 1.0),
        ("25r03", "25r3", 1.0),
        ("２５", "25", 1.0),
        ("25r3", "25", 0.0),
        ("25", "25r3", 0.0),
        ("52", "25", 0.0),
        ("25.", "25", 0.0),
        ("24+1", "25", 0.0),
        ("25 26", "25", 0.0),
        ("2⁵", "25", 0.0),
        ("2₅", "25", 0.0),
        ("9" * 5000, "25", 0.0),
        ("", "25", 0.0),
        ("\u200b", "25", 0.0),
    ],
)
@pytest.mark.usefixtures("no_workers")
def test_exact_compares_one_spelling(answer: str, gold: str, right: float) -> None:
    assert score(solved(answer), gold) == right


@pytest.mark.usefixtures("no_workers")
def test_integers_and_quotients_need_no_worker() -> None:
    texts = [solved(answer) for answer in ("25", "26", "-25", "", "25r1", "x" * 10_000)]
    assert accuracy_reward(texts, ["25"] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert score(solved("\\frac{50}{2}"), "25r3", "auto") == 0.0


def test_the_reasoning_is_never_read() -> None:
    assert score("<think><answer>25</answer></think><answer>26</answer>", "25") == 0.0
    assert score("<think><answer>25</answer>", "25") == 0.0
    assert score("<think>\\boxed{25}</think>", "25", "auto") == 0.0
    assert score("<think>\\boxed{25}", "25", "auto") == 0.0
    assert score("25", "25") == 0.0


def test_a_prompt_that_opens_the_thinking_is_seen() -> None:
    text = "<answer>25</answer> hm"
    assert score(text, "25") == 1.0
    assert score(text, "25", prompts=["5*5?<think>\n"]) == 0.0
    assert score(text, "25", prefilled=True) == score(text, "25", prefilled=[True]) == 0.0
    chat = [{"role": "user", "content": "5*5?"}, {"role": "assistant", "content": "<think>"}]
    assert score("so</think><answer>25</answer>", "25", prompts=[chat]) == 1.0


def test_a_box_counts_in_the_answer_or_after_the_thinking() -> None:
    assert score(solved("it is \\boxed{25}."), "25", "auto") == 1.0
    assert score(solved("\\boxed{24}? No: \\boxed{25}"), "25", "auto") == 1.0
    assert score(solved("\\boxed{25}? No: \\boxed{24}"), "25", "auto") == 0.0
    assert score("<think>so</think> So \\boxed{25}.", "25", "auto") == 1.0
    assert score("<think>so</think> So \\boxed{25}.", "25", "exact") == 0.0
    assert score("<think>so</think><answer>26</answer> \\boxed{25}", "25", "auto") == 0.0
    assert score("<think>so</think><think>\\boxed{25}", "25", "auto") == 0.0


def test_several_boxes_in_a_row_are_one_answer() -> None:
    for hedge in (
        "\\boxed{24} or \\boxed{25}",
        "\\boxed{24}, \\boxed{25}",
        "\\boxed{24} $\\boxed{25}$",
    ):
        assert score(solved(hedge), "25", "auto") == 0.0
        assert score(f"<think>so</think> {hedge}", "25", "auto") == 0.0


def test_only_rows_of_its_domains_are_scored() -> None:
    rows = [solved("5")] * 3
    domains = ["reasoning", "general", None]
    assert accuracy_reward(rows, ["5", None, "5"], domain=domains) == [1.0, None, 1.0]
    assert accuracy_reward(rows[:1], domain=["general"]) == [None]
    both = accuracy_reward(rows, ["5", "6", "5"], domains=["reasoning", "general"], domain=domains)
    assert both == [1.0, 0.0, 1.0]


def test_rows_that_ask_for_a_query_are_left_to_the_sql_reward() -> None:
    rows, golds = [solved("5")] * 2, ["5", "SELECT 5 FROM t"]
    assert accuracy_reward(rows, golds, database=[None, "CREATE TABLE t (x)"]) == [1.0, None]
    assert row_problems([{"solution": golds[1], "database": "CREATE TABLE t (x)"}]) == []


def test_the_gold_column_has_two_names_and_may_have_gaps() -> None:
    rows = [solved("5")] * 2
    assert accuracy_reward(rows, ["5", None]) == [1.0, None]
    assert accuracy_reward(rows, answer=["5", "6"]) == [1.0, 0.0]
    assert accuracy_reward(rows, ["5", "5"], answer=["6", "6"]) == [1.0, 1.0]
    assert accuracy_reward(rows, ["5", None], answer=[None, "6"]) == [1.0, 0.0]
    with pytest.raises(UserError, match="`solution`"):
        accuracy_reward(rows)


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "  ",
        "\u200b",
        True,
        float("nan"),
        float("inf"),
        ["5"],
        {"a": 1},
        pytest.param(10**5000, id="huge"),
    ],
)
@pytest.mark.parametrize("method", ["exact", "auto", "math"])
def test_a_bad_gold_answer_is_an_error_that_names_the_row(gold, method: str) -> None:
    with pytest.raises(UserError, match="row `add-7`: gold answer"):
        score(solved("25"), gold, method, id=["add-7"])
    problems = row_problems([{"solution": "1"}, {"solution": gold}, {"answer": gold}])
    assert [index for index, _ in problems] == [1, 2]


def test_gold_is_checked_before_training() -> None:
    rows = [{"answer": "5"}, {"solution": "\\frac{1}{2}"}, {"solution": None}, {"solution": 2.5}]
    assert row_problems(rows) == []
    rows += [{"answer": "", "domain": "general"}, {"solution": "\\frac{1}{"}, {"answer": "5"}]
    assert [index for index, _ in row_problems(rows)] == [5]
    assert row_problems(rows, method="exact") == []
    both = row_problems(rows, domains=["reasoning", "general"])
    assert [index for index, _ in both] == [4, 5]
    with pytest.raises(UserError, match="row 0 of the batch: gold answer"):
        score(solved("5"), "\\frac{1}{", "math")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("$\\frac12$", "1/2"),
        ("x=5", "5"),
        ("x^2+1", "1+x^2"),
        ("\\sqrt{2}", "\\sqrt 2"),
        ("1,000", "1000"),
        ("50\\%", "50%"),
        ("monday", "Monday"),
        ("(1, 2)", "(1,2)"),
    ],
)
def test_equal_values_are_equal(answer: str, gold: str) -> None:
    assert math_equal(answer, gold)
    assert score(solved(answer), gold, "auto") == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("24+119", "143"),
        ("11\\times 13", "143"),
        ("(2,1)", "(1,2)"),
        ("listen", "silent"),
        ("25", "25r3"),
        ("5²", "52"),
        ("9" * 80, "5"),
        ("2^{99999999}", "5"),
        ("10^{10^{10^{10}}}", "5"),
        ("9!!!!!!", "5"),
        ("99999999!", "5"),
        ("\\binom{99999999}{4999999}", "5"),
        ("\\boxed{", "5"),
        ("$" * 500, "5"),
        ("(" * 400, "5"),
        ("e^{e^{e^{e^{99}}}}", "5"),
        ("\\sin(" * 60 + "1" + ")" * 60, "5"),
        ("{" * 300 + "5" + "}" * 300, "7"),
    ],
)
def test_wrong_unevaluated_and_exploding_answers_are_not(answer: str, gold: str) -> None:
    assert not math_equal(answer, gold)
    assert score(solved(answer), gold, "auto") == 0.0


def test_gold_that_cannot_be_read_is_told_apart() -> None:
    for gold in ("", " ", "\\frac{1}{"):
        with pytest.raises(BadGold):
            math_equal("\\frac{1}{2}", gold)


def test_the_verdict_does_not_depend_on_the_thread() -> None:
    cases = [("\\frac12", "0.5"), ("x=5", "5"), ("6", "5"), ("\\frac13", "0.5"), ("9!!!", "5")]
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.extend(math_equal(*case) for case in cases))
    thread.start()
    thread.join()
    assert verdicts == [math_equal(*case) for case in cases] == [True, True, False, False, False]


def test_what_gives_no_verdict_is_wrong_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [accuracy.TimedOut(), accuracy.Failed("no", "MemoryError"), accuracy.Done(True)]
    monkeypatch.setattr(accuracy, "run_all", lambda *_: outcomes)
    told: dict[str, float] = {}
    texts = [solved(f"\\frac{{{n}}}{{2}}") for n in (1, 3, 5)]
    rewards = accuracy_reward(texts, ["2.5"] * 3, log_metric=told.__setitem__)
    assert rewards == [0.0, 0.0, 1.0]
    assert told == {"rewards/accuracy/timed_out": 1.0, "rewards/accuracy/failed": 1.0}


@pytest.mark.parametrize(
    ("answer", "gold", "prompt"),
    [
        ("84/12", "7", "What is 84/12?"),
        ("84 / 12", "7", "Compute 84/12."),
        ("84/12", "7", "Compute $84 \\div 12$."),
        ("\\frac{84}{12}", "7", "What is 84/12?"),
        ("84/12", "7", "Simplify \\(\\dfrac{84}{12}\\)"),
        ("17*23", "391", "1) 17 × 23 = ?"),
        ("$17 \\times 23$", "391", "Find 17*23!"),
        ("x = 17*23", "391", "x=17*23"),
        ("(1+2)*3", "9", "What is (1 + 2) * 3?"),
        ("2^{10}", "1024", "Compute 2^10"),
        ("5!", "120", "What is 5!?"),
        ("2/4", "1/2", "Reduce 2/4."),
        ("1,000/8", "125", "1000/8"),
        ("\\sqrt{144}", "12", "What is √144?"),
    ],
)
def test_a_restated_question_is_no_answer(answer: str, gold: str, prompt: str) -> None:
    assert restates(answer, gold, prompt)
    chat = [[{"role": "user", "content": prompt}]]
    assert score(solved(answer), gold, "auto", prompts=[prompt]) == 0.0
    assert score(solved(answer), gold, "auto", prompts=chat) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "prompt"),
    [
        ("7", "7", "What is 84/12? 7"),
        ("1/2", "0.5", "What is 11/2 - 5?"),
        ("1/2", "0.5", "What is 1/2 + 0?"),
        ("3/4", "\\frac{3}{4}", "Which is larger, 3/4 or 2/3?"),
        ("3/4", "3/4", "Which is larger, 3/4 or 2/3?"),
        ("-5", "-5.0", "Is it -5 or 5?"),
        ("1,000", "1000.0", "Write 1,000 as a number"),
        ("x+1", "1+x", "What is x+1?"),
    ],
)
def test_other_answers_restate_nothing(answer: str, gold: str, prompt: str) -> None:
    assert not restates(answer, gold, prompt)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed {5}", "5"),
        ("\\fbox{5} so \\fbox{6}", "6"),
        ("\\boxed{\\frac{1}{2}} and", "\\frac{1}{2}"),
        ("\\boxed{1} so \\boxed{2}", "2"),
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("\\boxed{1}. \\boxed{2}", "2"),
        ("\\boxed{5", None),
        ("\\boxed", None),
        ("", None),
    ],
)
def test_the_last_box_whose_braces_close(text: str, content: str | None) -> None:
    assert boxed_answer(text) == content


tricky = st.text() | st.text(alphabet="0123456789+-*/^(){}[]\\$%,.=!abfrcxeiπ√½² \n\0\ud800")


@settings(max_examples=100, deadline=None)
@given(tricky, st.sampled_from(["{}", "<answer>{}</answer>", "<answer>\\boxed{{{}}}</answer>"]))
def test_any_text_is_only_wrong(text: str, around: str) -> None:
    prompt = f"{text} 84/12"
    texts = [around.format(text), around.format("\\frac{" + text + "}{2}")]
    for reward in accuracy_reward(texts, ["\\frac{1}{2}", "12 cm"], [prompt] * 2, timeout=0.5):
        assert reward in (0.0, 1.0)


@pytest.mark.parametrize(
    "piece", ["<answer>", "\\boxed{", "{", "1/", "\\frac", " ", "²", "\0", "\ud800"]
)
def test_a_million_characters(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert score(solved(text), "\\frac{1}{2}", "auto", prompts=[text]) == 0.0
    assert answer_in(text) is None or score(text, "5", "auto") == 0.0
    assert not restates("84/12", "7", text)
