"""vLLM's and CUDA's errors in the user's terms: which setting mends them, and to what value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from r1pipe.doctor import own_range, spell_range
from r1pipe.errors import Problem, did_you_mean
from r1pipe.rollout.vllm_support import installed_version, on_gpu
from r1pipe.schema import Rollout

SPARE = 0.02
"""Share of the GPU that a hint leaves free beyond what the message asks for."""
_SHARE = "rollout.gpu_memory_utilization"
_UNIT = {"KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 2.0**10}
_SIZE = r"([\d.]+) (KiB|MiB|GiB|TiB)"


def explain(text: str, rollout: Rollout) -> Problem | None:
    """Return which setting mends an error, and to what value; None if none does."""
    for known in (_start, _cache, _memory, _model, _request, _option):
        if (problem := known(text, rollout)) is not None:
            return problem
    return None


def _start(text: str, rollout: Rollout) -> Problem | None:
    share = rollout.gpu_memory_utilization
    if found := re.search(r"\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired", text):
        free, total = float(found[1]), float(found[2])
        fits = _floored(free / total - SPARE)
        what = f"{share} of the GPU is {share * total:.0f} GiB, but only {free:.1f} GiB are free"
        return Problem(_SHARE, what, f"lower it to {fits:.2f}, or make the trainer smaller")
    return None


def _cache(text: str, rollout: Rollout) -> Problem | None:
    if found := re.search(r"max seq len \((\d+)\).*?larger than the available KV", text, re.S):
        longest = re.search(r"estimated maximum model length is (\d+)", text)
        sizes = re.search(r"([\d.]+) GiB KV.*?memory \(([\d.]+) GiB\)", text, re.S)
        fits = f" to {longest[1]}" if longest else ""
        what = f"the engine's cache cannot hold one sequence of {found[1]} tokens"
        hint = f"set `rollout.max_model_length`{fits} or less"
        if sizes:
            what += f": {sizes[1]} GiB needed, {sizes[2]} GiB there"
            hint += _or_more_memory(float(sizes[1]), float(sizes[2]), rollout)
        return Problem("rollout.max_model_length", what, hint)
    if "No available memory for the cache blocks" in text:
        where = _SHARE if on_gpu() else "VLLM_CPU_KVCACHE_SPACE"
        share = rollout.gpu_memory_utilization
        what = f"{share} of the GPU leaves no room for the engine's cache beside the weights"
        if not on_gpu():
            what = "the memory given to the engine leaves no room for its cache"
        higher = f"raise it to {min(0.95, share + 0.1):.2f}" if share < 0.9 and on_gpu() else ""
        hint = higher or ("raise it (GiB)" if not on_gpu() else "use a GPU with more memory")
        return Problem(where, what, f"{hint}, or lower `rollout.max_num_seqs`")
    if re.search(r"out of memory occurred when warming up sampler with (\d+)", text):
        rows = int(re.search(r"sampler with (\d+)", text)[1])  # pyright: ignore[reportOptionalSubscript]
        what = f"out of memory: the sampler needs room for {rows} completions' logits at a time"
        hint = f"set it to {max(1, rows // 2)}, or lower `{_SHARE}` to "
        return Problem(
            "rollout.max_num_seqs",
            what,
            hint + f"{_floored(rollout.gpu_memory_utilization - 0.1):.2f}",
        )
    return None


def _or_more_memory(needed: float, there: float, rollout: Rollout) -> str:
    """Return how much more memory holds the cache, as the end of a hint."""
    if not on_gpu():
        return f", or the environment's VLLM_CPU_KVCACHE_SPACE to {math.ceil(needed)} (GiB)"
    import torch

    total = torch.cuda.mem_get_info()[1] / 2**30
    share = math.ceil(100 * (rollout.gpu_memory_utilization + (needed - there) / total)) / 100
    if share > 0.95:
        return ""
    return f", or raise `{_SHARE}` to {share:.2f}"


def _memory(text: str, rollout: Rollout) -> Problem | None:
    if "out of memory" not in text.lower() and "can't allocate memory" not in text:
        return None
    share = rollout.gpu_memory_utilization
    first = text.strip().splitlines()[0]
    asked = re.search(rf"[Tt]ried to allocate {_SIZE}", text)
    total = re.search(rf"total capacity of {_SIZE}", text)
    free = re.search(rf"of which {_SIZE} is free", text)
    fits = _floored(share - 0.1)
    if asked and total and free:
        missing = max(_gib(asked) - _gib(free), 0.0) / _gib(total)
        fits = _floored(share - missing - SPARE)
        first = (
            f"{_gib(asked):.2f} GiB were asked for, {_gib(free):.2f} of {_gib(total):.0f} GiB are "
            "free"
        )
    hints = [f"lower it to {fits:.2f}"]
    if rollout.sleep is not True and on_gpu():
        hints.append("set `rollout.sleep: true` (the engine's memory serves the update)")
    hints.append("halve `trainer.per_device_train_batch_size`")
    return Problem(_SHARE, f"out of memory: {first}", ", or ".join(hints))


def _model(text: str, rollout: Rollout) -> Problem | None:
    if found := re.search(r"Model architectures (\[.*?\]) are not supported", text):
        what = f"vLLM {installed_version()} has no model for {found[1]}"
        return Problem("rollout.engine", what, "`rollout=compact` or `rollout=transformers`")
    if "MLA is not supported on CPU" in text:
        what = f"vLLM {installed_version()} has no latent attention (MLA) for a CPU"
        hint = f"`rollout=compact`, or a newer vLLM of {spell_range(own_range('vllm', 'vllm'))}"
        return Problem("rollout.engine", what, hint)
    if found := re.search(r"(Head dimension \d+ is not supported by MLA|head_dim=\d+)", text):
        what = f"vLLM has no attention kernel for this model here: {found[1]}"
        hint = "`rollout=compact`; vLLM's MLA takes kv_lora_rank 512 with qk_rope_head_dim 64"
        return Problem("rollout.engine", what, hint)
    if "attention backend found" in text or "MLA prefill backend found" in text:
        what = f"vLLM {installed_version()} has no attention kernel for this model here"
        if "torch.float32" in text:
            return Problem("rollout.precision", f"{what} in float32", "set it to `bfloat16`")
        return Problem("rollout.engine", what, "`rollout=compact` or `rollout=transformers`")
    if "gather_and_maybe_dequant_cache" in text:
        what = "vLLM's latent attention does not go on from a cached prompt with this latent"
        hint = "`rollout.vllm.enable_prefix_caching: false`"
        return Problem("rollout.vllm.enable_prefix_caching", what, hint)
    if found := re.search(r"we only support Q/K headdim in .*?\.", text, re.S):
        what = "vLLM's latent attention has no kernel for this model's qk_nope_head_dim + "
        what += f"qk_rope_head_dim and v_head_dim: {found[0]}"
        return Problem("rollout.engine", what, "`rollout=compact`")
    if "expandable_segments" in text or "Expandable segments are not compatible" in text:
        what = "vLLM's sleep mode and the allocator's expandable segments exclude each other"
        hint = "unset PYTORCH_CUDA_ALLOC_CONF's expandable_segments, or `rollout.sleep: false`"
        return Problem("rollout.sleep", what, hint)
    if found := re.search(r"User-specified max_model_len \((\d+)\).*?=(\d+)", text, re.S):
        what = f"{found[1]} tokens are more than the model's context of {found[2]}"
        return Problem("rollout.max_model_length", what, f"lower it to {found[2]}, or null")
    return None


def _option(text: str, rollout: Rollout) -> Problem | None:
    if found := re.search(r"unexpected keyword argument '(\w+)'", text):
        name = found[1]
        if name in rollout.vllm:
            what = f"vLLM {installed_version()} has no such argument"
            return Problem(f"rollout.vllm.{name}", what, did_you_mean(name, _options_of_vllm()))
    return None


def _options_of_vllm() -> list[str]:
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]

    return [each.name for each in dataclasses.fields(EngineArgs)]


_LONG: tuple[tuple[str, Callable[[re.Match[str]], tuple[str, str]]], ...] = (
    (
        r"prompt \(length (\d+)\) is longer than the maximum model length of (\d+)",
        lambda found: (found[1], found[2]),
    ),
    (
        r"maximum (?:context|model) length (?:is|of) (\d+) .*?(\d+) (?:input )?tokens",
        lambda found: (found[2], found[1]),
    ),
)


def _request(text: str, rollout: Rollout) -> Problem | None:
    for pattern, figures in _LONG:
        if found := re.search(pattern, text, re.S):
            length, context = figures(found)
            what = f"a prompt of {length} tokens is longer than the engine's context of {context}"
            hint = "`data.overlong: drop` leaves such rows out and counts them"
            if rollout.max_model_length is not None:
                hint += f", or raise `rollout.max_model_length` above {length}"
            return Problem("data.overlong", what, hint)
    return None


def _gib(found: re.Match[str]) -> float:
    return float(found[1]) * _UNIT[found[2]]


def _floored(share: float) -> float:
    """Return a share of the GPU as a hint names it."""
    return max(0.05, math.floor(100 * share + 1e-6) / 100)
