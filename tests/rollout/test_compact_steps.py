"""The joined decoding steps against the modules they stand in for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model, inject_adapter_in_model
from transformers import DynamicCache

from r1pipe.rollout.compact import generate, supports
from r1pipe.rollout.engine import generate_with_transformers
from r1pipe.rollout.states import GrowingStates
from r1pipe.rollout.steps import make_step
from tests.rollout.tiny_models import MODELS, build, prompts, settings

OF_DEEPSEEK = [name for name in MODELS if name.startswith("deepseek")]


def stepwise(model: Any, tokens: torch.Tensor, read: int, **options: Any) -> torch.Tensor:
    """Return the step's logits (rows, tokens, vocabulary) of all tokens but the first `read`."""
    step = make_step(model, tokens.shape[1], **options)
    assert step is not None
    cache: Any = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(tokens[:, :read], past_key_values=cache, use_cache=True)
        states = [
            GrowingStates(*(s.to(step.embedding.dtype) for s in step.adopt(c.keys, c.values)))
            for c in cache.layers
        ]
        return torch.stack(
            [
                step(tokens[:, place], torch.full((len(tokens),), place), states, None)
                for place in range(read, tokens.shape[1])
            ],
            dim=1,
        )


def whole(model: Any, tokens: torch.Tensor, read: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits[:, read:]


@pytest.mark.parametrize("name", MODELS)
def test_a_step_gives_the_logits_of_the_full_forward_pass(name):
    model, tokens = build(name).eval(), torch.tensor(prompts(6, (9, 9)))
    found, expected = stepwise(model, tokens, 5), whole(model, tokens, 5)
    torch.testing.assert_close(
        found.log_softmax(-1), expected.log_softmax(-1), rtol=1e-5, atol=3e-5
    )


@pytest.mark.parametrize("name", OF_DEEPSEEK)
def test_both_ways_through_the_experts_agree(name):
    model, tokens = build(name).eval(), torch.tensor(prompts(6, (9, 9)))
    dense = stepwise(model, tokens, 5, experts="dense")
    torch.testing.assert_close(
        dense, stepwise(model, tokens, 5, experts="grouped"), rtol=1e-5, atol=3e-5
    )


@pytest.mark.parametrize("name", ["qwen3", "llama", "deepseek", "deepseek_direct_queries"])
def test_a_bfloat16_model_s_step_is_as_exact_as_its_modules(name):
    exact, tokens = build(name).eval(), torch.tensor(prompts(32, (9, 9)))
    expected = whole(exact, tokens, 5).log_softmax(-1)
    rounded = exact.bfloat16()
    modules = whole(rounded, tokens, 5).float().log_softmax(-1)
    step = stepwise(rounded, tokens, 5).float().log_softmax(-1)
    # Routers flip in bfloat16, now and then: means, not maxima.
    assert (step - expected).abs().mean() <= 1.3 * (modules - expected).abs().mean()


@pytest.mark.parametrize("name", ["qwen3", "deepseek"])
def test_a_float32_model_can_be_run_in_bfloat16(name):
    model, tokens = build(name).eval(), torch.tensor(prompts(6, (9, 9)))
    rounded = stepwise(model, tokens, 5, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    gap = rounded.float().log_softmax(-1) - whole(model, tokens, 5).log_softmax(-1)
    assert 1e-4 < gap.abs().mean() < 0.3


@pytest.mark.parametrize("name", ["llama_with_biases", "deepseek", "deepseek_direct_queries"])
def test_adapters_are_added_to_the_weights(name):
    model = build(name)
    targets = ["q_proj", "v_proj", "down_proj", "kv_b_proj", "kv_a_proj_with_mqa"]
    routers = ["gate.weight"] if name in OF_DEEPSEEK else None
    config = LoraConfig(  # the experts' `down_proj` is a parameter, which PEFT finds by itself
        target_modules=targets, target_parameters=routers, init_lora_weights=False
    )
    adapted, asked = get_peft_model(model, config).eval(), prompts(20)
    tokens = torch.tensor(prompts(6, (9, 9)))
    torch.testing.assert_close(
        stepwise(adapted, tokens, 5), whole(adapted, tokens, 5), rtol=1e-4, atol=1e-4
    )
    expected = generate_with_transformers(adapted, asked, **settings())
    assert generate(adapted, asked, **settings()) == expected
    with adapted.disable_adapter():
        assert make_step(adapted, 8) is not None
        assert generate(adapted, asked, **settings()) != expected
    adapted.merge_adapter()
    assert generate(adapted, asked, **settings()) == expected


@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_exact_adapters_over_rounded_weights_have_a_step(name):
    config = LoraConfig(target_modules=["o_proj"], init_lora_weights=False)
    adapted = get_peft_model(build(name).bfloat16(), config).eval()
    assert {p.dtype for p in adapted.parameters()} == {torch.bfloat16, torch.float32}
    tokens = torch.tensor(prompts(6, (9, 9)))
    gap = stepwise(adapted, tokens, 5).float() - whole(adapted, tokens, 5).float()
    assert gap.abs().mean() < 0.3


@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_what_changes_a_module_is_left_to_the_modules(name):
    assert make_step(build(name), 8) is not None
    assert make_step(build(name).to(torch.float64), 8) is None
    hooked = build(name)
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert make_step(hooked, 8) is None
    watched = build(name)
    watched.register_forward_hook(lambda *_: None)
    assert make_step(watched, 8) is None
    replaced = build(name)
    replaced.model.layers[0].mlp.forward = lambda hidden: hidden
    assert make_step(replaced, 8) is None
    grown = build(name)
    grown.model.layers[1].mlp.down_proj = torch.nn.Identity()
    assert make_step(grown, 8) is None
    mixed = build(name)
    mixed.lm_head.bfloat16()
    assert make_step(mixed, 8) is None


def test_experts_computed_in_another_way_are_left_to_the_modules():
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register("test_other", lambda module, hidden, index, weights: hidden)
    model = build("deepseek")
    for name in ("eager", "grouped_mm"):
        model.set_experts_implementation(name)
        assert make_step(model, 8) is not None
    model.set_experts_implementation("test_other")
    assert make_step(model, 8) is None


@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_other_adapters_are_left_to_the_modules(name):
    dora = build(name)
    inject_adapter_in_model(LoraConfig(target_modules=["o_proj"], use_dora=True), dora)
    assert make_step(dora, 8) is None
    saved = LoraConfig(target_modules=["o_proj"], modules_to_save=["lm_head"])
    assert make_step(get_peft_model(build(name), saved), 8) is None
    virtual = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    tuned = get_peft_model(build("llama"), virtual)
    assert make_step(tuned, 8) is None
    assert not supports(tuned)


def test_angles_that_depend_on_the_length_are_left_to_the_modules():
    model = build("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert make_step(model, 8) is None


def test_large_models_on_a_cpu_keep_their_modules(monkeypatch):
    from r1pipe.rollout import steps

    monkeypatch.setitem(steps.MOST_PARAMETERS, "cpu", 1000)
    assert make_step(build("llama"), 8) is None
