"""Adds the balance loss and the MTP losses to what a training forward pass returns.

Shapes: B batch, T tokens, D hidden features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from r1pipe.errors import Problem, UserError
from r1pipe.models.deepseek.balancing import balance_loss, expert_load
from r1pipe.models.deepseek.experts import Choice
from r1pipe.models.deepseek.mtp import IGNORED, mtp_loss

if TYPE_CHECKING:
    from r1pipe.models.deepseek.modeling import DeepseekForCausalLM


@dataclass
class Trace:
    """What the auxiliary losses need from one training forward pass of the main layers."""

    hidden_BTD: Tensor
    """After the final norm."""
    embeds_BTD: Tensor
    attention_mask: Any
    """As the layers' mask is made from: padding (B, T), or ready-made with four dimensions."""
    position_ids: Tensor
    segments_BT: Tensor
    """Sequence each token belongs to, counted over the batch; -1 for padding."""
    choices: list[tuple[Choice, Tensor]]
    """Every router's decisions with the segments of the tokens it decided for."""
    sequences: int | None = None
    """More than any number in `segments_BT`, where that is known without looking."""


def ask_for_no_router_logits(
    model: DeepseekForCausalLM, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Turn TRL's request for router logits into one for `aux_loss`.

    With the logits TRL would compute Mixtral's loss, on softmax scores, which this model has not.
    """
    if kwargs.get("output_router_logits") or model.config.output_router_logits:
        return args, {**kwargs, "output_router_logits": False}
    return None


def add_auxiliary_losses(
    model: DeepseekForCausalLM, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Put alpha·balance + lambda·MTP into `aux_loss`, and into `loss` where the model made one.

    TRL's fused head leaves adding to the trainer. Under gradient accumulation transformers divides
    the summed loss by `num_items_in_batch`; the auxiliary losses are means, so that they count by
    this micro-batch's share of the labels.
    """
    asked = "output_router_logits" in kwargs
    labels = _labels(args, kwargs)
    if labels is None and not asked:
        return output  # whoever computes a loss elsewhere takes it with `auxiliary_loss`
    total = auxiliary_loss(model, labels)
    if total is None:
        if asked and not isinstance(output, tuple):  # in evaluation: nothing to add
            output["aux_loss"] = model.lm_head.weight.new_zeros(())
        return output
    if isinstance(output, tuple):
        return (output[0] + total, *output[1:])
    output["aux_loss"] = total
    if not kwargs.get("fused_lm_head") and output.loss is not None:
        output["loss"] = output.loss + total * _share(labels, kwargs.get("num_items_in_batch"))
    return output


def auxiliary_loss(model: DeepseekForCausalLM, labels: Tensor | None) -> Tensor | None:
    """Return alpha·balance + lambda·MTP of the last training forward pass, and count its load.

    None when there was none since the last call. `labels` (B, T) are not shifted; without them
    there is no MTP loss. Raises UserError under re-entrant gradient checkpointing.
    """
    trace, model.model.trace = model.model.trace, None
    if trace is None:
        return None
    _require_gradient(model, trace)
    total, parts = _losses(model, trace, labels)
    model.auxiliary_losses = {name: value.detach() for name, value in parts.items()}
    _count(trace)
    return total


class AuxiliaryDistillation:
    """Mixin before TRL's `DistillationTrainer`, which calls the backbone and no language model."""

    model: Any
    current_gradient_accumulation_steps: int

    def _compute_loss(self, student: Any, inputs: dict[str, Tensor], items: Any) -> Any:
        loss, *metrics = cast(Any, super())._compute_loss(student, inputs, items)
        inner = student.get_base_model() if hasattr(student, "get_base_model") else student
        if self.model.training and hasattr(inner, "auxiliary_losses"):
            mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
            completion = inputs["completion_ids"].masked_fill(mask == 0, IGNORED)
            labels = F.pad(completion, (inputs["prompt_ids"].shape[1], 0), value=IGNORED)
            total = auxiliary_loss(inner, labels)
            if total is not None:
                loss = loss + total / self.current_gradient_accumulation_steps
        return (loss, *metrics)


def _losses(
    model: DeepseekForCausalLM, trace: Trace, labels: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    config = model.config
    parts: dict[str, Tensor] = {}
    total = trace.hidden_BTD.new_zeros((), dtype=trace.hidden_BTD.dtype).float()
    if labels is not None and config.mtp_loss_weight > 0 and model.model.mtp_layers:
        parts["mtp_loss"] = mtp_loss(model, trace, labels)
        total = total + config.mtp_loss_weight * parts["mtp_loss"]
    if config.balance_factor > 0 and trace.choices:
        losses = [
            balance_loss(
                torch.stack([choice.logits_TE for choice in choices]),
                *(segments_T, config.num_experts_per_tok, trace.sequences),
            )
            for choices, segments_T in _of_the_same_tokens(trace)
        ]
        parts["balance_loss"] = config.balance_factor * sum(losses[1:], losses[0])
        total = total + parts["balance_loss"]
    return total, parts


def _count(trace: Trace) -> None:
    """Count the experts that were used, replayed ones too.

    Balancing is about the work that experts had and learned from. What a router would have chosen
    on replayed inputs is neither: nobody computed it, and no rollout was written with it.
    """
    for choices, segments_T in _of_the_same_tokens(trace):
        experts_LTK = torch.stack([choice.experts_TK for choice in choices])
        load_LE = expert_load(experts_LTK, segments_T, choices[0].logits_TE.shape[-1])
        for choice, load_E in zip(choices, load_LE, strict=True):
            choice.router.count(load_E)


def _of_the_same_tokens(trace: Trace) -> list[tuple[list[Choice], Tensor]]:
    """Return the choices layer by layer, those together that decided for the same segments (T).

    A small model's step is bound by the number of kernels: one does for all layers what one a
    layer would.
    """
    groups: dict[int, tuple[list[Choice], Tensor]] = {}
    for choice, apart in trace.choices:
        groups.setdefault(id(apart), ([], apart.flatten()))[0].append(choice)
    return list(groups.values())


def _labels(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the labels (B, T), one per input token, however the trainer gave them."""
    if (labels := kwargs.get("labels")) is not None:
        return labels
    if (shifted := kwargs.get("shift_labels")) is not None:
        return F.pad(shifted[:, :-1], (1, 0), value=IGNORED)
    return args[5] if len(args) > 5 else None


def _share(labels: Tensor | None, items: Any) -> Any:
    if labels is None or items is None:
        return 1.0
    return (labels[:, 1:] != IGNORED).sum() / items


def _require_gradient(model: DeepseekForCausalLM, trace: Trace) -> None:
    """Refuse re-entrant checkpointing: layers inside it pass gradients to their input alone."""
    config = model.config
    trains_mtp = config.mtp_loss_weight > 0 and bool(model.model.mtp_layers)
    trained = config.balance_factor > 0 or trains_mtp
    if not (model.model.gradient_checkpointing and trace.choices and trained):
        return
    choice = trace.choices[0][0]
    if choice.router.weight.requires_grad and not choice.logits_TE.requires_grad:
        what = "re-entrant gradient checkpointing cuts the balance and MTP losses off the layers"
        hint = "set `gradient_checkpointing_kwargs: {use_reentrant: false}`"
        raise UserError(Problem("gradient_checkpointing", what, hint))
