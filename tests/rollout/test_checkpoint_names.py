"""What an engine is sent is what `save_pretrained` writes, adapters merged and nothing changed."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from tests.vllm import families


def saved(model, folder):
    model.save_pretrained(folder)
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_same(found, wanted, tied):
    left = set(wanted) - set(found)
    # A checkpoint of tied weights may hold the head beside the embedding.
    assert left <= ({"lm_head.weight"} if tied else set())
    assert set(found) <= set(wanted)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_names_and_values_are_the_checkpoint_s(family, tmp_path):
    model = families.FAMILIES[family]()
    pairs = list(checkpoint_tensors(model))
    assert len({name for name, _ in pairs}) == len(pairs)
    assert_same(dict(pairs), saved(model, tmp_path), family == "tied")


def test_a_model_that_was_loaded_sends_the_same(tmp_path):
    families.deepseek().save_pretrained(tmp_path / "a")
    model = families.DeepseekForCausalLM.from_pretrained(tmp_path / "a")
    found = dict(checkpoint_tensors(model))
    assert "model.layers.1.mlp.experts.7.down_proj.weight" in found
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in found
    assert "model.layers.2.eh_proj.weight" in found  # multi-token prediction
    assert_same(found, saved(model, tmp_path / "b"), tied=False)


@pytest.mark.parametrize("family", ["tied", "deepseek", "qwen3_moe"])
def test_adapters_are_merged_without_touching_the_weights(family, tmp_path):
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0)
    model = get_peft_model(families.FAMILIES[family](), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    before = copy.deepcopy(model.state_dict())
    found = dict(checkpoint_tensors(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    merged = copy.deepcopy(model).merge_and_unload()
    assert_same(found, saved(merged, tmp_path), family == "tied")
    plain = dict(checkpoint_tensors(merged))
    assert found.keys() == plain.keys()


def test_every_parameter_is_gathered_once_and_in_order():
    model, seen = families.deepseek(), []

    class Gathered:
        def __init__(self, parameters):
            seen.extend(parameters)

        def __enter__(self):
            return None

        def __exit__(self, *args):
            return None

    list(checkpoint_tensors(model, Gathered))
    assert [id(p) for p in seen] == list(dict.fromkeys(id(p) for p in model.parameters()))
