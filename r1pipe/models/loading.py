"""Loads any Hugging Face causal language model and tokenizer, by path, hub id or finished stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from r1pipe.artifact import model_path
from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.models.folder import Wanted, folder_problem
from r1pipe.models.fused import apply_fused
from r1pipe.models.precision import apply_precision
from r1pipe.recipes import conf_dir
from r1pipe.schema import Load, Lora

PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
"""Tokens that models carry for padding without saying so, in order of preference."""


def load_causal_lm(reference: str | Path, load: Load | None = None, **changes: Any) -> Any:
    """Return the causal language model at `reference`: a folder, finished stage or hub id.

    `load` (None: conf/model/hf.yaml's, which is as the checkpoint says) and `changes` to its fields
    say how. Weights are read from safetensors only. DeepSeek-V3's kind (V3, R1, Moonlight) becomes
    `DeepseekForCausalLM`, whatever code its repository ships. Raises UserError for what cannot be
    loaded.
    """
    load = _asked(load, changes)
    reference = str(reference)
    path = _checked_path(reference)
    config = load_config(reference, load)
    dtype = "auto" if load.dtype == "auto" else getattr(torch, load.dtype)
    attention = (
        {"attn_implementation": load.attn_implementation} if load.attn_implementation else {}
    )
    options = {"trust_remote_code": load.trust_remote_code, "revision": load.revision}
    with _explained(reference, "model"):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            **attention,
            **options,
        )
    return apply_fused(apply_precision(model, load), load)


def load_config(reference: str, load: Load) -> Any:
    """Return the configuration of the model at `reference`; raises UserError as the model would."""
    # Registers model type `deepseek_v3`: AutoConfig and AutoModelForCausalLM then prefer our class
    # to stock transformers' and to code in the repository, which is not run even when asked for.
    import r1pipe.models.deepseek  # noqa: F401  # pyright: ignore[reportUnusedImport]

    path = _checked_path(reference, "config")
    with _explained(reference, "model"):
        return AutoConfig.from_pretrained(
            path, trust_remote_code=load.trust_remote_code, revision=load.revision
        )


@contextmanager
def _explained(reference: str, what: str) -> Iterator[None]:
    """Turn a library's error about the model or tokenizer at `reference` into a UserError."""
    try:
        yield
    except UserError as error:  # our class's own, which names fields and weights
        raise UserError(_located(reference, error.problems)) from error
    except Exception as error:  # transformers, safetensors and the hub client raise their own kinds
        raise UserError(_why(reference, what, error)) from error


def load_tokenizer(reference: str | Path, load: Load | None = None) -> Any:
    """Return the tokenizer beside the model, or `load.tokenizer`; padding on the left.

    It has an end token (UserError otherwise) and a padding token: one that the vocabulary already
    holds for it, at worst the end token, so that the embedding keeps its size.
    """
    load = _asked(load, {})
    named = load.tokenizer or str(reference)
    path = _checked_path(named, "tokenizer")
    options: dict[str, Any] = {"trust_remote_code": load.trust_remote_code}
    if load.tokenizer is None:
        options["revision"] = load.revision  # the revision is the model's
    with _explained(named, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if tokenizer.eos_token_id is None:
        what = "the tokenizer has no EOS (end) token: no completion would ever end"
        hint = "set `eos_token` in its tokenizer_config.json, or `model.load.tokenizer` to another"
        raise UserError(Problem(named, what, hint))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _padding(tokenizer)
    tokenizer.padding_side = "left"
    if load.chat_template is not None:
        tokenizer.chat_template = _read_template(load.chat_template)
    return tokenizer


def _asked(load: Load | None, changes: dict[str, Any]) -> Load:
    """Return how to load: `load`, or what conf/model/hf.yaml says of a checkpoint, with changes."""
    values = hf_defaults() if load is None else load.model_dump()
    named = {k: str(v).removeprefix("torch.") if k == "dtype" else v for k, v in changes.items()}
    try:
        return Load.model_validate({**values, **named})
    except ValidationError as error:
        where = {str(item["loc"][0]): item["msg"] for item in error.errors(include_url=False)}
        raise UserError(
            Problem(name, text[0].lower() + text[1:], did_you_mean(name, Load.model_fields))
            for name, text in where.items()
        ) from None


@cache
def hf_defaults() -> dict[str, Any]:
    """Return the `load` fields of conf/model/hf.yaml, where the defaults are."""
    text = (conf_dir() / "model" / "hf.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["load"]


def _located(reference: str, problems: list[Problem]) -> list[Problem]:
    """Return problems that name the model they are about."""
    return [
        p if reference in p.where else Problem(f"{reference}: {p.where}", p.what, p.hint)
        for p in problems
    ]


def lora_config(lora: Lora | None) -> Any:
    """Return the `peft.LoraConfig` for adapters, or None to train all weights."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def context_length(model: Any) -> int | None:
    """Return how many tokens the model can look at, None where its config does not say."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a completion: the tokenizer's, and those the model names."""
    named = getattr(model.generation_config, "eos_token_id", None)
    more = [named] if isinstance(named, int) else list(named or [])
    return sorted({tokenizer.eos_token_id, *more})


def _checked_path(reference: str, wanted: Wanted = "model") -> str:
    """Return where the model is; raises UserError when a local folder cannot hold one."""
    if problem := folder_problem(reference, wanted):
        raise UserError(problem)
    path = Path(model_path(reference)).expanduser()
    return str(path) if path.exists() else reference


def _why(reference: str, what: str, error: Exception) -> Problem:
    """Put a library's error into the user's terms."""
    text = str(error)
    if "trust_remote_code" in text or _ships_code(reference, text):
        hint = "after reading that code: `model.load.trust_remote_code=true`"
        why = f"the {what} ships Python code of its own, which is not run"
        return Problem(reference, why, hint)
    if "safetensors" in text and "bin" in text:
        return Problem(reference, f"no safetensors weights: {text}", "convert them to safetensors")
    if "out of memory" in text.lower():
        return Problem(reference, f"not enough memory to load the {what}: {text}")
    local = Path(model_path(reference)).is_dir()
    hint = None if local else "no folder of this name is here; check the hub id and the network"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return Problem(reference, f"cannot load the {what}: {first}", hint)


def _ships_code(reference: str, text: str) -> bool:
    config = Path(model_path(reference)) / "config.json"
    try:
        shipped = "auto_map" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return shipped and "does not recognize" in text


def _padding(tokenizer: Any) -> str:
    known = tokenizer.get_vocab()
    free = [t for t in PAD_CANDIDATES if t in known and t != tokenizer.eos_token]
    return free[0] if free else tokenizer.eos_token


def _read_template(name: str) -> str:
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            Problem("model.load.chat_template", f"cannot read `{name}`: {error}")
        ) from None
