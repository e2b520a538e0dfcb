"""`describe=true` prints what a model amounts to, and trains nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1pipe.__main__ import main
from r1pipe.recipes import conf_dir

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
LOADED = {"hf", "deepseek_v3_base", "qwen2_5_1_5b"}


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """Return the table: name of a figure -> its cells."""
    assert main([*arguments, "describe=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line[:36].strip(): line[36:].split("  ") for line in lines}
    return {name: [cell.strip() for cell in row if cell.strip()] for name, row in cells.items()}


def test_deepseek_v3_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    table = asked(capsys, "model=deepseek_v3")
    assert table["parameters"] == ["671 B"]
    assert table["active per token"] == ["37.55 B"]
    assert table["key-value cache per token, bfloat16"] == ["70,272 B"]  # 61 x (512 + 64) x 2
    assert table["as multi-head attention"] == ["4,997,120 B (71.1x)"]
    assert table["as grouped-query, 8 heads"] == ["312,320 B (4.4x)"]
    assert table["as multi-query"] == ["39,040 B (0.6x)"]


@pytest.mark.parametrize(
    ("model", "most"), [("tiny_mla_moe", 0.4e6), ("mla_moe_30m", 30e6), ("mla_moe_300m", 330e6)]
)
def test_small_models_are_as_small_as_their_name(
    model: str, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    table = asked(capsys, f"model={model}")
    scale = {"K": 1e3, "M": 1e6}
    total = 0.0
    for name in ("parameters", "MTP modules, apart from these"):
        number, unit = table[name][0].split()
        total += float(number) * scale[unit]
    assert most / 2 < total <= most
    assert len(table["parameters"]) == 2, "the student's size stands beside it"


def test_every_built_model_is_described_with_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for model in sorted(set(MODELS) - LOADED):
        table = asked(capsys, "recipes/tiny_r1.yaml", f"model={model}")
        assert "FLOPs per token, training" in table


def test_a_changed_field_changes_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    table = asked(capsys, "model=deepseek_v3", "model.config.kv_lora_rank=128")
    assert table["key-value cache per token, bfloat16"] == ["23,424 B"]


def hub_folder(path: Path, **fields: Any) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(fields))
    return str(path)


QWEN = {
    "model_type": "qwen2",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}


def test_a_dense_model_in_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = asked(capsys, "model=hf", f"model.path={hub_folder(tmp_path / 'q', **QWEN)}")
    layer = 64 * (64 + 32 + 32) + (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    total = 1000 * 64 + 3 * layer + 64
    assert table["parameters"] == table["active per token"] == [f"{total / 1e3:.4g} K"]
    assert table["key-value cache per token, bfloat16"] == [f"{3 * 2 * 2 * 16 * 2} B"]
    assert table["as multi-head attention"] == [f"{3 * 2 * 4 * 16 * 2} B (2.0x)"]
    forward = 2 * total + 3 * 4 * 64 * 128
    assert table["FLOPs per token, forward"] == [f"{forward / 1e3:.4g} k"]
    assert table["MTP modules, apart from these"] == ["-"]


def test_routed_experts_are_active_in_part(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fields = {**QWEN, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2}
    fields |= {"moe_intermediate_size": 32, "head_dim": 16, "decoder_sparse_step": 1}
    table = asked(capsys, "model=hf", f"model.path={hub_folder(tmp_path / 'q', **fields)}")
    idle = 3 * 6 * 3 * 64 * 32
    total, active = (float(table[n][0].split()[0]) for n in ("parameters", "active per token"))
    assert total - active == pytest.approx(idle / 1e3, abs=0.3)


def test_a_public_deepseek_folder_with_code_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fields = {"model_type": "deepseek_v3", "auto_map": {"AutoConfig": "own.Config"}}
    folder = hub_folder(tmp_path / "v3", **fields)
    (tmp_path / "v3" / "own.py").write_text("raise SystemExit('this code ran')\n")
    arguments = ["model=hf", f"model.path={folder}", "model.load.trust_remote_code=true"]
    assert asked(capsys, *arguments)["parameters"] == ["671 B"]


def test_a_hub_id_without_network_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["model=hf", "model.path=nobody/nothing", "describe=true"]) == 2
    assert "check the hub id and the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.config.n_gruop=2", ["`model.config.n_gruop`", "did you mean `n_group`?"]),
        ("model.config.n_group=3", ["`model.config.n_group`", "a divisor of n_routed_experts = 8"]),
        ("model.config.hidden_size=wide", ["`model.config.hidden_size`", "expected int"]),
        ("model.config.q_lora_rank=1.5", ["`model.config.q_lora_rank`", "int"]),
        ("model.config.hidden_size=null", ["`model.config.hidden_size`", "null"]),
        ("model.sizes.nano.n_group=3", ["`model.sizes.nano.n_group`"]),
        ("model.config.rope_parameters.rope_type=yarm", ["did you mean `yarn`?"]),
        ("model.config.hidden_act=sulu", ["`model.config.hidden_act`", "sulu"]),
        ("model.config.vocab_size=10", ["`model.config.vocab_size`", "the tokenizer has"]),
        ("model.architecture=deepseek", ["did you mean `deepseek_v3`?"]),
        ("model.size=nanno", ["`model.size`", "did you mean `nano`?"]),
        ("model.learning_rate=0", ["`model.learning_rate`"]),
        ("model.sizes.nano=null", ["`model.sizes.nano`", "mapping"]),
        ("model=hf", ["`model.path`", "a value is required"]),
        ("describe=maybe", ["`describe`"]),
    ],
)
def test_mistakes_are_named(
    override: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage=eval", "model=tiny_mla_moe", "describe=true", override]) == 2
    text = capsys.readouterr().err
    assert not [word for word in words if word not in text], text
    assert "1 problem\n" in text and "Traceback" not in text


def test_fields_are_checked_in_a_dry_run_without_torch() -> None:
    """The driver answers at once, so the configuration class is read and not imported."""
    code = (
        "import sys; from r1pipe.__main__ import main\n"
        "code = main(['recipes/tiny_r1.yaml', 'model=tiny_mla_moe', 'model.config.n_group=3',"
        " 'dry_run=true'])\n"
        "sys.exit(10 * code + ('torch' in sys.modules) + ('transformers' in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 20


def test_a_model_without_fields_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=pretrain", "model.config.hidden_size=3", "dry_run=true"]) == 2
    assert "has no fields" in capsys.readouterr().err
