"""The reference model of GRPO: of the policy's class, and with its routers' biases."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.callbacks import SyncRefModelCallback

from r1pipe.models.loading import load_causal_lm
from r1pipe.schema import GrpoStage


class SyncReference(SyncRefModelCallback):
    """TRL's callback copies parameters; the biases that routers choose by are buffers."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        if self.ref_model is not None and state.global_step % args.ref_model_sync_steps == 0:
            model = kwargs["model"]
            if self.accelerator:
                model = self.accelerator.unwrap_model(model)
            mix_buffers(model, self.ref_model, args.ref_model_mixup_alpha)


@torch.no_grad()
def mix_buffers(model: torch.nn.Module, reference: torch.nn.Module, alpha: float) -> None:
    """Move the reference's floating-point buffers towards the policy's by the share `alpha`."""
    for target, source in zip(reference.buffers(), model.buffers(), strict=True):
        if target.is_floating_point():
            target.lerp_(source.to(target), alpha)


def follow_the_policy(trainer_module: Any, stage: GrpoStage) -> None:
    """Let a TRL trainer load its reference as the policy was loaded, and keep it in step whole.

    TRL takes the class that transformers has under the name in config.json: of DeepSeek-V3's kind
    the stock one, which has no MTP modules and cannot replay routes.
    """
    trainer_module.create_model_from_path = lambda path, **options: load_causal_lm(path, stage.load)
    trainer_module.SyncRefModelCallback = SyncReference
