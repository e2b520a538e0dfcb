"""Public checkpoints, FP8 ones among them, load as plain weights; damaged ones are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3ForCausalLM,
    FineGrainedFP8Config,
    modeling_utils,
)

from r1pipe.errors import UserError
from r1pipe.models.deepseek import (
    DeepseekConfig,
    DeepseekForCausalLM,
    DeepseekModel,
    checkpoint_fp8,
)
from r1pipe.models.deepseek.checkpoint_fp8 import dequantise, quantise, save_fp8_checkpoint
from r1pipe.models.loading import load_causal_lm
from r1pipe_kernels.quantise import reference
from tests.models.deepseek.public_layout import MOONLIGHT, V3, Miniature, dequantised

IDS = torch.randint(2, 61, (2, 9), generator=torch.Generator().manual_seed(3))
DOWN = "model.layers.1.mlp.experts.5.down_proj.weight"
KV_A = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"

VARIANTS: dict[str, Callable[[Path], Miniature]] = {
    "v3": lambda path: Miniature(path, V3),
    "v3.1, scales of powers of two": lambda path: Miniature(path, V3, power_of_two=True),
    "scales in ue8m0": lambda path: Miniature(
        path, V3, power_of_two=True, scale_dtype=torch.float8_e8m0fnu
    ),
    "scales in bfloat16": lambda path: Miniature(path, V3, scale_dtype=torch.bfloat16),
    "blocks of 96 by 64": lambda path: Miniature(path, V3, block=(96, 64)),
    "blocks of 1 by 128": lambda path: Miniature(path, V3, block=(1, 128)),
    "two MTP modules": lambda path: Miniature(path, {**V3, "num_nextn_predict_layers": 2}),
    "moonlight": lambda path: Miniature(path, MOONLIGHT, fp8=False, shards=2),
    "moonlight, tied": lambda path: Miniature(
        path, {**MOONLIGHT, "tie_word_embeddings": True}, fp8=False
    ),
    "moonlight in FP8": lambda path: Miniature(path, MOONLIGHT),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    torch.manual_seed(0)
    return Miniature(tmp_path_factory.mktemp("whole"), V3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_public_checkpoint_is_its_dequantised_twin(variant: str, folder: Path) -> None:
    made = VARIANTS[variant](folder)
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not hasattr(mine.config, "quantization_config")
    with torch.no_grad():
        assert torch.equal(mine(IDS).logits, made.twin(IDS).logits)
    mine.save_pretrained(folder / "plain")
    written = load_file(folder / "plain" / "model.safetensors")
    assert written.keys() == made.plain.keys() - made.copies
    for name, weight in written.items():
        assert torch.equal(weight, made.plain[name]), name
    content = json.loads((folder / "plain" / "config.json").read_text())
    assert "quantization_config" not in content and "auto_map" not in content


def test_weights_are_rounded_once_to_the_dtype_asked_for(folder: Path) -> None:
    made = Miniature(folder, V3)
    for asked in ({}, {"dtype": "auto"}, {"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}):
        mine = AutoModelForCausalLM.from_pretrained(folder, **asked, device_map={"": "cpu"})
        assert type(mine) is DeepseekForCausalLM
        weights = mine.state_dict()
        assert torch.equal(weights[KV_A], made.plain[KV_A].bfloat16())
        assert torch.equal(
            weights["model.layers.1.mlp.experts.down_proj"][5], made.plain[DOWN].bfloat16()
        )
        bias = weights["model.layers.1.mlp.gate.e_score_correction_bias"]
        assert bias.dtype == torch.float32 and bias.any()
    made.config["torch_dtype"] = "float8_e4m3fn"
    made.write()
    assert DeepseekForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_loader_of_every_stage_reads_it(whole: Miniature, folder: Path) -> None:
    mine = load_causal_lm(whole.folder)
    assert type(mine) is DeepseekForCausalLM and mine.dtype == torch.bfloat16
    assert len(mine.model.mtp_layers) == 1
    other = whole.copy_to(folder)
    del other.stored[DOWN + "_scale_inv"]
    other.write()
    with pytest.raises(UserError, match=r"experts\.5\.down_proj"):
        load_causal_lm(folder)


def test_transformers_quantiser_is_kept_out(folder: Path) -> None:
    made = Miniature(folder, V3)
    asked = FineGrainedFP8Config(dequantize=True)
    mine = DeepseekForCausalLM.from_pretrained(folder, quantization_config=asked, dtype="float32")
    assert torch.equal(mine(IDS).logits, made.twin(IDS).logits)
    mine.train()(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in mine.parameters())


def test_backbone_and_fewer_layers(folder: Path) -> None:
    made = Miniature(folder, V3)
    backbone = DeepseekModel.from_pretrained(folder, dtype=torch.float32)
    expected = made.twin.model(IDS).last_hidden_state
    assert torch.equal(backbone(IDS).last_hidden_state, expected)
    short = DeepseekForCausalLM.from_pretrained(folder, num_hidden_layers=1, dtype=torch.float32)
    assert len(short.model.layers) == 1
    assert torch.equal(short.model.layers[0].self_attn.kv_a_proj_with_mqa.weight, made.plain[KV_A])


def test_config_that_says_nothing_of_quantisation(folder: Path) -> None:
    """The weights say it; where blocks are not named they are V3's."""
    made = Miniature(folder, V3)
    del made.config["quantization_config"]
    made.write()
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(mine(IDS).logits, made.twin(IDS).logits)


def test_config_that_speaks_of_codes_where_weights_are_plain(folder: Path) -> None:
    """As DeepSeek's own conversion script leaves it."""
    made = Miniature(folder, V3, fp8=False)
    made.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    made.write()
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(mine(IDS).logits, made.twin(IDS).logits)
    assert not hasattr(mine.config, "quantization_config")


def test_one_scale_per_tensor(folder: Path) -> None:
    made = Miniature(folder, V3, block=(4096, 4096))
    made.config["quantization_config"]["weight_block_size"] = None
    for name in [n for n in made.stored if n.endswith("_scale_inv")]:
        made.stored[name] = made.stored[name].reshape(())
    made.stored[KV_A.replace("weight", "input_scale")] = torch.ones(())
    made.write()
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(mine(IDS).logits, made.twin(IDS).logits)


def _drop(name: str) -> Callable[[Miniature], None]:
    def damage(made: Miniature) -> None:
        del made.stored[name]
        made.write()

    return damage


def _put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Miniature], None]:
    def damage(made: Miniature) -> None:
        made.stored[name] = make(made.stored[name])
        made.write()

    return damage


def _quantisation(**changes: Any) -> Callable[[Miniature], None]:
    def damage(made: Miniature) -> None:
        made.config["quantization_config"] |= changes
        made.write()

    return damage


def _first_file(change: Callable[[Path], object]) -> Callable[[Miniature], None]:
    return lambda made: change(sorted(made.folder.glob("model-*.safetensors"))[0]) and None


def _index(change: Callable[[dict[str, Any]], object]) -> Callable[[Miniature], None]:
    def damage(made: Miniature) -> None:
        path = made.folder / "model.safetensors.index.json"
        content = json.loads(path.read_text())
        change(content["weight_map"])
        path.write_text(json.dumps(content))

    return damage


DAMAGE: dict[str, tuple[Callable[[Miniature], object], str]] = {
    "scale missing": (_drop(DOWN + "_scale_inv"), r"experts\.5\.down_proj.*scales.*missing"),
    "grid too small": (
        _put(KV_A + "_scale_inv", lambda t: t[:4].contiguous()),
        r"kv_a_proj_with_mqa\.weight_scale_inv` is \[4, 2\].*\[576, 136\].*need \[5, 2\]",
    ),
    "grid of other blocks": (_quantisation(weight_block_size=[64, 64]), r"need \[\d+, \d+\]"),
    "scales without codes": (
        _put(DOWN, lambda t: t.float().bfloat16()),
        r"5\.down_proj\.weight_scale_inv` belongs to no F8_E4M3",
    ),
    "scales of another type": (
        _put(DOWN + "_scale_inv", lambda t: t.to(torch.int32)),
        r"5\.down_proj\.weight_scale_inv` holds scales of type I32",
    ),
    "codes of another type": (
        _put(DOWN, lambda t: t.view(torch.uint8)),
        r"5\.down_proj\.weight` is of type U8",
    ),
    "expert missing": (
        lambda made: (_drop(DOWN)(made), _drop(DOWN + "_scale_inv")(made)),
        r"weights missing: model\.layers\.1\.mlp\.experts\.5\.down_proj",
    ),
    "one expert too many": (
        lambda made: (
            made.stored.update(
                {"model.layers.1.mlp.experts.8.up_proj.weight": torch.ones(24, 136)}
            ),
            made.write(),
        ),
        r"experts\.8\.up_proj\.weight`: the config asks for 8 experts",
    ),
    "weight of another shape": (
        _put("model.norm.weight", lambda t: torch.ones(100)),
        r"model\.norm\.weight` is \[100\], the config asks for \[136\]",
    ),
    "expert of another shape": (
        _put("model.layers.1.mlp.experts.3.up_proj.weight", lambda t: t[:20].contiguous()),
        r"experts\.3\.up_proj\.weight` is \[20, 136\], the config asks for \[24, 136\]",
    ),
    "part of an MTP module": (
        _drop("model.layers.2.eh_proj.weight"),
        r"weights missing: model\.layers\.2\.eh_proj",
    ),
    "file missing": (_first_file(Path.unlink), r"1 of its 3 files are missing: model-00001-of"),
    "file truncated": (
        _first_file(lambda f: f.write_bytes(f.read_bytes()[:-100])),
        r"model-00001-of.*cannot be read as safetensors",
    ),
    "file of zeros": (
        _first_file(lambda f: f.write_bytes(bytes(1000))),
        r"model-00001-of.*cannot be read as safetensors",
    ),
    "empty file": (_first_file(lambda f: f.write_bytes(b"") or True), r"cannot be read as safet"),
    "index promises more": (
        _index(lambda m: m.update({"model.layers.9.x.weight": next(iter(m.values()))})),
        r"model\.layers\.9\.x\.weight: not in model-00001-of",
    ),
    "index leaves the folder": (
        _index(lambda m: m.update({DOWN: "../secret.safetensors"})),
        r"5\.down_proj\.weight` is said to be in '\.\./secret\.safetensors'",
    ),
    "index is no index": (
        lambda made: (made.folder / "model.safetensors.index.json").write_text("[1, 2"),
        r"model\.safetensors\.index\.json.*is not an index",
    ),
    "another quantisation": (_quantisation(quant_method="gptq"), r"quant_method.*'gptq'"),
    "compressed tensors": (
        _quantisation(quant_method="compressed-tensors"),
        r"quant_method.*'compressed-tensors', expected 'fp8'",
    ),
    "another eight-bit form": (_quantisation(fmt="e5m2"), r"fmt.*'e5m2', expected 'e4m3'"),
    "blocks that are none": (_quantisation(weight_block_size=[0, 128]), r"block_size.*\[0, 128\]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_refused_by_name(damage: str, whole: Miniature, folder: Path) -> None:
    act, message = DAMAGE[damage]
    act(whole.copy_to(folder))
    with pytest.raises(UserError, match=message):
        DeepseekForCausalLM.from_pretrained(folder)


def test_other_ranks_of_fsdp_read_nothing(
    whole: Miniature, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1pipe.models.deepseek import checkpoint_loading

    for module in (checkpoint_loading, modeling_utils):
        monkeypatch.setattr(module, "is_fsdp_enabled", lambda: True)
        monkeypatch.setattr(module, "is_local_dist_rank_0", lambda: False)
    monkeypatch.setattr(checkpoint_fp8.LazyWeight, "__getitem__", None)
    mine = DeepseekForCausalLM.from_pretrained(whole.folder)
    assert not any(weight.any() for weight in mine.state_dict().values())
    assert mine.model.rotary_emb.inv_freq[0] == 1  # no weight, so that nobody hands it over
    mine.save_pretrained(folder)
    assert load_file(folder / "model.safetensors").keys() > {DOWN, KV_A}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    block=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_dequantised_is_code_times_scale(
    rows: int, columns: int, block: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    codes = torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn)
    grid = -(-rows // block[0]), -(-columns // block[1])
    scales = torch.rand(grid, generator=generator)
    expected = dequantised(codes, scales, block).to(dtype)
    assert torch.equal(dequantise(codes, scales, block, dtype), expected)
    assert torch.equal(reference.dequantise(codes, scales, block, dtype), expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    power_of_two=st.booleans(),
    size=st.sampled_from([1e-38, 1e-6, 1.0, 1e30]),
)
def test_quantiser_is_the_kernels_definition(
    rows: int, columns: int, power_of_two: bool, size: float
) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(rows, columns, generator=generator) * size
    weight[:128, :128] = 0
    codes, scales = quantise(weight, power_of_two)
    expected = reference.quantise_weight(weight, power_of_two)
    assert torch.equal(codes.view(torch.uint8), expected[0].view(torch.uint8))
    assert torch.equal(scales, expected[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_codes_come_back_as_they_were_read(dtype: str, power_of_two: bool, folder: Path) -> None:
    made = Miniature(folder, V3, power_of_two=power_of_two)
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=dtype)
    save_fp8_checkpoint(mine, folder / "fp8", power_of_two, max_shard_bytes=60_000)
    files = sorted((folder / "fp8").glob("*.safetensors"))
    assert len(files) > 3
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert written.keys() == made.stored.keys() - made.copies
    for name, tensor in written.items():
        expected = made.stored[name]
        assert tensor.dtype == expected.dtype, name
        if name.endswith("_scale_inv"):  # a rounding of the weights moves them, and no code
            rounding = 1e-6 if dtype == "float32" else 4e-3
            assert power_of_two or torch.allclose(tensor, expected, rtol=rounding)
        elif not power_of_two or expected.dtype != torch.float8_e4m3fn:
            assert torch.equal(tensor.float(), expected.float()), name
    again = DeepseekForCausalLM.from_pretrained(folder / "fp8", dtype=dtype)
    if power_of_two:  # half the scale and twice the code is the same weight
        for name, weight in mine.state_dict().items():
            assert torch.equal(again.state_dict()[name], weight), name
    save_fp8_checkpoint(again, folder / "twice", power_of_two, max_shard_bytes=60_000)
    for file in files:
        other = load_file(folder / "twice" / file.name)
        for name, tensor in load_file(file).items():
            if not name.endswith("_scale_inv"):
                assert torch.equal(other[name].float(), tensor.float()), name


def test_written_fp8_is_as_good_as_its_codes(fresh: Any, folder: Path) -> None:
    model: Any = fresh(num_nextn_predict_layers=1, tie_word_embeddings=True)
    save_fp8_checkpoint(model, folder)
    content = json.loads((folder / "config.json").read_text())
    assert content["architectures"] == ["DeepseekV3ForCausalLM"]
    assert content["model_type"] == "deepseek_v3"
    assert content["quantization_config"]["weight_block_size"] == [128, 128]
    assert not hasattr(model.config, "quantization_config")
    again = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert len(again.model.mtp_layers) == 1
    theirs = dict(model.state_dict())
    for name, weight in again.state_dict().items():
        error = (weight - theirs[name]).abs().max() / theirs[name].abs().max()
        assert error <= 2**-4, name  # three bits behind the comma
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.o_proj\.weight"):
        save_fp8_checkpoint(model, folder)


def test_stock_transformers_reads_the_plain_export(folder: Path) -> None:
    made = Miniature(folder, V3)
    mine = DeepseekForCausalLM.from_pretrained(folder, dtype=torch.float32)
    mine.save_pretrained(folder / "plain")
    theirs = DeepseekV3ForCausalLM.from_pretrained(folder / "plain").eval()
    assert torch.equal(theirs(IDS).logits, made.twin(IDS).logits)


def test_public_config_means_what_stock_reads(folder: Path) -> None:
    for content in (V3, MOONLIGHT):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(content))
        mine = DeepseekConfig.from_pretrained(folder)
        theirs = made_by_stock(folder)
        for name, value in theirs.to_dict().items():
            if name not in ("auto_map", "transformers_version", "architectures"):
                assert str(getattr(mine, name)).removeprefix("torch.") == str(value), name


def made_by_stock(folder: Path) -> Any:
    from transformers import DeepseekV3Config

    return DeepseekV3Config.from_pretrained(folder)
