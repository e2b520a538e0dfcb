"""Who writes the completions of a trainer: the schema's rollout settings in TRL's words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from r1pipe.errors import StageFailed
from r1pipe.models.loading import context_length
from r1pipe.rollout.engine import require_served
from r1pipe.schema import Load, Rollout
from r1pipe.stages.guards import KEPT


def uses_server(rollout: Rollout) -> bool:
    """Whether the engine is `r1pipe serve`'s, whichever that has."""
    return rollout.vllm_mode == "server"


def context_room(model: Any, rollout: Rollout) -> int | None:
    """Return the tokens a prompt and its completion may have together, None without a limit."""
    limits = [context_length(model)]
    if rollout.engine == "vllm":
        limits.append(rollout.max_model_length)
    return min((limit for limit in limits if limit is not None), default=None)


@contextmanager
def engine_beside(trainer: Any, rollout: Rollout, reference: str, load: Load) -> Iterator[Any]:
    """Let our vLLM engine, or a server's, write for a TRL trainer inside the block; yields it.

    None where the compact loop or transformers writes, with the trainer's own model.

    For a GRPO trainer it is TRL's `rollout_func`, and what TRL has vLLM's weights set by and its
    off-policy correction for. `reference` is the model that the trainer started from.
    """
    require_served(rollout)
    if uses_server(rollout):
        from r1pipe.stages.beside_server import BesideServer

        engine = BesideServer(trainer, rollout, reference, load)
    elif rollout.engine == "vllm":
        from r1pipe.stages.colocated import ColocatedVllm

        engine = ColocatedVllm(trainer, rollout, reference, load)
    else:
        yield None
        return
    trainer.vllm_generation = engine
    trainer._last_loaded_step = -1
    if hasattr(trainer, "rollout_func"):
        trainer.rollout_func = engine
        trainer.use_vllm, trainer.vllm_mode = True, "colocate"
        if rollout.logprobs == "none":
            trainer.vllm_importance_sampling_correction = False
    try:
        yield engine
    finally:
        engine.close()


def uses_compact(rollout: Rollout) -> bool:
    """Whether the compact loop writes; under FSDP the weights are in shards and TRL writes."""
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    return rollout.engine == "compact" and not sharded and not uses_server(rollout)


def compact_rollout(rollout: Rollout) -> Callable[[list[Any], Any], dict[str, Any]] | None:
    """Return a TRL `rollout_func` for `engine: compact`; None leaves the writing to TRL."""
    if not uses_compact(rollout):
        return None

    def write(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        completion_ids = write_completions(trainer, prompt_ids, rollout)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return write


def decoding_dtype(trainer: Any, rollout: Rollout) -> str:
    """Return the precision completions are written in: what is asked for, else the trainer's."""
    if rollout.precision != "auto":
        return rollout.precision
    if trainer.args.bf16:
        return "bfloat16"
    if trainer.args.fp16:
        return "float16"
    return str(next(trainer.model.parameters()).dtype).removeprefix("torch.")


def write_completions(
    trainer: Any, prompt_ids: list[list[int]], rollout: Rollout
) -> list[list[int]]:
    """Return one completion (token ids) per prompt, by the sampling settings of the trainer."""
    on_rows = getattr(trainer, "on_rows", None)
    return written_by_compact(trainer, prompt_ids, rollout, on_rows=on_rows).ids


def written_by_compact(
    trainer: Any, prompt_ids: list[list[int]], rollout: Rollout, **more: Any
) -> Any:
    """Return the compact loop's `Completions`, by the trainer's settings; `more`: of `write`."""
    from trl.models import unwrap_model_for_generation

    from r1pipe.rollout.compact import write

    gathered = unwrap_model_for_generation(
        trainer.model_wrapped,
        trainer.accelerator,
        gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
    )
    try:
        with torch.no_grad(), gathered as model:
            written = write(
                model,
                prompt_ids,
                max_new_tokens=trainer.max_completion_length,
                temperature=trainer.temperature,
                top_p=trainer.top_p,
                eos_token_id=trainer.eos_token_ids,
                pad_token_id=trainer._tokenizer.pad_token_id,
                batch_size=rollout.batch_size,
                dtype=getattr(torch, decoding_dtype(trainer, rollout)),
                record_routes=getattr(trainer, "router_replay", "none") == "rollout",
                **more,
            )
            trainer.written_routes = written.routes
            return written
    except StageFailed as error:
        raise StageFailed(f"step {trainer.state.global_step + 1}: {error}; {KEPT}") from error


def keep_tables_silent(trainer_module: Any) -> None:
    """Let a TRL trainer write its completions to files and trackers without printing tables."""
    trainer_module.is_rich_available = lambda: False  # asked for nothing but the printed table
