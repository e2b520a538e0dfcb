"""DeepSeek's training beside the loss, for every trainer: bias updates, balance and MTP losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM, ExpertBalancing
from r1pipe.models.deepseek.experts import routers_of
from r1pipe.schema import Auxiliary

COEFFICIENTS = ("bias_update_speed", "balance_factor", "mtp_loss_weight")


@contextmanager
def auxiliary_training(trainer: Any, settings: Auxiliary) -> Iterator[None]:
    """Let `trainer` train balancing and MTP as `settings` say, for models that have them.

    The stage's coefficients stand in the model's config while the block runs; afterwards it is what
    it was, since they belong to the stage and the config is saved with the model.
    """
    model = language_model(trainer)
    if not isinstance(model, DeepseekForCausalLM):
        yield
        return
    config = model.config
    before = {name: getattr(config, name) for name in COEFFICIENTS}
    for name in COEFFICIENTS:
        if (value := getattr(settings, name)) is not None:
            setattr(config, name, value)
    if routers_of(model):
        balancing = ExpertBalancing(freeze_from_step=settings.bias_frozen_from)
        # First of all callbacks: those that write logs find its metrics in them.
        trainer.callback_handler.callbacks.insert(0, balancing)
    if config.mtp_loss_weight == 0:
        # Nothing reaches them; DDP would wait for their gradients under gradient checkpointing.
        for layer in model.model.mtp_layers:
            layer.requires_grad_(False)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
        # What TRL's trainers write there for the model of this process.
        config.output_router_logits = False
        config.router_aux_loss_coef = DeepseekConfig.router_aux_loss_coef


def language_model(trainer: Any) -> Any:
    """Return the model inside a trainer's wrappers and adapters."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
