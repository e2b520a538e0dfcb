"""Builds the model a stage of kind `pretrain` starts from, with its tokenizer."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from r1pipe.errors import Problem, UserError
from r1pipe.models.consistency import FROM_TOKENIZER
from r1pipe.registry import ARCHITECTURES
from r1pipe.schema import Load, Model, PretrainStage

if TYPE_CHECKING:
    from r1pipe.models.deepseek import DeepseekConfig


def build_model(stage: PretrainStage, name: str) -> tuple[Any, Any]:
    """Return a freshly initialised model and its tokenizer; `name` is the stage's, for errors.

    Raises UserError for a size or fields that the architecture does not have.
    """
    key = f"stages.{name}"
    fields = chosen_fields(stage.config, stage.sizes, stage.size, key)
    model, tokenizer = _call(stage.architecture, key, stage.size, stage.seed, fields, stage.load)
    if stage.load.precision is not None:
        from r1pipe.models.precision import apply_precision

        model = apply_precision(model, stage.load)
    if stage.load.fused is not False:
        from r1pipe.models.fused import apply_fused

        model = apply_fused(model, stage.load)
    return model, tokenizer


def _call(
    architecture: str, key: str, size: str | None, seed: int, fields: dict[str, Any], load: Load
) -> tuple[Any, Any]:
    """Call a registered builder with what it takes: size and seed, and config and load if named."""
    builder = ARCHITECTURES.get(architecture)
    options: dict[str, Any] = {"size": size, "seed": seed}
    takes = inspect.signature(builder).parameters
    if "load" in takes:
        options["load"] = load
    if "config" in takes:
        options["config"] = fields
    elif fields:
        what = f"the architecture `{architecture}` has no fields, only sizes of its own"
        raise UserError(Problem(f"{key}.config", what))
    try:
        return builder(**options)
    except ValueError as error:
        raise UserError(Problem(f"{key}.size", str(error))) from error
    except UserError as error:
        raise UserError(_under(key, error.problems)) from error


def _under(key: str, problems: list[Problem]) -> list[Problem]:
    """Return problems with fields of a config as problems with the recipe's keys."""
    return [
        Problem(f"{key}.{p.where}", p.what, p.hint) if p.where.split(".")[0] == "config" else p
        for p in problems
    ]


def chosen_fields(
    config: dict[str, Any], sizes: dict[str, dict[str, Any]], size: str | None, key: str
) -> dict[str, Any]:
    """Return the fields of one size: what it changes, over those of all."""
    if not sizes:
        return dict(config)
    if size not in sizes:
        known = f"one of {', '.join(sizes)}"
        raise UserError(Problem(f"{key}.size", f"expected {known}, received {size!r}"))
    return {**config, **(sizes[size] or {})}


def deepseek_v3(size: str | None, seed: int, config: dict[str, Any], load: Load) -> tuple[Any, Any]:
    """Return a DeepSeek model with random weights and its tokenizer: the registered architecture.

    The tokenizer is `load.tokenizer`, or that of the arithmetic task. The same seed gives the same
    weights. Raises UserError for fields that do not exist or do not fit.
    """
    import torch

    from r1pipe.models.deepseek import DeepseekForCausalLM

    tokenizer = tokenizer_for(load)
    shape = deepseek_config(config, tokenizer)
    dtype = torch.float32 if load.dtype == "auto" else getattr(torch, load.dtype)
    attention = (
        {"attn_implementation": load.attn_implementation} if load.attn_implementation else {}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = DeepseekForCausalLM._from_config(shape, dtype=dtype, **attention)
    # `generate` must sample from the whole distribution: a top-k of 50 would cut into it.
    model.generation_config.do_sample = True
    model.generation_config.top_k = 0
    model.generation_config.pad_token_id = shape.pad_token_id
    model.generation_config.eos_token_id = shape.eos_token_id
    return model, tokenizer


def fresh_config(model: Model, size: str | None, seed: int) -> Any:
    """Return the configuration of what the run would build; only small models are built for it."""
    fields = chosen_fields(model.config, model.sizes, size, "model")
    try:
        if model.architecture == "deepseek_v3":
            # One from the hub is not fetched for a vocabulary whose size is written out.
            needless = fields.get("vocab_size") is not None and model.load.tokenizer is not None
            return deepseek_config(fields, None if needless else tokenizer_for(model.load))
        made, _ = _call(str(model.architecture), "model", size, seed, fields, model.load)
        return made.config
    except UserError as error:
        raise UserError(_under("model", error.problems)) from error


def deepseek_config(fields: dict[str, Any], tokenizer: Any) -> DeepseekConfig:
    """Return the configuration of `fields`; what is null in them is the tokenizer's.

    Raises UserError naming the fields, and where the vocabulary is too small for the tokenizer.
    """
    from huggingface_hub.errors import StrictDataclassError

    from r1pipe.models.deepseek import DeepseekConfig

    given = {k: v for k, v in fields.items() if k not in FROM_TOKENIZER or v is not None}
    tokens: dict[str, Any] = {}
    if tokenizer is not None:
        tokens = {name: getattr(tokenizer, name) for name in FROM_TOKENIZER[1:]}
        tokens["vocab_size"] = len(tokenizer)
    try:
        config = DeepseekConfig(**{**tokens, **given})
    except UserError as error:
        located = [Problem(f"config.{p.where}", p.what, p.hint) for p in error.problems]
        raise UserError(located) from error
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise UserError(Problem("config", " ".join(str(error).split()))) from error
    if tokenizer is not None and config.vocab_size < len(tokenizer):
        what = f"{config.vocab_size} tokens, but the tokenizer has {len(tokenizer)}"
        hint = "null makes it the tokenizer's"
        raise UserError(Problem("config.vocab_size", what, hint))
    return config


def tokenizer_for(load: Load) -> Any:
    """Return the tokenizer that a model built with `load` gets."""
    if load.tokenizer is None:
        from r1pipe.models.tiny import build_tiny_tokenizer

        return build_tiny_tokenizer()
    from r1pipe.models.loading import load_tokenizer

    return load_tokenizer(load.tokenizer, load)
