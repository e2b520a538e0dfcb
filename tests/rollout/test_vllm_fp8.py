"""FP8 rollouts are refused by name where they cannot be, and never lose biases in silence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from r1pipe.errors import StageFailed, UserError
from r1pipe.rollout import vllm_fp8
from r1pipe.rollout.engine import make_engine
from r1pipe.rollout.vllm_fp8 import SentBiases, has_biases, model_problem, require_fp8
from r1pipe.stages.colocated import require_correction
from tests.vllm import families

QWEN2_05B: dict[str, Any] = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"head_dim": 128}, None),
        ({"kv_lora_rank": 512}, "MLA"),
        ({"intermediate_size": 4872}, "16 does not divide intermediate_size 4872"),
        ({"num_attention_heads": 3, "head_dim": 24}, "num_attention_heads x head_dim 72"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised already"),
    ],
)
def test_a_model_that_does_not_fit_is_named(changes: Any, said: str | None) -> None:
    found = model_problem(SimpleNamespace(**{**QWEN2_05B, **changes}))
    assert found is None if said is None else said in (found or "")


def test_a_machine_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(**QWEN2_05B)
    monkeypatch.setattr(vllm_fp8, "on_gpu", lambda: False)
    with pytest.raises(UserError, match=r"rollout\.precision[\s\S]*no GPU"):
        require_fp8(config)
    monkeypatch.setattr(vllm_fp8, "on_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(UserError, match=r"A100 has no FP8 units \(compute capability 8\.0, 8\.9"):
        require_fp8(config)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    require_fp8(config)


def test_other_engines_say_that_they_do_not_decode_in_fp8() -> None:
    settings = families.rollout(engine="compact", precision="fp8")
    with pytest.raises(UserError, match=r"rollout\.precision[\s\S]*`compact` does not"):
        make_engine(settings, "nowhere", families.load())


def test_training_on_fp8_samples_needs_the_correction() -> None:
    trainer = SimpleNamespace(vllm_importance_sampling_correction=True)
    require_correction(trainer, families.rollout(precision="fp8"))
    require_correction(SimpleNamespace(), families.rollout(precision="fp8", logprobs="none"))
    with pytest.raises(UserError, match=r"rollout\.logprobs"):
        require_correction(trainer, families.rollout(precision="fp8", logprobs="none"))
    trainer.vllm_importance_sampling_correction = False
    with pytest.raises(UserError, match=r"trainer\.vllm_importance_sampling_correction"):
        require_correction(trainer, families.rollout(precision="fp8"))


def test_biases_that_were_sent_have_to_arrive() -> None:
    layer: Any = nn.Linear(2, 2)
    layer.quant_method = object()
    engine = nn.Sequential(layer)
    sent = SentBiases()
    list(sent.watch([("layers.0.self_attn.q_proj.bias", torch.zeros(2))]))
    with torch.no_grad():
        layer.bias.zero_()
    assert has_biases(engine) is False and has_biases(nn.Sequential(nn.Linear(2, 2))) is None
    sent.require(has_biases(engine))  # zeros were sent
    list(sent.watch([("layers.0.self_attn.q_proj.bias", torch.ones(2))]))
    with pytest.raises(StageFailed, match="loses the biases"):
        sent.require(has_biases(engine))
    with torch.no_grad():
        layer.bias[0] = 1
    sent.require(has_biases(engine))
