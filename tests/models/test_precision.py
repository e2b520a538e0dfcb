"""`load.precision: fp8_block`: what is converted, that it trains, and that nothing else changes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from r1pipe.data.sources import load_data
from r1pipe.errors import UserError
from r1pipe.models import precision
from r1pipe.models.loading import hf_defaults, load_causal_lm
from r1pipe.models.precision import apply_precision
from r1pipe.schema import Data, Load, RewardTerm
from r1pipe.stages.grpo import run as run_grpo
from r1pipe.stages.supervised import supervised_trainer
from r1pipe.stages.training import save_final_model
from tests.stages import tiny, tiny_stage

assert tiny_stage  # registers the reward `even_length`
Linear = precision.kernels_package().FP8Linear


def load(**fp8: Any) -> Load:
    values = {**hf_defaults()["fp8"], "min_features": 16, **fp8}
    return Load.model_validate(
        {**hf_defaults(), "dtype": "float32", "precision": "fp8_block", "fp8": values}
    )


def qwen3_moe(**changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        **{"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96},
        **{"moe_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "head_dim": 16},
        **{"eos_token_id": None, "initializer_range": 0.2},
    }
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**shape, **changes}))


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.detach() - want.detach()).norm() / want.detach().norm()).item()


def trained(folder: Path, init: str, options: Load, steps: int) -> Any:
    """A finished SFT trainer on additions, as the stage makes it."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(64)), encoding="utf-8")
    knobs = {"max_steps": steps, "per_device_train_batch_size": 16, "use_cpu": True}
    stage = tiny.sft_stage(init, **knobs, report_to="none", save_strategy="no", bf16=False)
    data = load_data(Data(path=str(rows)), 0)
    context = tiny.context(folder / "run", stage)
    trainer = supervised_trainer(context, load_causal_lm(init, options), tiny.tokenizer(), data)
    trainer.checkpoint_folder = folder / "checkpoints"
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_forty_steps_follow_float32_and_leave_an_ordinary_checkpoint(tmp_path: Path) -> None:
    init = tiny.save_model(tmp_path / "init", hidden=64)
    curves, names, trainer = [], [], None
    for number, options in enumerate((Load.model_validate({**hf_defaults()}), load())):
        folder = tmp_path / str(number)
        folder.mkdir()
        trainer = trained(folder, init, options, 40)
        curves.append(losses(trainer))
        state = trainer.optimizer.state_dict()
        held = state["state"].values()
        names.append([{k: (v.dtype, v.shape) for k, v in p.items()} for p in held])
    plain, fp8 = (torch.tensor(curve) for curve in curves)
    assert trainer is not None and isinstance(trainer.model.model.layers[0].mlp.up_proj, Linear)
    assert fp8[-10:].mean() < 0.5 * fp8[0]  # it learns
    # 64 features at a learning rate of 0.01: 1.0 % over the whole curve, measured.
    assert abs(fp8.mean() / plain.mean() - 1) < 0.03
    assert names[0] == names[1]
    save_final_model(trainer, tmp_path / "saved")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert {n: p.dtype for n, p in stock.named_parameters()} == {
        n: p.dtype for n, p in trainer.model.named_parameters()
    }
    ids = torch.randint(3, 20, (2, 12))
    trainer.model.eval()
    assert error(trainer.model(ids).logits, stock(ids).logits) < 0.1
    text = (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")
    assert "fp8" not in text


def test_adapters_train_on_frozen_codes_and_merge(tmp_path: Path) -> None:
    init = tiny.save_model(tmp_path / "init", hidden=64)
    base = load_causal_lm(init, load())
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_alpha=64))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    ids = torch.randint(3, 20, (4, 12))
    first = model(input_ids=ids, labels=ids).loss.item()
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.8 * first
    adapters = [n for n, m in model.named_modules() if "lora_" in n and isinstance(m, Linear)]
    assert adapters == []
    model.eval()
    apart = model(ids).logits
    merged = model.merge_and_unload()
    assert isinstance(merged.model.layers[0].mlp.up_proj, Linear)
    assert error(merged(ids).logits, apart) < 0.15  # merged weights are rounded, adapters were not


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_grpo_samples_and_trains_with_the_converted_model(kind: str, tmp_path: Path) -> None:
    if kind == "dense":
        init = tiny.save_model(tmp_path / "init", hidden=32)
    else:
        init = tiny.save_mixture(
            tmp_path / "init", hidden_size=32, moe_intermediate_size=16, kv_lora_rank=16
        )
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(8)), encoding="utf-8")
    knobs = {"max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 4}
    stage = tiny.grpo_stage(
        init, "compact", **knobs, max_completion_length=6, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", beta=0.04, gradient_checkpointing=True,
    )  # fmt: skip
    update = {
        "load": load(),
        "data": Data(path=str(rows)),
        "rewards": {"even_length": RewardTerm(weight=1.0)},
    }
    outcome = run_grpo(tiny.context(tmp_path / "run", stage.model_copy(update=update)))
    assert outcome.metrics["steps"] == 2
    assert torch.isfinite(torch.tensor(outcome.metrics["train_loss"]))


def test_experts_of_another_class_run_through_the_same_function() -> None:
    model = qwen3_moe()
    plain = copy.deepcopy(model)
    ids = torch.randint(0, 64, (2, 30))
    apply_precision(model, load())
    converted = [n for n in model.fp8_report.converted if n.endswith("experts")]
    assert converted == ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(layer.mlp.experts.gate_up_proj.grad.any() for layer in model.model.layers)
    assert set(model.state_dict()) == set(plain.state_dict())
    x, choice, weights = torch.randn(60, 64), torch.randint(0, 8, (60, 2)), torch.rand(60, 2)
    found = []
    for one in (plain, model):
        experts = one.model.layers[0].mlp.experts
        one.zero_grad()
        mine = x.clone().requires_grad_()
        y = experts(mine, choice, weights)
        y.square().sum().backward()
        found.append((y, mine.grad, experts.gate_up_proj.grad, experts.down_proj.grad))
    assert all(error(a, b) < 0.15 for a, b in zip(found[1], found[0], strict=True))


@pytest.mark.slow
def test_a_converted_mixture_compiles_in_one_graph() -> None:
    model = apply_precision(qwen3_moe(num_hidden_layers=1), load())
    ids = torch.randint(0, 64, (2, 20))
    found = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        run(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert error(found[1], found[0]) < 1e-5


def test_one_expert_layer_can_be_kept() -> None:
    model = qwen3_moe()
    plain = copy.deepcopy(model)
    apply_precision(model, load(include=["*.layers.1.mlp.experts"]))
    assert model.fp8_report.converted == ["model.layers.1.mlp.experts"]
    x, choice = torch.randn(9, 64), torch.randint(0, 8, (9, 2))
    weights = torch.rand(9, 2)
    for layer, near in ((0, 0.0), (1, 0.1)):
        got = model.model.layers[layer].mlp.experts(x, choice, weights)
        want = plain.model.layers[layer].mlp.experts(x, choice, weights)
        assert error(got, want) <= near and (near == 0 or error(got, want) > 0)


def test_experts_with_biases_and_transposed_weights() -> None:
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=64, hidden_size=64, intermediate_size=32, num_hidden_layers=1, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        eos_token_id=None,
    )  # fmt: skip
    model = GptOssForCausalLM(config)
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad():
        for name, p in experts.named_parameters():
            p.normal_(0, 0.3 if "bias" in name else 0.1)
    plain = copy.deepcopy(experts)
    apply_precision(model, load())
    assert "model.layers.0.mlp.experts" in model.fp8_report.converted
    x, choice, weights = torch.randn(20, 64), torch.randint(0, 4, (20, 2)), torch.rand(20, 2)
    found = []
    for one in (plain, experts):
        y = one(x, choice, weights)
        y.square().sum().backward()
        found.append((y, *(p.grad for p in one.parameters())))
    assert all(error(a, b) < 0.12 for a, b in zip(found[1], found[0], strict=True))


def test_layers_of_a_deepseek_model() -> None:
    model = tiny.mixture(hidden_size=32, moe_intermediate_size=16, kv_lora_rank=16)
    apply_precision(model, load())
    kept = model.fp8_report.kept
    whys = {why for name, why in kept.items() if name.endswith("eh_proj")}
    assert whys == {"always kept (`*.eh_proj`)"}
    assert kept["lm_head"] == "the output head"
    assert any(name.endswith("shared_experts.down_proj") for name in model.fp8_report.converted)
    assert any(name.endswith("mlp.experts") for name in model.fp8_report.converted)
    assert not any("gate" in name.split(".")[-1:] for name in model.fp8_report.converted)


class Old:
    """A GPU of the generation before FP8."""

    is_available = staticmethod(lambda: True)
    get_device_capability = staticmethod(lambda device=None: (8, 0))
    get_device_name = staticmethod(lambda device=None: "NVIDIA A100")
    is_current_stream_capturing = staticmethod(lambda: False)


def test_a_gpu_without_fp8_units_keeps_its_precision_or_is_refused(monkeypatch, capsys) -> None:
    for name in ("is_available", "get_device_capability", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, getattr(Old, name))
    model = apply_precision(tiny.model(hidden=32), load())
    assert not any(isinstance(m, Linear) for m in model.modules())
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "A100 (compute capability 8.0) has no FP8 units" in said
    with pytest.raises(UserError, match=r"model\.load\.precision.*no FP8 units"):
        apply_precision(tiny.model(hidden=32), load(strict=True))


def test_experts_wait_for_hopper_on_other_gpus(monkeypatch) -> None:
    for name in ("is_available", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, getattr(Old, name))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    model = apply_precision(qwen3_moe(), load())
    kept = model.fp8_report.kept["model.layers.0.mlp.experts"]
    assert kept == "no grouped products but for Hopper"
    assert "model.layers.0.self_attn.q_proj" in model.fp8_report.converted


def test_a_model_without_any_layer_to_convert_is_refused() -> None:
    with pytest.raises(UserError, match=r"fewer than 512 features: 14"):
        apply_precision(tiny.model(hidden=32), load(min_features=512))


def test_without_a_precision_nothing_happens() -> None:
    model = tiny.model()
    assert apply_precision(model, Load.model_validate(hf_defaults())) is model
    assert not any(isinstance(m, Linear) for m in model.modules())


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="precision"):
        load_causal_lm("nowhere", precision="fp4")


def test_the_summary_is_one_line(capsys) -> None:
    apply_precision(tiny.model(hidden=64), load())
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "10 modules converted; kept: 4 fewer than 16 features, 1 the output head" in said
