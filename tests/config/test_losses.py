"""Loss presets are chosen by one word, replace each other completely, and lose to what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from r1pipe.compose import compose_recipe
from r1pipe.errors import UserError
from r1pipe.recipes import conf_dir, recipes_dir
from r1pipe.validate import validate

PRESETS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((conf_dir() / "stage" / "loss").glob("*.yaml"))
}
BODY = """
defaults:
  - base
  - stage@stages.base: pretrain
  - stage@stages.rl: grpo
  - _self_
name: body
stages:
  rl:
    loss: dapo
    trainer: {epsilon: 0.15}
"""


def trainer(name: str, overrides: list[str], stage: str, folder: Path | None = None) -> Any:
    run = validate(*compose_recipe(name, ["dry_run=true", *overrides], folder))
    return run.stages[stage]


def problems(name: str, overrides: list[str], folder: Path | None = None) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        trainer(name, overrides, "", folder)
    return {problem.where: f"{problem.what} {problem.hint}" for problem in caught.value.problems}


def test_every_preset_sets_the_same_keys_and_its_own_name() -> None:
    assert set(PRESETS) >= {"grpo", "dapo", "dr_grpo", "gspo", "cispo"}
    keys = set(PRESETS["grpo"]["trainer"])
    for name, preset in PRESETS.items():
        assert preset["loss"] == name
        assert set(preset["trainer"]) == keys


@pytest.mark.parametrize("name", PRESETS)
def test_a_word_on_the_command_line_brings_all_values(name: str) -> None:
    """Also where the recipe writes R1's values out, as recipes/r1.yaml does."""
    stage = trainer("r1", [f"stages.r1_zero.loss={name}"], "r1_zero", recipes_dir())
    assert stage.loss == name
    assert PRESETS[name]["trainer"].items() <= stage.trainer.items()


def test_papers_values() -> None:
    dapo, gspo = PRESETS["dapo"]["trainer"], PRESETS["gspo"]["trainer"]
    assert (dapo["epsilon"], dapo["epsilon_high"], dapo["beta"]) == (0.2, 0.28, 0.0)
    assert (gspo["epsilon"], gspo["epsilon_high"]) == (3e-4, 4e-4)
    assert gspo["importance_sampling_level"] == "sequence"
    assert PRESETS["dr_grpo"]["trainer"]["scale_rewards"] == "none"
    r1 = trainer("config", ["stage=grpo"], "grpo").trainer
    assert PRESETS["grpo"]["trainer"].items() <= r1.items()


def test_what_is_said_nearer_wins(tmp_path: Path) -> None:
    (tmp_path / "body.yaml").write_text(BODY)
    (tmp_path / "above.yaml").write_text("defaults:\n  - body\n  - _self_\nname: above\n")
    for recipe in ("body", "above"):
        rl = trainer(recipe, [], "rl", tmp_path).trainer
        assert (rl["loss_type"], rl["epsilon"], rl["epsilon_high"]) == ("dapo", 0.15, 0.28)
    rl = trainer("body", ["stages.rl.loss=gspo"], "rl", tmp_path).trainer
    assert (rl["epsilon"], rl["epsilon_high"]) == (3e-4, 4e-4)
    asked = ["stages.rl.trainer.epsilon=0.3", "stages.rl.loss=dapo"]
    rl = trainer("body", asked, "rl", tmp_path).trainer
    assert (rl["epsilon"], rl["epsilon_high"]) == (0.3, 0.28)


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "body.yaml").write_text(BODY.replace("dapo", "mine"))
    (tmp_path / "stage" / "loss").mkdir(parents=True)
    own = {"loss": "mine", "trainer": {"loss_type": "bnpo", "epsilon": 0.4}}
    (tmp_path / "stage" / "loss" / "mine.yaml").write_text(yaml.safe_dump(own))
    assert trainer("body", [], "rl", tmp_path).trainer["loss_type"] == "bnpo"


def test_unknown_losses_are_named() -> None:
    found = problems("tiny_r1", ["stages.r1_zero.loss=gsp"], recipes_dir())
    assert "did you mean `gspo`" in found["stages.r1_zero.loss"]
    found = problems("config", ["stage=grpo", "stage.loss=dappo"])
    assert "`dapo`" in found["stages.grpo.loss"]
    assert "stages.grpo.loss" in problems("config", ["stage=grpo", "stage.loss=3"])


CONTRADICTIONS = {
    "stage.dynamic_sampling.reward": (
        ["stage.dynamic_sampling.enabled=true", "stage.dynamic_sampling.reward=acuracy"],
        "did you mean `accuracy`",
    ),
    "stage.difficulty_filter.reward": (
        ["stage.difficulty_filter.enabled=true", "reward.accuracy=null"],
        "not among this stage's rewards",
    ),
    "stage.group_replay.enabled": (
        ["stage.group_replay.enabled=true"],
        "dynamic_sampling.enabled=true",
    ),
    "stage.group_replay.max_age": (
        [
            "stage.dynamic_sampling.enabled=true",
            "stage.group_replay.enabled=true",
            "stage.group_replay.max_age=3",
            "stage.trainer.num_iterations=4",
        ],
        "4 or more",
    ),
    "stage.trainer.sync_ref_model": (["stage.trainer.beta=0.0"], "no reference"),
    "stage.dynamic_sampling.max_rounds": (["stage.dynamic_sampling.max_rounds=0"], "1"),
    "stage.dynamic_sampling.max_round": (["stage.dynamic_sampling.max_round=2"], "max_rounds"),
}


@pytest.mark.parametrize("where", CONTRADICTIONS)
def test_settings_that_cannot_be_are_refused_by_name(where: str) -> None:
    overrides, words = CONTRADICTIONS[where]
    found = problems("config", ["stage=grpo", *overrides])
    assert words in found[where.replace("stage.", "stages.grpo.", 1)]


def test_an_empty_range_of_pass_rates_is_refused() -> None:
    found = problems("config", ["stage=sample", "stage.pass_rate={min: 0.9, max: 0.1}"])
    assert "0.9" in found["stages.sample.pass_rate.min"]
