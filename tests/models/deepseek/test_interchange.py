"""Checkpoints go to stock transformers and back without a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV3ForCausalLM,
    Trainer,
    TrainingArguments,
)

from r1pipe.errors import UserError
from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM, update_biases

IDS = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "n_group": 1, "topk_group": 1}])
def test_stock_checkpoint_loads_here(changes: Any, stock: Any, folder: Path, yarn: Any) -> None:
    theirs = stock(**changes, rope_parameters=yarn)
    theirs.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, DeepseekConfig)
    for mine in (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, config=config),
        DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32),
        DeepseekForCausalLM.from_pretrained(folder, config=theirs.config),
    ):
        assert type(mine) is DeepseekForCausalLM
        assert torch.equal(mine.eval()(IDS).logits, theirs(IDS).logits)


@pytest.mark.parametrize("mtp", [0, 1])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_saved_checkpoint_loads_in_stock(mtp: int, shard: str, fresh: Any, folder: Path) -> None:
    mine = fresh(num_nextn_predict_layers=mtp).eval()
    mine.save_pretrained(folder, max_shard_size=shard)
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == "deepseek_v3"
    assert written["architectures"] == ["DeepseekV3ForCausalLM"]
    assert written["scoring_func"] == "sigmoid" and written["topk_method"] == "noaux_tc"
    theirs, info = DeepseekV3ForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert torch.equal(theirs.eval()(IDS).logits, mine(IDS).logits)
    again = AutoModelForCausalLM.from_pretrained(folder)
    for name, tensor in mine.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    again.save_pretrained(folder.parent / "again", max_shard_size=shard)
    for file in folder.glob("*.safetensors"):
        assert (folder.parent / "again" / file.name).read_bytes() == file.read_bytes()
    assert (folder.parent / "again" / "config.json").read_text() == json.dumps(
        written, indent=2, sort_keys=True
    ) + "\n"


def _trained(model: Any) -> Any:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        update_biases(model, 0.001)
        optimizer.step()
        optimizer.zero_grad()
    return model


def _with_generation(model: Any) -> Any:
    model.generation_config.temperature, model.generation_config.do_sample = 0.6, True
    model.generation_config.eos_token_id = [3, 5]
    return model


def _with_more_mtp(model: Any) -> Any:
    model.add_mtp_layers(1)
    return model


@pytest.mark.parametrize("change", [_trained, _with_generation, _with_more_mtp])
@pytest.mark.parametrize(
    ("dtype", "tied", "shard"),
    [
        (torch.float32, False, "5GB"),
        (torch.float32, True, "20KB"),
        (torch.bfloat16, False, "20KB"),
        (torch.bfloat16, True, "5GB"),
    ],
)
def test_save_load_save_gives_the_same_files(
    change: Any, dtype: torch.dtype, tied: bool, shard: str, fresh: Any, folder: Path
) -> None:
    mine = fresh(num_nextn_predict_layers=1, tie_word_embeddings=tied)
    mine = change(mine).to(dtype)
    mine.save_pretrained(folder, max_shard_size=shard)
    again, other = folder, folder.parent / "again"
    for _ in range(2):
        AutoModelForCausalLM.from_pretrained(again).save_pretrained(other, max_shard_size=shard)
        names = sorted(path.name for path in folder.iterdir())
        assert {"config.json", "generation_config.json"} < set(names)
        assert sorted(path.name for path in other.iterdir()) == names
        for name in names:
            assert (other / name).read_bytes() == (folder / name).read_bytes(), name
        again, other = other, folder.parent / "once_more"
    held = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    assert ("lm_head.weight" in held) is not tied
    for name, tensor in held.items():
        bias = name.endswith("e_score_correction_bias")
        assert tensor.dtype == (torch.float32 if bias else dtype), name
    with safe_open(next(folder.glob("*.safetensors")), "pt") as file:
        assert file.metadata() == {"format": "pt"}
    theirs, info = DeepseekV3ForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    if dtype == torch.float32:
        assert torch.equal(theirs.eval()(IDS).logits, mine.eval()(IDS).logits)


def test_saved_names_are_the_public_ones(fresh: Any, folder: Path) -> None:
    fresh(num_nextn_predict_layers=1).save_pretrained(folder)
    names = set(load_file(folder / "model.safetensors"))
    block = {n.removeprefix("model.layers.2.") for n in names if n.startswith("model.layers.2.")}
    mtp = {n.removeprefix("model.layers.3.") for n in names if n.startswith("model.layers.3.")}
    heads = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}
    assert mtp == block | heads
    assert "mlp.experts.7.gate_proj.weight" in block
    assert "mlp.gate.e_score_correction_bias" in block
    assert not any("gate_up_proj" in name for name in names)


def test_copies_beside_mtp_modules_and_further_modules_are_left(fresh: Any, folder: Path) -> None:
    mine = fresh(num_nextn_predict_layers=2)
    mine.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for layer in (3, 4):
        weights[f"model.layers.{layer}.embed_tokens.weight"] = torch.zeros(61, 32)
        weights[f"model.layers.{layer}.shared_head.head.weight"] = torch.zeros(61, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for asked in (2, 1, 0):
        model, info = DeepseekForCausalLM.from_pretrained(
            folder, num_nextn_predict_layers=asked, output_loading_info=True
        )
        assert not info["unexpected_keys"]
        assert len(model.model.mtp_layers) == asked
        assert torch.equal(model.lm_head.weight, mine.lm_head.weight)


def test_checkpoint_without_mtp_weights(stock: Any, folder: Path) -> None:
    stock(num_nextn_predict_layers=1).save_pretrained(folder)  # stock drops the weights, not this
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_nextn_predict_layers == 0 and not model.model.mtp_layers
    model.add_mtp_layers(2)
    assert model.config.num_nextn_predict_layers == 2 == len(model.model.mtp_layers)
    loss = model.train()(IDS, labels=IDS).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(folder / "more")
    assert len(AutoModelForCausalLM.from_pretrained(folder / "more").model.mtp_layers) == 2


def test_checkpoint_that_cannot_be_looked_into(
    stock: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the hub: which layers it holds is known only when it is loaded."""
    from r1pipe.models.deepseek import checkpoint_loading

    stock(num_nextn_predict_layers=1).save_pretrained(folder)
    monkeypatch.setattr(checkpoint_loading, "mtp_layers_in", lambda path: None)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_nextn_predict_layers == 0 and len(model.model.layers) == 3
    assert model.generate(IDS, max_new_tokens=2, do_sample=False).shape == (2, 11)


def test_missing_weights_are_refused_by_name(fresh: Any, folder: Path) -> None:
    fresh().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.o_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.o_proj"):
        DeepseekForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("how", ["load", "cast"])
def test_bias_stays_float32(how: str, fresh: Any, folder: Path) -> None:
    mine = fresh()
    exact = [router.e_score_correction_bias.clone() for router in mine.model.routers]
    if how == "load":
        mine.save_pretrained(folder)
        mine = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    else:
        mine = mine.to(torch.bfloat16).half().bfloat16()
    assert mine.lm_head.weight.dtype == torch.bfloat16
    for router, bias in zip(mine.model.routers, exact, strict=True):
        assert router.e_score_correction_bias.dtype == torch.float32
        assert torch.equal(router.e_score_correction_bias, bias)
    mine.train()(IDS, labels=IDS).loss.backward()


def test_plain_load_state_dict_reads_the_public_layout(fresh: Any, folder: Path) -> None:
    saved = fresh(num_nextn_predict_layers=1)
    saved.save_pretrained(folder)
    other = DeepseekForCausalLM(saved.config)
    missing, unexpected = other.load_state_dict(load_file(folder / "model.safetensors"))
    assert not missing and not unexpected
    for name, tensor in saved.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_trainer_resumes_with_every_weight(fresh: Any, folder: Path) -> None:
    model = fresh(num_nextn_predict_layers=1)
    rows = [{"input_ids": IDS[0].tolist(), "labels": IDS[0].tolist()}] * 4
    options: dict[str, Any] = {"report_to": [], "use_cpu": True, "per_device_train_batch_size": 1}
    options |= {"save_steps": 1, "disable_tqdm": True}
    Trainer(
        model, TrainingArguments(str(folder), max_steps=1, **options), train_dataset=rows
    ).train()
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = DeepseekForCausalLM(model.config)
    trainer = Trainer(
        other, TrainingArguments(str(folder), max_steps=1, **options), train_dataset=rows
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    for name, tensor in trained.items():
        assert torch.equal(other.state_dict()[name], tensor), name
