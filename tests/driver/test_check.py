"""`r1pipe check` and `r1pipe rewards`: what is wrong with rewards is said before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1pipe.__main__ import main
from r1pipe.registry import REWARDS
from tests.stages.tiny_stage import save_tiny_model

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}TAIL{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def check(
    capsys: pytest.CaptureFixture[str], model: str, rows: list[dict[str, Any]], *overrides: str
) -> tuple[int, str]:
    path = Path(model).parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = sorted({name for row in rows for name in row} - {"prompt", "answer"})
    mapping = ",".join(f"{name}: {name}" for name in columns)
    asked = ["check", "stage=grpo", "model=hf", f"model.path={model}", f"data.path={path}"]
    return ask(capsys, *asked, f"data.columns={{{mapping}}}", *overrides)


def sums(count: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"compute {i}+1\n", "answer": str(i + 1), "language": "en", "id": f"{i}+1"}
        | changes
        for i in range(count)
    ]


def test_the_shipped_tiny_recipe_holds(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = ask(capsys, "check", "recipe=tiny_r1", "rows=8")
    assert code == 0, shown
    assert "r1_zero (grpo)" in shown and "hack: answer only in the thinking" in shown
    assert "all rewards hold" in shown


def test_good_rows_of_the_users_own_hold(capsys, model) -> None:
    code, shown = check(capsys, model, sums(), "reward=r1_zero")
    assert code == 0, shown


def test_poisoned_gold_is_named(capsys, model) -> None:
    rows = sums(40)
    rows[23]["answer"] = "\\frac{1}{"
    code, shown = check(capsys, model, rows, "reward=r1_zero")
    assert code == 2 and "23+1" in shown and "rewards.accuracy" in shown


def test_a_program_without_tests_is_named(capsys, model) -> None:
    rows = sums(3, verification=[{"call": "f", "args": [1], "returns": 2}])
    rows[1]["verification"] = []
    code, shown = check(capsys, model, rows, "reward=code")
    assert code == 2 and "1+1" in shown and "rewards.code" in shown


def test_a_template_that_opens_the_thinking_is_noticed_by_itself(capsys, model, tmp_path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE.replace("TAIL", "<think>"))
    chat = ["data.chat=true", f"model.load.chat_template={template}", "reward=r1_zero"]
    code, shown = check(capsys, model, sums(), *chat)
    assert code == 0, shown
    assert "ends" in shown and "<think>" in shown
    code, shown = check(capsys, model, sums(), *chat, "+reward.format.prefilled=false")
    assert code == 2 and "rewards.format.prefilled" in shown


def test_what_is_asked_wrongly_is_explained(capsys, tmp_path) -> None:
    for arguments, words in (
        ([], "no recipe is named"),
        (["recipe=nothing"], "no such recipe"),
        (["recipe=tiny_r1", "rows=0"], "not a number of rows"),
        (["recipe=tiny_r1", "--rows"], "unknown option"),
        (["recipe=tiny_r1", "reward.acuracy.weight=1"], "acuracy"),
    ):
        code, shown = ask(capsys, "check", *arguments)
        assert code == 2 and words in shown, shown


def test_every_reward_is_listed_with_columns_and_options(capsys) -> None:
    code, shown = ask(capsys, "rewards")
    assert code == 0
    for name in REWARDS.names():
        assert f"\n{name} " in f"\n{shown}"
    assert "verification" in shown and "timeout" in shown
    code, shown = ask(capsys, "rewards", "accuracy")
    assert code == 0 and "columns: solution" in shown and "method=auto" in shown
    code, shown = ask(capsys, "rewards", "acuracy")
    assert code == 2 and "did you mean `accuracy`" in shown
