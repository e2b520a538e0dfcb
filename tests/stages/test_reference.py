"""GRPO's reference is the policy's own class, and follows its routers' biases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from r1pipe.stages.reference import SyncReference, follow_the_policy, mix_buffers
from r1pipe.stages.training_state import load_reference, save_reference
from tests.stages import tiny
from tests.stages.test_router_replay import SHAPE


def models() -> tuple[DeepseekForCausalLM, DeepseekForCausalLM]:
    """A reference, and a policy whose weights and biases have moved away from it."""
    torch.manual_seed(0)
    reference = DeepseekForCausalLM(DeepseekConfig(**{**SHAPE, "num_nextn_predict_layers": 1}))
    policy = DeepseekForCausalLM(reference.config)
    for router in policy.model.routers:
        router.e_score_correction_bias += torch.randn(8)
    return reference, policy


def biases(model: DeepseekForCausalLM) -> torch.Tensor:
    return torch.stack([router.e_score_correction_bias for router in model.model.routers])


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_biases_are_mixed_as_weights_are(alpha: float) -> None:
    reference, policy = models()
    before = biases(reference).clone()
    mix_buffers(policy, reference, alpha)
    expected = before + alpha * (biases(policy) - before)
    assert torch.allclose(biases(reference), expected, atol=1e-6)


def test_a_synced_reference_is_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, policy = models()
    # TRL's own asks accelerate's state, of which there is none here, whether ZeRO-3 is at work.
    plain = staticmethod(SyncReference._sync_target_model)
    monkeypatch.setattr(SyncReference, "sync_target_model", plain)
    args = SimpleNamespace(ref_model_sync_steps=2, ref_model_mixup_alpha=1.0)
    callback = SyncReference(ref_model=reference, accelerator=None)
    ids = torch.arange(3, 13)[None]
    for step, same in ((1, False), (2, True)):
        callback.on_step_end(args, SimpleNamespace(global_step=step), None, model=policy)  # type: ignore[arg-type]
        found = torch.equal(reference.eval()(ids).logits, policy.eval()(ids).logits)
        assert found is same


def test_the_reference_is_loaded_as_the_policy_is(tmp_path: Path) -> None:
    reference, _ = models()
    reference.save_pretrained(tmp_path)
    module: Any = SimpleNamespace()
    follow_the_policy(module, tiny.grpo_stage(str(tmp_path)))
    loaded = module.create_model_from_path(str(tmp_path), dtype=torch.float32, device_map=None)
    assert type(loaded) is DeepseekForCausalLM and len(loaded.model.mtp_layers) == 1
    assert module.SyncRefModelCallback is SyncReference


def test_a_checkpoint_holds_the_references_biases(tmp_path: Path) -> None:
    moved, fresh = reversed(models())
    args = SimpleNamespace(sync_ref_model=True, should_save=True)
    save_reference(SimpleNamespace(ref_model=moved, args=args), tmp_path)
    load_reference(SimpleNamespace(ref_model=fresh, args=args), tmp_path)
    assert torch.equal(biases(fresh), biases(moved))
