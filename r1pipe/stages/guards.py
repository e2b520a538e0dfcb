"""Stops training before the optimizer step when a number is not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Trainer

from r1pipe.errors import Problem, StageFailed, UserError

KEPT = "nothing was updated; the last checkpoint is kept"


class FiniteSteps(Trainer):
    """Mix in before a TRL trainer: a non-finite loss or gradient raises StageFailed."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(loss.item()):
            step = self.state.global_step + 1
            raise StageFailed(f"step {step}: the loss is {loss.item()}; {KEPT}")
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm: Any = super()._get_grad_norm(model, grad_norm)
        # Under fp16 an overflow is routine: the loss scaler skips the step and lowers its scale.
        if not self.args.fp16 and not math.isfinite(float(norm)):
            step = self.state.global_step + 1
            raise StageFailed(f"step {step}: the gradient's norm is {float(norm)}; {KEPT}")
        return norm


def require_one_batch(stage: str, rows: int, args: Any) -> None:
    """Raise UserError when `rows` fill less than one batch: TRL would end after 0 steps.

    One batch is what one optimizer step sees over all ranks; for GRPO, the distinct prompts of one
    generation.
    """
    groups = getattr(args, "num_generations", None)
    if groups is not None and getattr(args, "generation_batch_size", None):
        needed = args.generation_batch_size // groups
        made_of = f"{args.generation_batch_size} completions / {groups} for each prompt"
    else:
        per_rank = args.per_device_train_batch_size * args.gradient_accumulation_steps
        needed = per_rank * args.world_size
        made_of = (
            f"per_device_train_batch_size {args.per_device_train_batch_size} x "
            f"gradient_accumulation_steps {args.gradient_accumulation_steps} x "
            f"{args.world_size} process(es)"
        )
    if rows < needed:
        raise UserError(
            Problem(
                f"stages.{stage}.data",
                f"{rows} rows, but one batch takes {needed} ({made_of})",
                "add rows, or make the batch smaller",
            )
        )
