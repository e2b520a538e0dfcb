"""The chain in miniature with DeepSeek-V3's architecture: one override, every kind of stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.chain.running import logged, run

ASKED = ("model=tiny_mla_moe", "only=[base,zero,picked,tuned,student,student_eval]")
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.mark.slow
def test_every_stage_runs_with_experts(tmp_path: Path) -> None:
    done = run(tmp_path, *ASKED, "jobs=2")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "micro"
    models = [path.parent for path in folder.glob("*/model")]
    assert {path.name for path in models} == {"base", "zero", "tuned", "student"}
    weights = {path.name: load_file(path / "model" / "model.safetensors") for path in models}
    for path in models:
        config = json.loads((path / "model" / "config.json").read_text())
        assert config["architectures"] == ["DeepseekV3ForCausalLM"]
        assert config["mtp_loss_weight"] == 0.3, "a stage's coefficients are not the model's"
        assert "model.layers.2.eh_proj.weight" in weights[path.name], "the MTP module"
        assert all("experts/max_violation" in row for row in logged(path / "metrics.jsonl"))
    speed = 0.001
    assert float(weights["base"][BIAS].abs().max()) > speed
    assert (weights["zero"][BIAS] == weights["base"][BIAS]).all(), "RL leaves the biases"
    assert (weights["tuned"][BIAS] != weights["base"][BIAS]).any()
    assert (folder / "student_eval" / "evaluation.json").is_file()

    again = run(tmp_path, *ASKED, "dry_run=true")
    assert again.returncode == 0 and "run (" not in again.stdout, again.stdout
