"""Every trained stage balances experts and trains MTP as its config says, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from r1pipe.compose import compose_recipe
from r1pipe.models import load_causal_lm
from r1pipe.recipes import recipes_dir
from r1pipe.schema import Auxiliary, Lora, PretrainStage
from r1pipe.stages import distill, grpo, pretrain, sft
from r1pipe.validate import validate
from tests.stages import tiny

BIAS = "model.layers.{}.mlp.gate.e_score_correction_bias"
QUICK = {"per_device_train_batch_size": 8, "max_steps": 2}
SAMPLED = {**QUICK, "max_completion_length": 6}
MODULES: dict[str, Any] = {"sft": sft, "grpo": grpo, "distill": distill}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_mixture(tmp_path_factory.mktemp("models") / "experts")


def stage(kind: str, model: str, **options: Any) -> Any:
    if kind == "distill":
        return tiny.distill_stage(model, model, **{**SAMPLED, **options})
    if kind == "grpo":
        return tiny.grpo_stage(model, num_generations=4, **{**SAMPLED, **options})
    return tiny.sft_stage(model, **{**QUICK, **options})


def trained(stage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Run a stage on additions; return the weights it leaves."""
    module = MODULES[stage.kind]
    monkeypatch.setattr(module, "load_data", lambda *a, **k: tiny.rows(32))
    if stage.kind == "grpo":
        monkeypatch.setattr(module, "build_rewards", lambda *a: ([tiny.digits], [1.0]))
    module.run(tiny.context(folder, stage))
    return load_file(folder / "model" / "model.safetensors")


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def moved(after: dict[str, torch.Tensor], model: str, name: str) -> float:
    before = load_file(Path(model) / "model.safetensors")
    return float((after[name] - before[name]).abs().max())


@pytest.mark.parametrize("kind", ["sft", "grpo", "distill"])
def test_biases_and_mtp_train_with_the_models_own_coefficients(
    kind: str, experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = trained(stage(kind, experts, max_steps=1), tmp_path / "run", monkeypatch)
    for layer in (1, 2):  # the main layer with experts, and the MTP module
        assert moved(after, experts, BIAS.format(layer)) == 0.125
    assert moved(after, experts, "model.layers.2.eh_proj.weight") > 0
    row = logged(tmp_path / "run")[0]
    assert row["mtp_loss"] > 0 and row["balance_loss"] > 0
    assert row["experts/max_violation"] <= row["experts/max_violation_worst_layer"]
    if kind != "distill":  # TRL's trainers log what they add
        expected = 0.3 * row["mtp_loss"] + row["balance_loss"]
        assert row["aux_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_stage_has_coefficients_of_its_own(
    experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = Auxiliary(bias_update_speed=0.0, balance_factor=0.0, mtp_loss_weight=0.0)
    config = stage("sft", experts).model_copy(update={"auxiliary": still})
    after = trained(config, tmp_path / "run", monkeypatch)
    for name in [BIAS.format(1), BIAS.format(2), "model.layers.2.eh_proj.weight"]:
        assert moved(after, experts, name) == 0
    assert moved(after, experts, "model.layers.1.mlp.gate.weight") > 0
    row = logged(tmp_path / "run")[0]
    assert "mtp_loss" not in row and row["experts/max_violation"] >= 0

    frozen = Auxiliary(bias_frozen_from=1)
    config = stage("sft", experts).model_copy(update={"auxiliary": frozen})
    after = trained(config, tmp_path / "frozen", monkeypatch)
    assert moved(after, experts, BIAS.format(1)) == 0.125, "the second step leaves it"


def test_the_coefficients_of_a_stage_are_not_the_models(
    experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Auxiliary(bias_update_speed=0.5, balance_factor=0.0, mtp_loss_weight=0.0)
    config = stage("sft", experts, router_aux_loss_coef=0.5)
    config = config.model_copy(update={"auxiliary": other})
    trained(config, tmp_path / "run", monkeypatch)
    before = json.loads((Path(experts) / "config.json").read_text())
    after = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed <= {"use_cache"}  # the Trainer's


def test_adapters_are_merged_beside_experts(
    experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = Lora(r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    config = stage("sft", experts, learning_rate=0.1).model_copy(update={"lora": lora})
    after = trained(config, tmp_path / "run", monkeypatch)
    before = load_file(Path(experts) / "model.safetensors")
    assert after.keys() == before.keys()
    assert moved(after, experts, "model.layers.1.self_attn.kv_b_proj.weight") > 0
    assert moved(after, experts, "model.layers.2.eh_proj.weight") > 0
    assert moved(after, experts, BIAS.format(1)) == 0, "an adapter's checkpoint does not hold it"


def test_biases_stay_float32_beside_bfloat16_weights(
    experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stage("sft", experts)
    load = config.load.model_copy(update={"dtype": "bfloat16"})
    slow = Auxiliary(bias_update_speed=0.0009765625)
    config = config.model_copy(update={"load": load, "auxiliary": slow})
    after = trained(config, tmp_path / "run", monkeypatch)
    assert after["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert after[BIAS.format(1)].dtype == torch.float32
    again = load_causal_lm(tmp_path / "run" / "model", dtype="bfloat16")
    assert torch.equal(again.model.routers[0].e_score_correction_bias, after[BIAS.format(1)])


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_checkpointing_changes_nothing(
    kind: str, experts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`use_reentrant` is false in conf/; re-entrant, the balance loss would move no router."""
    shipped = compose_recipe("config", [f"stage={kind}"])[0]["stages"][kind]["trainer"]
    options = {"gradient_checkpointing_kwargs": shipped["gradient_checkpointing_kwargs"]}
    weights = [
        trained(
            stage(kind, experts, gradient_checkpointing=on, **options),
            tmp_path / str(on),
            monkeypatch,
        )
        for on in (False, True)
    ]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name


def test_dense_models_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = tiny.save_model(tmp_path / "dense")
    trained(stage("sft", dense), tmp_path / "run", monkeypatch)
    assert not [name for name in logged(tmp_path / "run")[0] if name.startswith("experts/")]


def test_reinforcement_learning_moves_neither_bias_nor_mtp() -> None:
    """Unlike pre-training and SFT: see conf/stage/grpo.yaml."""
    asked = ["model=tiny_mla_moe", "dry_run=true"]
    stages: dict[str, Any] = validate(*compose_recipe("tiny_r1", asked, recipes_dir())).stages
    for name in ("cold_start_sft", "rejection_sft"):
        assert set(stages[name].auxiliary.model_dump().values()) == {None}
    for name in ("base", "student_base"):
        given = stages[name].auxiliary.model_dump(exclude_none=True)
        assert given == {"bias_frozen_from": 1 - stages[name].data.options["web_share"]}
    for name in ("r1_zero", "reasoning_grpo", "all_domain_grpo"):
        found = stages[name].auxiliary
        assert (found.bias_update_speed, found.mtp_loss_weight) == (0.0, 0.0)
        assert found.balance_factor is None


def test_pretraining_builds_what_the_model_group_says(tmp_path: Path) -> None:
    asked = ["stage=pretrain", "model=tiny_mla_moe", "model.size=nano", "stage.data.limit=32"]
    asked += ["stage.trainer.max_steps=2", "stage.trainer.logging_steps=1"]
    config: Any = validate(*compose_recipe("config", asked)).stages["pretrain"]
    assert isinstance(config, PretrainStage)
    pretrain.run(tiny.context(tmp_path / "run", config))
    model = load_causal_lm(tmp_path / "run" / "model")
    assert model.config.hidden_size == config.sizes["nano"]["hidden_size"]
    assert model.config.num_nextn_predict_layers == len(model.model.mtp_layers) == 1
    speed = model.config.bias_update_speed
    moved = model.model.routers[0].e_score_correction_bias.abs().max()
    assert float(moved) == pytest.approx(2 * speed)
    assert logged(tmp_path / "run")[0]["experts/max_violation"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_gathered_from_shards_are_saved_as_whole_ones(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """FSDP and ZeRO-3 hand over a state dict, whose experts are fused as in memory."""
    model = tiny.mixture().to(dtype)
    model.model.routers[0].e_score_correction_bias += 0.1001
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "gathered", state_dict=dict(model.state_dict()))
    whole, gathered = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "gathered")
    )
    assert whole.keys() == gathered.keys()
    assert all(torch.equal(value, gathered[name]) for name, value in whole.items())
    assert gathered[BIAS.format(1)].dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_gathered_from_shards_are_merged(dtype: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    from r1pipe.models.loading import lora_config
    from r1pipe.stages.training import _merged

    lora = Lora(r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    model = load_causal_lm(tiny.save_mixture(tmp_path / "base"), dtype=dtype)
    model.model.routers[0].e_score_correction_bias += 0.1001
    adapted = get_peft_model(model, lora_config(lora))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    state = {name: value.clone() for name, value in adapted.state_dict().items()}
    _merged(adapted, state).save_pretrained(tmp_path / "gathered")
    _merged(adapted, None).save_pretrained(tmp_path / "whole")
    whole, gathered = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "gathered")
    )
    assert whole.keys() == gathered.keys()
    for name, value in whole.items():
        assert value.dtype == gathered[name].dtype
        assert torch.allclose(value.float(), gathered[name].float(), atol=1e-6), name
    assert float(gathered[BIAS.format(1)].max()) == pytest.approx(0.1001, abs=1e-6)
