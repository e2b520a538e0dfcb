"""An override reaches into a section that is a link, and changes that one value alone."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.compose import compose_recipe
from r1pipe.errors import UserError
from r1pipe.recipes import recipes_dir
from r1pipe.validate import validate

GRPO = ["stage=grpo", "model.path=somewhere", "data.path=task:arithmetic", "data.limit=9"]


def composed(*overrides: str) -> dict[str, Any]:
    config, problems = compose_recipe("config", [*GRPO, *overrides])
    assert problems == []
    return config


def refused(*overrides: str) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        validate(*compose_recipe("config", [*GRPO, "dry_run=true", *overrides]))
    return {problem.where: problem.what for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("override", "section", "changed"),
    [
        ("stage.rollout.check_every=7", "rollout", {"check_every": 7}),
        ("stage.rewards.language=null", "rewards", {"language": None}),
        ("stage.load.dtype=bfloat16", "load", {"dtype": "bfloat16"}),
        ("stage.tracker.name=wandb", "tracker", {"name": "wandb"}),
        ("+stage.rollout.sleep=true", "rollout", {"sleep": True}),
    ],
)
def test_only_the_named_value_changes(override: str, section: str, changed: dict[str, Any]) -> None:
    before, after = composed(), composed(override)
    stage = before["stages"]["grpo"]
    assert after["stages"]["grpo"] == {**stage, section: {**stage[section], **changed}}
    assert {**after, "stages": None} == {**before, "stages": None}


def test_what_the_link_leads_to_still_counts() -> None:
    asked = ["rollout=vllm_colocate", "reward.format.weight=3.0", "model.load.dtype=float16"]
    inside = ["stage.rollout.check_every=7", "stage.rewards.accuracy.weight=2.0"]
    inside += ["stage.load.fp8.min_features=64"]
    stage = composed(*asked, *inside)["stages"]["grpo"]
    assert (stage["rollout"]["engine"], stage["rollout"]["check_every"]) == ("vllm", 7)
    assert stage["rewards"]["accuracy"]["weight"] == 2.0
    assert stage["rewards"]["format"]["weight"] == 3.0
    assert (stage["load"]["dtype"], stage["load"]["fp8"]["min_features"]) == ("float16", 64)


def test_a_recipe_is_reached_into_alike() -> None:
    override = "stages.all_domain_grpo.rollout.batch_size=3"
    config, problems = compose_recipe("tiny_r1", [override], recipes_dir())
    assert problems == []
    stages = config["stages"]
    assert stages["all_domain_grpo"]["rollout"]["batch_size"] == 3
    assert stages["r1_zero"]["rollout"]["batch_size"] != 3
    assert stages["all_domain_grpo"]["rollout"]["engine"] == stages["r1_zero"]["rollout"]["engine"]


def test_misspelt_keys_are_still_errors() -> None:
    assert set(refused("stage.rewards.langage=null", "stage.rollout.chek=1")) == {
        "stages.grpo.rewards.langage",
        "stages.grpo.rollout.chek",
    }


def test_a_stage_without_any_reward_is_refused() -> None:
    gone = [f"stage.rewards.{name}=null" for name in ("accuracy", "format", "language")]
    assert refused(*gone) == {"stages.grpo.rewards": "there is no reward to train on"}


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("rollout=transformers", "rollout"),
        ("rollout=vllm_server", "rollout"),
        ("rollout.tensor_parallel_size=2", "rollout.tensor_parallel_size"),
        ("stage.router_replay=policy", "router_replay"),
        ("stage.trainer.top_p=0.9", "trainer.top_p"),
        (
            "stage.trainer.vllm_importance_sampling_correction=false",
            "trainer.vllm_importance_sampling_correction",
        ),
        ("stage.dynamic_sampling.enabled=true", "dynamic_sampling"),
        ("stage.difficulty_filter.enabled=true", "difficulty_filter"),
    ],
)
def test_what_does_not_go_with_partial_rollouts_is_named(override: str, where: str) -> None:
    assert f"stages.grpo.{where}" in refused("stage.partial_rollouts.enabled=true", override)
