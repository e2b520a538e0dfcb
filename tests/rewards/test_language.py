"""The language-consistency reward: Num(Words_target) / Num(Words) of the chain of thought."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.data import arithmetic, traces
from r1pipe.errors import UserError
from r1pipe.rewards.language import (
    LANGUAGES,
    language_code,
    language_consistency,
    language_consistency_reward,
    row_problems,
)
from r1pipe.rewards.language_notation import without_notation
from r1pipe.rewards.language_words import count_words


def score(thought: str, code: str | None = "en", **options) -> float | None:
    completion = f"<think>{thought}</think><answer>5</answer>"
    return language_consistency_reward([completion], [code], **options)[0]


def test_the_share_is_of_words() -> None:
    assert language_consistency("add carry 个位个位", "en") == pytest.approx(2 / 4.5)
    assert language_consistency("add carry 个位个位", "zh") == pytest.approx(2.5 / 4.5)
    assert language_consistency("add carry", "zh") == 0.0


@pytest.mark.parametrize(
    "text", ["", "  ", "4+9=13,1+1=02", "x y z 25r3", "$x=5$", "sin x", "…!", "\0", "\u200b", "🎉"]
)
def test_no_words_earn_nothing(text: str) -> None:
    # A chain of thought without words would otherwise be the cheapest way to full marks.
    assert language_consistency(text, "en") == 0.0
    assert score(text) == 0.0


def test_one_word_is_enough_but_not_over_and_over() -> None:
    assert language_consistency("seven", "en") == 1.0
    assert language_consistency("ones 9+4=13 ones 1+1=02 ones ones", "en") == 1.0
    assert language_consistency("so " * 300, "en") < 0.05
    assert language_consistency("We add the digits. " * 300, "en") == 1.0
    assert language_consistency("so.\n" * 300, "en") < 0.05
    assert language_consistency("计算" * 300, "zh") < 0.05


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("所以 $x = mass$ 和 \\(speed\\) \\frac{1}{2} `code` https://a.bc/de", {"zh": 3 / 1.6}),
        ("25r3 x1 word_2 AB1 np.x", {}),
        ("cos(x) + log n + gcd(a, b), 5 km, 3 cm", {}),
        ("AB + BC + CA", {}),
        ("```python\nprint(hello)\nwhile x is not None and y:\n    pass\n```", {}),
        ("cost $5 and more", {"en": 3}),
        ("`a tick\nthen words` more", {"en": 4}),
        ("```\nfirst we add the two numbers\n```", {"en": 6}),
        ("\\text{speed of the train}", {"en": 4}),
        ("$\\text{speed}$", {"en": 1}),
        ("$сначала сложим два числа$", {"ru": 4}),
        ("$首先相加$", {"zh": 4 / 1.6}),
    ],
)
def test_notation_counts_for_no_language_and_prose_inside_it_does(text: str, counts) -> None:
    assert count_words(text, "en") == pytest.approx(counts)


def test_strewn_function_words_count_for_nothing() -> None:
    stuffed = "the of 首先 and to 我们 in is 计算 that for 数字 it as 然后 on with 检查"
    assert language_consistency(stuffed, "en") < 0.1
    assert language_consistency("it is what it is, and so are we", "en") == 1.0


@pytest.mark.parametrize("language", arithmetic.LANGUAGES)
def test_generated_traces_are_pure_and_mixed_ones_are_not(language: str) -> None:
    rng = random.Random(3)
    other = next(code for code in arithmetic.LANGUAGES if code != language)
    mixed = []
    for problem, _ in arithmetic.problems("train", 3, 200):
        assert language_consistency(traces.think_text(problem, language), language) == 1.0
        assert language_consistency(traces.think_text(problem, other), language) == 0.0
        words = {name: rng.choice(arithmetic.LANGUAGES) for name in traces.TRACE_WORDS["en"]}
        text = traces.write_trace(
            problem, lambda name, at=words: traces.TRACE_WORDS[at[name]][name]
        )
        mixed.append(language_consistency(text, language))
    assert 0.3 < sum(mixed) / len(mixed) < 0.7


def test_tags_are_not_words_and_every_block_before_the_last_end_counts() -> None:
    text = "<think>add the digits</think>个位进位了</think><answer>five</answer>"
    assert language_consistency_reward([text], ["en"]) == [pytest.approx(3 / (3 + 5 / 1.6))]


def test_a_completion_without_reasoning_earns_nothing() -> None:
    texts = ["<answer>five</answer>", "five", ""]
    assert language_consistency_reward(texts, ["en"] * 3) == [0.0, 0.0, 0.0]


def test_the_prompt_may_have_opened_the_reasoning() -> None:
    assert language_consistency_reward(["carry one"], ["en"], prefilled=True) == [1.0]
    assert language_consistency_reward(["carry one"], ["en"], ["Add. <think>\n"]) == [1.0]
    assert language_consistency_reward(["carry one"], ["en"], ["Add."]) == [0.0]
    assert language_consistency_reward(["a sum", "a sum"], ["en"] * 2, prefilled=[True, False]) == [
        1.0,
        0.0,
    ]


def test_messages_are_read() -> None:
    message = [{"role": "assistant", "content": "<think>we add</think><answer>5</answer>"}]
    assert language_consistency_reward([message], ["en"]) == [1.0]


def test_target_is_the_row_or_fixed() -> None:
    assert score("add the digits", "zh") == 0.0
    assert score("add the digits", "zh", target="en") == 1.0
    assert language_consistency_reward(["<think>we add</think>"], target="en-GB") == [1.0]


def test_the_same_thought_twice_is_judged_by_each_rows_own_language() -> None:
    texts = ["<think>ones tens</think>", "<think>个位十位</think>"] * 3
    languages = ["en", "en", "zh", "zh", "en", "zh"]
    alone = [
        language_consistency_reward([text], language=[code])[0]
        for text, code in zip(texts, languages, strict=True)
    ]
    assert language_consistency_reward(texts, language=languages) == alone
    assert alone == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_rows_of_other_domains_and_rows_without_a_language_are_left_out() -> None:
    texts = ["<think>we add</think>"] * 3
    domain = ["reasoning", "general", None]
    rewards = language_consistency_reward(texts, ["en", "xx", None], domain=domain, trainer_state=1)
    assert rewards == [1.0, None, None]
    assert language_consistency_reward(["x"], domain=["general"]) == [None]
    assert language_consistency_reward(texts[:2], ["en", "en"], domain=domain[:2], domains=[]) == [
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("zh-CN", "zh"),
        ("pt_BR", "pt"),
        ("zh-Hant-TW", "zh"),
        ("English", "en"),
        (" fr ", "fr"),
        ("tlh", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_languages_are_named_by_code_tag_or_name(name, code) -> None:
    assert language_code(name) == code


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(UserError, match="did you mean `prompt`"):
        language_consistency_reward([], target="promt")
    with pytest.raises(UserError, match="did you mean `english`"):
        language_consistency("we add", "engish")
    with pytest.raises(UserError, match="row `7`: unknown language 'tlh'"):
        language_consistency_reward(["<think>a</think>"], ["tlh"], id=["7"])
    with pytest.raises(UserError, match="no column `language`"):
        language_consistency_reward(["<think>a</think>"])


def test_rows_are_checked_before_training() -> None:
    rows = [
        {"language": "en"},
        {"language": "germn"},
        {"language": None},
        {},
        {"language": "xx", "domain": "general"},
        {"language": 5},
    ]
    problems = dict(row_problems(rows))
    assert list(problems) == [1, 5]
    assert "germn" in problems[1] and "did you mean `german`" in problems[1]
    assert row_problems(rows, target="en", prefilled=True) == []
    assert getattr(language_consistency_reward, "row_problems") is row_problems  # noqa: B009


def test_a_long_text_is_its_sentence() -> None:
    once = "First we add the two numbers, then we divide. 然后我们检查结果。"
    share = language_consistency(once, "en")
    assert language_consistency(f"{once}\n" * 40, "en") == pytest.approx(share, abs=0.05)


def test_the_module_is_light_to_import() -> None:
    loaded = "import sys, r1pipe.rewards.language; print({'numpy', 'py3langid'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


WRITTEN = """
    ``` ` $ $$ \\( \\[ \\text{ } <think> </think> <answer> é 进 の ก 한 ж ع है α 𝐱 Ａ 😀 https:// a1
    _ ' wir , \\frac \"\"\" # 7"""
PIECES = st.sampled_from([*WRITTEN.split(), "\0", "\ud800", "\u200d", "\u0301", "\n", " ", "the "])
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=60).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(sorted(LANGUAGES)), st.booleans())
def test_any_text_has_a_share(text: str, language: str, prefilled: bool) -> None:
    assert 0.0 <= language_consistency(text, language) <= 1.0
    (reward,) = language_consistency_reward([text], [language], prefilled=prefilled)
    assert reward is not None and 0.0 <= reward <= 1.0


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_shares_of_all_languages_make_no_more_than_the_text(text: str) -> None:
    counts = count_words(text)
    assert all(count > 0 for count in counts.values())


@pytest.mark.parametrize(
    "piece", ["```", "`", "$", "$$", "\\(", "\\[", "\\(\\[", "`\n", "$\n", "`$", "\\x", "https://"]
)
def test_closers_are_looked_for_once(piece: str) -> None:
    # Counted, not timed: the characters that every search for a closer may pass over.
    class Counting(str):
        passed = 0

        def find(self, *args):
            found = str.find(self, *args)
            Counting.passed += (len(self) if found < 0 else found) - args[1]
            return found

    text = Counting(piece * 5_000)
    without_notation(text)
    assert Counting.passed <= 4 * len(text)


@pytest.mark.parametrize("piece", ["a", "a'", "a\u0301", "的", "aB", "\u064b", "aa ", "{", '"""\n'])
def test_a_megabyte_is_no_trouble(piece: str) -> None:
    assert 0.0 <= language_consistency(piece * (1_000_000 // len(piece)), "en") <= 1.0
