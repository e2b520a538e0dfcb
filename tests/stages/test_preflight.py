"""A run that could not learn is refused before it starts."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import pytest

from r1pipe.data.prompts import render_prompt
from r1pipe.errors import UserError
from r1pipe.models.tiny import build_tiny_tokenizer
from r1pipe.rewards import build_rewards
from r1pipe.schema import RewardTerm
from r1pipe.stages.preflight import preflight
from tests.stages import tiny_stage  # noqa: F401 - registers the stand-in rewards

SHIPPED = {"accuracy": {"method": "exact"}, "format": {}, "language": {}, "general": {}}


def rows(count: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"compute {i}+1\n",
            "answer": str(i + 1),
            "domain": "reasoning" if i % 2 else "general",
            "language": "en" if i % 3 else "zh",
            "id": f"{i}+1",
            **changes,
        }
        for i in range(count)
    ]


def check(
    found: list[dict[str, Any]],
    rewards: dict[str, Any],
    length: int = 16,
    context: int = 1024,
    special: str | None = None,
) -> None:
    terms = {name: RewardTerm(weight=1.0, **options) for name, options in rewards.items()}
    tokenizer = build_tiny_tokenizer()
    funcs, _ = build_rewards(terms, partial(render_prompt, tokenizer=tokenizer))
    if special is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": [special]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    preflight(datasets.Dataset.from_list(found), tokenizer, terms, funcs, length, context)


def refused(found: list[dict[str, Any]], rewards: dict[str, Any], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(found, rewards, **options)
    return str(caught.value)


def test_the_shipped_rewards_pass_on_good_data():
    check(rows(), SHIPPED)
    check(rows(completion="<think>We add.</think><answer>7</answer>"), SHIPPED)


def test_a_reward_on_data_without_gold_answers_passes():
    check(rows(answer=None), {"even_length": {}})


def test_a_prompt_that_opens_the_thinking_is_seen():
    found = rows(prompt="compute 1+1\n<think>")
    check(found, {"format": {}})
    check(found, {"format": {"prefilled": True}})
    message = refused(found, {"format": {"prefilled": False}})
    assert "says that the prompt does not open `<think>`, but the prompt opens it" in message


def test_a_chat_template_that_opens_the_thinking_is_seen():
    check(rows(prompt=[{"role": "user", "content": "compute 1+1"}]), {"format": {}})


def test_prefilled_without_an_open_tag_is_refused():
    message = refused(rows(), {"format": {"prefilled": True}})
    assert "says that the prompt opens `<think>`, but the prompt does not open it" in message


def test_tags_that_the_tokenizer_swallows_are_refused():
    message = refused(rows(), {"format": {}}, special="<think>")
    assert "`<think>` do not survive" in message


def test_a_closed_example_in_the_prompt_is_not_an_open_tag():
    check(rows(prompt="<think>a</think><answer>2</answer>\ncompute 2+2\n"), {"format": {}})


def test_a_reward_that_never_changes_is_refused():
    message = refused(rows(), {"constant": {}, "even_length": {}})
    assert "rewards.constant" in message
    assert "0.5 on gold answers" in message
    assert "even_length" not in message


def test_a_row_without_what_a_reward_reads_is_refused():
    found = rows()
    found[1]["answer"] = None
    message = refused(found, {"accuracy": {"method": "exact"}})
    assert "1 of 6 rows have nothing that accuracy could judge by: row `1+1`" in message
    found[1]["answer"] = " "
    assert "row `1+1`: gold answer is ' '" in refused(found, {"accuracy": {"method": "exact"}})


def test_a_reward_that_applies_nowhere_is_told(caplog: pytest.LogCaptureFixture):
    check(rows(language=None), {"language": {}, "format": {}})
    assert "`language` applies to none of 6 rows" in caplog.text


def test_gold_answers_that_earn_nothing_are_named():
    found = rows()
    found[1]["answer"] = "</answer>"
    found[3]["answer"] = "2</answer><answer>3"
    message = refused(found, {"accuracy": {"method": "exact"}})
    assert "2 of 3 gold answers" in message
    assert "row `1+1` (gold '</answer>')" in message
    assert "row `3+1` (gold" in message


def test_prompts_longer_than_the_context_are_refused():
    message = refused(rows(), {"even_length": {}}, length=1020)
    assert "6 of 6 prompts are longer than the 4 tokens" in message


def test_all_problems_come_at_once():
    found, rewards = rows(prompt="1+1"), {"format": {"prefilled": True}, "constant": {}}
    message = refused(found, rewards, length=1023)
    assert all(words in message for words in ("opens `<think>`", "rewards.constant", "1 tokens"))
