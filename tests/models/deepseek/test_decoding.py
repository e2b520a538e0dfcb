"""The cache holds latents only, and decoding on them says what decoding on expanded keys says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.cache_utils import DynamicCache


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_cache_is_exactly_the_latents(dtype: torch.dtype, width: int, fresh: Any) -> None:
    model = fresh().to(dtype).eval()
    ids = torch.randint(1, 61, (2, 5))
    cache = model(ids, use_cache=True).past_key_values
    cache = model(ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
    tensors = [tensor for keys, values, _ in cache for tensor in (keys, values)]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    config = model.config
    per_token_layer = (config.kv_lora_rank + config.qk_rope_head_dim) * width
    assert held == 2 * 6 * config.num_hidden_layers * per_token_layer


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("query", [None, 12])
def test_absorbed_equals_expanded(
    attention: str, padded: bool, query: int | None, fresh: Any, yarn: Any
) -> None:
    model = fresh(rope_parameters=yarn, q_lora_rank=query).eval()
    model.set_attn_implementation(attention)
    ids = torch.randint(1, 61, (2, 20))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :7] = 0
    answers = []
    for absorbed in (False, True):
        model.config.absorbed_decoding = absorbed
        cache = DynamicCache(config=model.config)
        logits = []
        for start, end in [(0, 9), *((i, i + 1) for i in range(9, 17)), (17, 20)]:
            positions = (mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, start:end]
            out = model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=positions,
                past_key_values=cache,
            )
            logits.append(out.logits)
        answers.append(torch.cat(logits, dim=1)[mask.bool()])
    expanded, absorbed_logits = answers
    difference = (expanded - absorbed_logits).abs().max()
    assert 0 < difference <= 1e-5 * expanded.abs().max()


def test_prefill_and_training_expand(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe.models.deepseek.attention import LatentAttention

    calls = []
    absorbed = LatentAttention._absorbed
    monkeypatch.setattr(
        LatentAttention, "_absorbed", lambda *a: calls.append(a[1].shape[1]) or absorbed(*a)
    )
    model = fresh()
    ids = torch.randint(1, 61, (1, 12))
    model.train()(ids, labels=ids)
    model.eval()(ids)
    cache = model(ids, use_cache=True).past_key_values
    assert calls == []
    model(ids[:, :1], past_key_values=cache)
    assert calls == [1] * model.config.num_hidden_layers


def test_adapters_on_the_up_projection_count(fresh: Any) -> None:
    model = fresh(kv_lora_rank=8).eval()
    peft = get_peft_model(
        model, LoraConfig(target_modules=["kv_b_proj"], init_lora_weights=False, r=2)
    ).eval()
    ids = torch.randint(1, 61, (1, 16))
    whole = peft(input_ids=ids).logits
    cache = peft(input_ids=ids[:, :14]).past_key_values
    steps = [peft(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in (14, 15)]
    assert torch.allclose(torch.cat(steps, dim=1), whole[:, 14:], atol=1e-5)
