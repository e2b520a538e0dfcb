"""Models and tokenizers by path: what loads, and what is refused with the mend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM

from r1pipe import models
from r1pipe.errors import UserError
from r1pipe.models.deepseek import DeepseekForCausalLM
from r1pipe.models.loading import (
    context_length,
    end_token_ids,
    load_causal_lm,
    load_tokenizer,
    lora_config,
)
from r1pipe.schema import Load, Lora
from tests.stages.tiny import save_mixture
from tests.stages.tiny_stage import LOAD, save_tiny_model


def load(**changes: Any) -> Load:
    return Load(**{**LOAD, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return Path(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(path: Path, **changes: Any) -> None:
    values = {**json.loads(path.read_text()), **changes}
    removed = {name for name, value in changes.items() if value is None}
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in removed}))


def refused(call, reference: Any, settings: Load | None = None) -> str:
    with pytest.raises(UserError) as caught:
        call(str(reference), settings or load())
    return str(caught.value)


def test_any_causal_model_loads_by_path_in_the_asked_dtype(tmp_path):
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path), load(dtype="bfloat16", attn_implementation="eager"))
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert context_length(model) == 64


def test_the_folder_of_a_finished_stage_loads(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "stage" / "model")
    (tmp_path / "stage" / "manifest.json").write_text("{}")
    model = load_causal_lm(str(tmp_path / "stage"), load())
    tokenizer = load_tokenizer(str(tmp_path / "stage"), load())
    assert len(tokenizer) == model.config.vocab_size
    assert end_token_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_a_stage_without_a_model_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    assert "without a model" in refused(load_causal_lm, tmp_path)


def test_a_missing_path_names_the_closest_one(saved):
    assert "did you mean `tiny`?" in refused(load_causal_lm, saved.with_name("tinny"))
    assert "did you mean `tiny`?" in refused(load_tokenizer, saved.with_name("tinny"))


def test_an_unknown_hub_id_is_refused_with_both_readings(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused(load_causal_lm, "nobody/no-such-model")
    assert "cannot load the model" in message
    assert "no folder of this name" in message


def test_pickled_weights_are_refused_with_the_mend(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    message = refused(load_causal_lm, copy)
    assert "safetensors only" in message
    assert "use_safetensors=False" in message


def test_shipped_code_is_refused_unless_asked_for(copy):
    mapping = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit(copy / "config.json", auto_map=mapping, model_type="own")
    (copy / "own.py").write_text("raise SystemExit('this code ran')\n")
    message = refused(load_causal_lm, copy)
    assert "model.load.trust_remote_code=true" in message


def test_damaged_weights_are_refused(copy):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:100])
    assert "cannot load the model" in refused(load_causal_lm, copy)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    assert "no config.json" in refused(load_causal_lm, tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(copy):
    edit(copy / "tokenizer_config.json", eos_token=None)
    (copy / "special_tokens_map.json").unlink(missing_ok=True)
    assert "no EOS" in refused(load_tokenizer, copy)


def test_a_missing_padding_token_is_found_without_growing_the_vocabulary(copy):
    before = len(load_tokenizer(str(copy), load()))
    edit(copy / "tokenizer_config.json", pad_token=None)
    (copy / "special_tokens_map.json").unlink(missing_ok=True)
    tokenizer = load_tokenizer(str(copy), load())
    assert tokenizer.pad_token == "<pad>"
    assert len(tokenizer) == before
    assert tokenizer.padding_side == "left"


def test_the_tokenizer_and_the_chat_template_can_come_from_elsewhere(saved, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}!")
    settings = load(tokenizer=str(saved), chat_template=str(template))
    tokenizer = load_tokenizer(str(tmp_path), settings)
    messages = [{"role": "user", "content": "1+1"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "1+1!"


def test_a_missing_chat_template_is_refused(saved, tmp_path):
    settings = load(chat_template=str(tmp_path / "no.jinja"))
    assert "model.load.chat_template" in refused(load_tokenizer, saved, settings)


@pytest.fixture
def mixture(tmp_path) -> Path:
    return Path(save_mixture(tmp_path / "mixture"))


def test_the_package_itself_is_light():
    code = "import sys, r1pipe.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert models.load_causal_lm is load_causal_lm


def test_without_settings_a_model_is_as_its_checkpoint_says(mixture):
    shared = load_causal_lm(mixture)
    assert isinstance(shared, DeepseekForCausalLM)
    assert (shared.dtype, shared.config.dtype) == (torch.float32, torch.float32)
    changed = load_causal_lm(mixture, dtype=torch.bfloat16, attn_implementation="eager")
    assert changed.dtype == torch.bfloat16
    assert changed.config._attn_implementation == "eager"
    assert changed.model.routers[0].e_score_correction_bias.dtype == torch.float32


def test_misspelt_settings_are_refused(mixture):
    with pytest.raises(UserError, match=r"did you mean `dtype`"):
        load_causal_lm(mixture, dtpe="float32")
    with pytest.raises(UserError, match=r"dtype.*float32"):
        load_causal_lm(mixture, dtype="float12")


def test_what_stock_transformers_saved_becomes_ours(tmp_path, mixture):
    stock = DeepseekV3ForCausalLM.from_pretrained(mixture)
    stock.save_pretrained(tmp_path / "stock")
    ours = load_causal_lm(tmp_path / "stock")
    assert isinstance(ours, DeepseekForCausalLM)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, stock.eval()(ids).logits)


@pytest.mark.parametrize("trusted", [False, True])
def test_code_beside_a_deepseek_model_is_never_run(mixture, trusted):
    mapping = {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    }
    edit(mixture / "config.json", auto_map=mapping)
    for name in ("configuration_deepseek.py", "modeling_deepseek.py"):
        (mixture / name).write_text("raise SystemExit('this code ran')\n")
    model = load_causal_lm(str(mixture), load(trust_remote_code=trusted))
    assert isinstance(model, DeepseekForCausalLM)


def test_every_problem_of_a_deepseek_config_is_told_with_the_place(mixture):
    edit(mixture / "config.json", n_group=3, scoring_func="softmax", hiden_size=4)
    message = refused(load_causal_lm, mixture)
    for word in (str(mixture), "n_group", "scoring_func", "did you mean `hidden_size`?"):
        assert word in message
    assert "cannot load" not in message


def test_wrong_types_in_a_deepseek_config_are_the_users(mixture):
    edit(mixture / "config.json", hidden_size="wide")
    assert "hidden_size" in refused(load_causal_lm, mixture)


def test_weights_of_another_shape_are_the_users(mixture):
    edit(mixture / "config.json", moe_intermediate_size=12)
    message = refused(load_causal_lm, mixture)
    assert str(mixture) in message and "experts" in message


def test_a_cut_deepseek_checkpoint_is_the_users(mixture):
    content = (mixture / "model.safetensors").read_bytes()
    (mixture / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert str(mixture) in refused(load_causal_lm, mixture)


def test_adapters_are_made_from_their_settings():
    assert lora_config(None) is None
    lora = Lora(r=4, alpha=8, dropout=0.1, target_modules="all-linear")
    config = lora_config(lora)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0.1)
    assert config.task_type == "CAUSAL_LM"
