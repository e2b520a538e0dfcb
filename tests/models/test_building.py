"""Models built from a recipe's fields: sizes, tokenizers, seeds, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from r1pipe.architecture_fields import architecture_problems, deepseek_fields
from r1pipe.compose import compose_recipe
from r1pipe.errors import UserError
from r1pipe.models.building import build_model, chosen_fields, deepseek_config
from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from r1pipe.models.tiny import build_tiny_tokenizer
from r1pipe.recipes import conf_dir
from r1pipe.schema import PretrainStage
from r1pipe.validate import validate
from tests.stages import tiny


def stage(*overrides: str, model: str = "tiny_mla_moe") -> PretrainStage:
    asked = ["stage=pretrain", f"model={model}", *overrides]
    found: Any = validate(*compose_recipe("config", asked)).stages["pretrain"]
    return found


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = build_model(stage("seed=1"), "base")
    again, tokenizer = build_model(stage("seed=1"), "base")
    other, _ = build_model(stage("seed=2"), "base")
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(first, DeepseekForCausalLM)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert first.config.vocab_size == len(tokenizer)
    assert first.config.eos_token_id == tokenizer.eos_token_id
    assert first.generation_config.top_k == 0 and first.generation_config.do_sample


def test_a_size_changes_some_fields() -> None:
    whole, part = (build_model(stage(f"model.size={size}"), "x")[0] for size in ("xs", "nano"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (whole, part)]
    assert 3 < counts[0] / counts[1] < 5
    assert whole.config.n_routed_experts == part.config.n_routed_experts


def test_load_says_dtype_and_tokenizer(tmp_path: Any) -> None:
    folder = tiny.save_model(tmp_path / "other")
    asked = stage("model.load.dtype=bfloat16", f"model.load.tokenizer={folder}")
    model, tokenizer = build_model(asked, "base")
    assert model.dtype == torch.bfloat16
    assert model.model.routers[0].e_score_correction_bias.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == len(tiny.tokenizer())


def test_a_vocabulary_may_be_larger_than_the_tokenizers_but_not_smaller() -> None:
    model, tokenizer = build_model(stage("model.config.vocab_size=256"), "base")
    assert model.config.vocab_size == 256 > len(tokenizer)
    with pytest.raises(UserError, match=r"stages.base.config.vocab_size.*10 tokens"):
        build_model(stage("model.config.vocab_size=10"), "base")


def test_sizes_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match=r"stages.base.size.*one of xs, nano, received 'm'"):
        chosen_fields({}, {"xs": {}, "nano": {}}, "m", "stages.base")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"n_group": 3}, "config.n_group"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"rope_parameters": {"rope_type": "yarm", "rope_theta": 1.0}}, "yarn"),
        ({"hidden_act": "sulu"}, "hidden_act"),
    ],
)
def test_the_worker_refuses_what_a_dry_run_could_not_see(fields: Any, word: str) -> None:
    shape = yaml.safe_load((conf_dir() / "model" / "tiny_mla_moe.yaml").read_text())["config"]
    with pytest.raises(UserError) as caught:
        deepseek_config({**shape, **fields}, build_tiny_tokenizer())
    assert word in str(caught.value)


def test_the_dry_run_knows_the_fields_and_defaults_of_the_class() -> None:
    config = DeepseekConfig()
    for name, (_, default) in deepseek_fields().items():
        if name not in ("num_key_value_heads", "rope_parameters", "rope_theta", "rope_scaling"):
            assert getattr(config, name) == default, name


WRONG = [
    {"n_group": 3},
    {"topk_group": 2},
    {"num_experts_per_tok": 9},
    {"qk_rope_head_dim": 7},
    {"num_key_value_heads": 3},
    {"scoring_func": "softmax"},
    {"moe_layer_freq": 2},
    {"kv_lora_rank": 0},
    {"bias_update_speed": -1.0},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_dry_run_and_class_refuse_the_same(fields: dict[str, Any]) -> None:
    model = yaml.safe_load((conf_dir() / "model" / "tiny_mla_moe.yaml").read_text())
    model["config"] = {**model["config"], **fields}
    told = {p.where for p in architecture_problems("model", {**model, "size": "xs"})}
    with pytest.raises(UserError) as caught:
        deepseek_config(model["config"], build_tiny_tokenizer())
    assert told == {f"model.{problem.where}" for problem in caught.value.problems}


def test_a_plugin_builder_needs_to_know_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe.registry import ARCHITECTURES

    made = (tiny.model(), tiny.tokenizer())
    known = {**ARCHITECTURES._known, "mine": lambda size, seed: made}
    monkeypatch.setattr(ARCHITECTURES, "_known", known)
    asked = stage("model.architecture=mine", "model.size=m", model="tiny")
    assert build_model(asked, "base") == made
    fields = stage("model.architecture=mine", "model.config.width=3", model="tiny")
    with pytest.raises(UserError, match="has no fields"):
        build_model(fields, "base")
