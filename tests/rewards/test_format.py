"""The format rewards: R1's form and everything near it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.rewards.completions import TAG
from r1pipe.rewards.format import format_reward, tag_count_reward

GOOD = "<think>4+9=13</think><answer>13</answer>"


def score(text: str, domain: str | None = None, **options) -> float | None:
    columns = {"domain": [domain]} if domain else {}
    return format_reward(completions=[text], **columns, **options)[0]


def graded(text: str, **options) -> float | None:
    return tag_count_reward(completions=[text], **options)[0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n",
        "<think>\nline\n\nline\n</think>\n\n<answer>\n13\n</answer>",
        "<think>a < b > c </ think> <thinking></think><answer>13</answer>",
        "<think>.</think><answer>0</answer>",
    ],
)
def test_the_form_is_rewarded(text: str) -> None:
    assert score(text) == graded(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "13",
        "<answer>13</answer>",
        "<think>4+9</think>",
        "<think>4+9</think><answer>13",
        "<think>4+9<answer>13</answer>",
        "4+9</think><answer>13</answer>",
        "<think></think><answer>13</answer>",
        "<think> \n\t</think><answer>13</answer>",
        "<think>\u200b\u2060</think><answer>13</answer>",
        "<think>4+9</think><answer></answer>",
        "<think>4+9</think><answer>  </answer>",
        f"so: {GOOD}",
        f"{GOOD} done",
        "<think>4+9</think>so<answer>13</answer>",
        "<think>4+9</think>\u200b<answer>13</answer>",
        f"{GOOD}<answer>14</answer>",
        f"{GOOD}{GOOD}",
        "<think>a</think><think>b</think><answer>13</answer>",
        "<think>a<think>b</think><answer>13</answer>",
        "<think>a</think>b</think><answer>13</answer>",
        "<think><answer>13</answer></think>",
        "<think>a</think><answer><answer>13</answer></answer>",
        "<answer>13</answer><think>4+9</think>",
        "<THINK>4+9</THINK><ANSWER>13</ANSWER>",
        "</think></think><answer>13</answer>",
    ],
)
def test_anything_else_is_not(text: str) -> None:
    assert score(text) == 0.0
    assert 0.0 <= (graded(text) or 0.0) <= 0.75


def test_a_template_that_opened_the_block_moves_the_form() -> None:
    assert score("4+9</think><answer>13</answer>", prefilled=True) == 1.0
    assert score(GOOD, prefilled=True) == 0.0
    assert score("</think><answer>13</answer>", prefilled=True) == 0.0
    assert score("<answer>13</answer>", domain="general", prefilled=True) == 0.0


def test_general_rows_may_leave_the_thinking_out() -> None:
    assert score("<answer>abc</answer>", domain="general") == 1.0
    assert score(GOOD, domain="general") == 1.0
    assert score("<answer>abc</answer>", domain="reasoning") == 0.0
    assert score("<answer>abc</answer>", domain="general", answer_only_domains=[]) == 0.0
    assert score("abc", domain="general") == 0.0
    assert score("<answer>a</answer><answer>b</answer>", domain="general") == 0.0


def test_message_lists_are_read_like_text() -> None:
    message = [{"role": "assistant", "content": GOOD}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}]
    nothing = [{"role": "assistant", "content": None}]
    assert format_reward([message, parts, nothing, []]) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("piece", ["</answer>", "<think>", "</think>", "<", "<think", "</"])
def test_work_is_linear_in_the_text(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted, not timed: every tag is looked at once at most, and none after the form is broken.
    looked_at = 0

    class Counting:
        def finditer(self, text: str):
            nonlocal looked_at
            for match in TAG.finditer(text):
                looked_at += 1
                yield match

    monkeypatch.setattr("r1pipe.rewards.format.TAG", Counting())
    assert score("<think>" + piece * 20_000) == 0.0
    assert looked_at <= 6


OPEN, SHUT = "Q: 4+9\n<think>\n", "Q: 4+9\n"


@pytest.mark.parametrize("reward", [format_reward, tag_count_reward])
def test_each_prompt_tells_whether_it_opened_the_block(reward) -> None:
    tail = "4+9</think><answer>13</answer>"
    prompts = [OPEN, SHUT, OPEN, SHUT]
    full = [value == 1.0 for value in reward([tail, tail, GOOD, GOOD], prompts=prompts)]
    assert full == [True, False, False, True]
    # What is said row by row, as by one who rendered the prompts, outweighs their text.
    told = reward([tail, GOOD], prompts=[SHUT, OPEN], prefilled=[True, False])
    assert told == [1.0, 1.0]


def test_a_message_list_may_open_the_block_too() -> None:
    opened = [{"role": "user", "content": "4+9"}, {"role": "assistant", "content": "<think>\n"}]
    said = [{"role": "user", "content": "write <think>"}]
    tail = "4+9</think><answer>13</answer>"
    assert format_reward([tail, tail], prompts=[opened, said]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "prefilled", "reward"),
    [
        ("", False, 0.0),
        ("13", False, 0.0),
        ("<think>a", False, 0.25),
        ("<think>a</think>", False, 0.5),
        ("<think>a</think><answer>13", False, 0.75),
        ("<answer>13</answer>", False, 0.5),
        (f"{GOOD}<answer>14</answer>", False, 0.5),
        (f"{GOOD}{GOOD}", False, 0.0),
        (f"{GOOD} done", False, 0.75),
        ("<answer>13</answer><think>4+9</think>", False, 0.75),
        ("<think></think><answer></answer>", False, 0.75),
        ("", True, 0.0),
        (" \n", True, 0.0),
        ("4+9", True, 0.25),
        ("4+9</think>", True, 0.5),
        ("4+9</think><answer>13</answer>", True, 1.0),
        (GOOD, True, 0.75),
    ],
)
def test_tags_are_paid_one_by_one_and_in_full_only_for_the_form(
    text: str, prefilled: bool, reward: float
) -> None:
    assert graded(text, prefilled=prefilled) == reward


TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=100),
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\x00", "\ud800"]
        ),
        max_size=12,
    ).map("".join),
)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.booleans(), st.sampled_from(["reasoning", "general"]))
def test_the_graded_reward_is_full_exactly_where_the_form_holds(
    text: str, prefilled: bool, domain: str
) -> None:
    (form,) = format_reward([text], prefilled=prefilled, domain=[domain])
    (share,) = tag_count_reward([text], prefilled=prefilled, domain=[domain])
    assert form in (0.0, 1.0)
    assert share in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert (share == 1.0) == (form == 1.0)


@pytest.mark.parametrize("piece", ["a", "<think>", "</answer>", "\x00", " ", "\ud800"])
def test_a_megabyte_is_only_long(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert score(text) == 0.0
    assert (graded(text) or 0.0) <= 0.75
