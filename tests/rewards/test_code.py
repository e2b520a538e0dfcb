"""The code reward: which program, which tests, which score, and what is wrong with a row."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.code import code_reward, row_problems, verify

pytestmark = pytest.mark.usefixtures("sandboxed")

ADD = "def add(a, b):\n    return a + b\n"
TESTS = [{"assert": "assert add(1, 2) == 3"}]


def answer(program: str, language: str = "python") -> str:
    return f"<think>Let me add.</think><answer>\n```{language}\n{program}\n```\n</answer>"


def test_the_answer_is_run_and_the_reasoning_is_not() -> None:
    reasoned = f"<think>\n```python\n{ADD}\n```\n</think><answer>It adds.</answer>"
    rewards = code_reward(
        [answer(ADD), answer("def add(a, b): return a"), reasoned, ADD, ""],
        verification=[TESTS] * 5,
    )
    assert rewards == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_fence_outside_the_reasoning_is_read_where_there_is_no_answer_block() -> None:
    fenced = f"```python\n{ADD}\n```"
    completions = [
        fenced,
        f"<think>so</think>\n{fenced}",
        f"<think>{fenced}</think> Done.",
        f"<think>{fenced}",
        f"{fenced}<answer>",
        f"{fenced}</think><answer>It adds.</answer>",
    ]
    rewards = code_reward(completions, verification=[TESTS] * 6)
    assert rewards == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert code_reward([fenced], verification=[TESTS], prompts=["Add.<think>"]) == [0.0]


def test_a_row_without_tests_has_no_reward() -> None:
    assert code_reward([answer(ADD), answer(ADD)], verification=[None, TESTS]) == [None, 1.0]


def test_message_lists_and_a_prompt_that_opened_the_thinking() -> None:
    message = [{"role": "assistant", "content": f"So.</think><answer>{ADD}</answer>"}]
    prompts = ["Write add.\n<think>"]
    assert code_reward([message], verification=[TESTS], prompts=prompts) == [1.0]
    unclosed = f"So <answer>{ADD}</answer>"
    assert code_reward([unclosed], verification=[TESTS], prompts=prompts) == [0.0]
    assert code_reward([unclosed], verification=[TESTS], prefilled=False) == [1.0]


def test_share_counts_the_passed_tests() -> None:
    tests = [
        {"call": "add", "args": [1, 2], "returns": 3},
        {"call": "add", "args": [-1, -2], "returns": -3},
        {"assert": "assert add(2, 2) == 4"},
        {"assert": "assert add('a', 'b') == 'ab'"},
    ]
    program = "def add(a, b):\n    return abs(a + b)\n"
    assert code_reward([answer(program)], verification=[tests], score="share") == [0.5]
    assert code_reward([answer(program)], verification=[tests], score="all") == [0.0]


def test_a_test_that_breaks_the_process_costs_only_itself_with_share() -> None:
    program = "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return x\n"
    tests = [{"call": "f", "args": [x], "returns": x} for x in (1, 2, 3)]
    verdict = verify(program, tests)
    assert [result.passed for result in verdict.results] == [True, False, True]
    verdict = verify(program, [{"assert": f"assert f({x}) == {x}"} for x in (1, 2, 3)])
    assert [result.passed for result in verdict.results] == [True, False, True]


def test_all_stops_at_the_first_failure() -> None:
    tests = [{"assert": f"assert add(1, 2) == {n}"} for n in (4, 3)]
    verdict = verify(ADD, tests, stop_at_failure=True)
    assert [result.reason for result in verdict.results][1:] == ["not run"]


def test_the_tests_may_be_json_text_and_mixed() -> None:
    program = f"{ADD}\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))\n"
    tests = [
        {"stdin": "1 2\n", "stdout": "3\n", "call": None, "assert": None, "returns": None},
        {"call": "add", "args": [1, 2], "returns": 3, "stdin": None, "stdout": None},
        {"assert": "assert add(1, 2) == 3", "call": None},
    ]
    rows = [tests, json.dumps(tests), "assert add(1, 2) == 3", ["assert add(1, 2) == 3"]]
    assert code_reward([answer(program)] * 4, verification=rows) == [1.0] * 4


@pytest.mark.parametrize(
    ("program", "language"),
    [
        (ADD, "python"),
        (ADD, "py"),
        (ADD, "Python3"),
        (ADD, ""),
        (f"print('first')\n```\nand then\n```python\n{ADD}", "python"),
        (f"{ADD}\n```\nRun it:\n```bash\npython add.py", "python"),
        (f"{ADD}\n```\nwhich prints\n```\n3", "python"),
    ],
)
def test_the_last_python_block_is_the_program(program: str, language: str) -> None:
    assert code_reward([answer(program, language)], verification=[TESTS]) == [1.0]


@pytest.mark.parametrize(
    "text", ["", "  \n", "```python\n\n```", "```java\nint x;\n```", "\0", "I add."]
)
def test_an_answer_without_a_program_earns_nothing(text: str) -> None:
    assert code_reward([f"<think>x</think><answer>{text}</answer>"], verification=[TESTS]) == [0.0]


BAD_ROWS = {
    "no test": [],
    "text": "add two numbers",
    "number": 3,
    "no kind": [{"input": "3"}],
    "two kinds": [{"call": "f", "args": [], "returns": 1, "stdout": "1"}],
    "no expected value": [{"call": "f", "args": [1]}],
    "not plain": [{"call": "f", "args": [], "returns": object()}],
    "not plain inside": [{"call": "f", "args": [], "returns": [{1: object()}]}],
    "no name": [{"call": "f()", "args": [], "returns": 1}],
    "args": [{"call": "f", "args": 3, "returns": 1}],
    "no python": [{"assert": "assert add(1, 2) =="}],
    "no assert": [{"assert": "add(1, 2)"}],
    "nothing of the program": [{"assert": "assert 1 == 1"}],
    "unknown import": [{"assert": "import no_such_package\nassert f() == 1"}],
    "blank assert": [{"assert": " "}],
    "blank output": [{"stdin": "1", "stdout": "\n"}],
    "tolerance": [{"stdin": "", "stdout": "1", "tolerance": "small"}],
    "lengths": {"inputs": ["1", "2"], "outputs": ["1"]},
    "language": {"language": "cpp", "test_cases": [{"input": "1", "output": "1"}]},
    "empty cases": {"language": "python", "test_cases": []},
    "good and bad": [*TESTS, {"stdout": 3}],
    "json nesting": "[" * 100_000,
}


@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_without_usable_tests_is_an_error_that_names_it(row: object) -> None:
    problems = row_problems(
        [{"verification": TESTS}, {"verification": row}, {"verification": None}]
    )
    assert [index for index, _ in problems] == [1]
    with pytest.raises(UserError, match="row `b`: `verification`"):
        code_reward([answer(ADD)] * 2, verification=[TESTS, row], id=["a", "b"])


def test_expected_integers_of_any_size() -> None:
    program = answer("def f(n): return 10 ** n")
    tests = [{"call": "f", "args": [5000], "returns": 10**5000}]
    assert code_reward([program], verification=[tests]) == [1.0]
    text = '[{"call": "f", "args": [5000], "returns": 1' + "0" * 5000 + "}]"
    assert code_reward([program], verification=[text]) == [1.0]


def test_without_the_column_there_is_an_error() -> None:
    with pytest.raises(UserError, match="`verification`"):
        code_reward([answer(ADD)])


def test_the_same_verdicts_from_a_thread_and_without_isolation() -> None:
    found: list[list[float | None]] = []
    batch = [answer(ADD), answer("def add(a, b): return 0"), answer("import os\nos._exit(0)")]
    thread = threading.Thread(
        target=lambda: found.append(code_reward(batch, verification=[TESTS] * 3, workers=1))
    )
    thread.start()
    thread.join()
    assert found == [[1.0, 0.0, 0.0]]
    assert code_reward(batch, verification=[TESTS] * 3, isolation="process") == [1.0, 0.0, 0.0]


def test_memory_is_bounded() -> None:
    touch = "x = bytearray(400 << 20)\n    x[::4096] = b'1' * len(x[::4096])"
    program = f"def add(a, b):\n    {touch}\n    return a + b\n"
    assert code_reward([answer(program)], verification=[TESTS], memory_mb=128) == [0.0]
    assert code_reward([answer(program)], verification=[TESTS], memory_mb=1024) == [1.0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(codec=None), max_size=40), min_size=1, max_size=8))
def test_no_text_of_a_model_raises(texts: list[str]) -> None:
    completions = [f"<think></think><answer>{text}</answer>" for text in texts]
    assert code_reward(completions, verification=[TESTS] * len(texts)) == [0.0] * len(texts)


@pytest.mark.parametrize(
    "program",
    [
        "x = " + "(" * 100_000,
        "#" * 1_000_000,
        "\ud800" * 100,
        "a\0b",
        "`" * 10_000,
        "```\n" * 50_000,
    ],
    ids=["brackets", "1 MB", "surrogates", "nul", "ticks", "fences"],
)
def test_odd_programs_earn_nothing_and_do_not_raise(program: str) -> None:
    assert code_reward([answer(program), program], verification=[TESTS] * 2) == [0.0, 0.0]
