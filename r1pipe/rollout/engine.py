"""Who writes completions: one interface for the compact loop, transformers' `generate` and vLLM."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from r1pipe.errors import Problem, UserError
from r1pipe.models.loading import context_length, end_token_ids, load_causal_lm, load_tokenizer
from r1pipe.rollout.ending import OnDone, OnRows, Stop, Told
from r1pipe.schema import Load, Rollout, Sampling


@dataclass(frozen=True)
class SampledTokens:
    """What an engine wrote: one entry for each prompt it was given."""

    ids: list[list[int]]
    """Completions, each up to and with its end token."""
    logprobs: list[list[float]] | None = None
    """Log-probability of each token under the distribution it was drawn from (nats), if asked."""
    routes: list[Any] | None = None
    """vLLM's `routed_experts` of each: the experts its prompt and tokens met, if asked."""
    unfinished: list[int] = field(default_factory=list)
    """Numbers of those that a `Stop` cut off."""


class Engine(Protocol):
    """Writes completions with one loaded model."""

    tokenizer: Any
    end_ids: list[int]
    """Tokens that end a completion."""
    seconds_writing: float
    """Wall-clock seconds spent in `generate` so far."""

    @property
    def context(self) -> int | None:
        """Tokens the model can look at; None when it does not say."""
        ...

    def write(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        seed: int | None = None,
        logprobs: bool = False,
        on_done: OnDone | None = None,
        on_rows: OnRows | None = None,
        limits: Sequence[int] | None = None,
        stop: Stop | None = None,
    ) -> SampledTokens:
        """Return one completion of every prompt; `sampling.num_samples` is for the caller.

        With a seed the result is a function of the arguments alone; without one, of torch's
        generator too. `on_rows` gets every completion once, soon after it has ended. `limits`:
        most tokens of each, where they differ; none beyond `sampling.max_tokens`. An engine that
        cannot `stop` writes on.
        """
        ...

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        on_done: OnDone | None = None,
    ) -> list[list[list[int]]]:
        """Return `sampling.num_samples` completions (token ids) of every prompt.

        A function of its arguments alone: what was written before does not change it.
        """
        ...

    def close(self) -> None:
        """Give back the memory the model holds."""
        ...


class WritingEngine:
    """Several completions of a prompt, on top of one."""

    write: Callable[..., SampledTokens]
    seconds_writing = 0.0

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        on_done: OnDone | None = None,
    ) -> list[list[list[int]]]:
        count = sampling.num_samples
        rows = [ids for ids in prompt_ids for _ in range(count)]
        started = time.perf_counter()
        written = self.write(rows, sampling, seed=seed, on_done=on_done).ids
        self.seconds_writing += time.perf_counter() - started
        return [written[start : start + count] for start in range(0, len(written), count)]


def make_engine(rollout: Rollout, reference: str, load: Load) -> Engine:
    """Return the engine that `rollout` names, with the model at `reference` loaded."""
    if rollout.vllm_mode == "server":
        from r1pipe.rollout.remote.engine import RemoteEngine

        return RemoteEngine(rollout, reference, load).start()
    if rollout.engine == "vllm":
        from r1pipe.rollout.vllm_engine import VllmEngine

        return VllmEngine(rollout, reference, load)
    require_served(rollout)
    tokenizer = load_tokenizer(reference, load)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_causal_lm(reference, load).to(device).eval()
    if rollout.engine == "compact":
        from r1pipe.rollout import compact

        if compact.supports(model):
            return CompactEngine(model, tokenizer, rollout)
    return TransformersEngine(model, tokenizer, rollout)


def require_served(rollout: Rollout) -> None:
    """Raise UserError for settings that only vLLM in this process knows, where another writes."""
    here = rollout.engine == "vllm" and rollout.vllm_mode == "colocate"
    if rollout.precision == "fp8" and rollout.engine != "vllm" and rollout.vllm_mode != "server":
        what = f"the engine `{rollout.engine}` does not decode in FP8"
        raise UserError(Problem("rollout.precision", what, "`rollout=vllm_colocate`, or `auto`"))
    if rollout.sleep and not here:
        what = "only vLLM in the trainer's process has memory to give to the update"
        raise UserError(
            Problem("rollout.sleep", what, "set it to null, or `rollout=vllm_colocate`")
        )


class _LoadedModel(WritingEngine):
    """A transformers model; how it decodes is for the classes below to say."""

    _decode: Callable[..., SampledTokens]

    def __init__(self, model: Any, tokenizer: Any, rollout: Rollout) -> None:
        self.model, self.tokenizer, self.rollout = model, tokenizer, rollout
        self.end_ids = end_token_ids(model, tokenizer)
        self.context = context_length(model)

    def write(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        seed: int | None = None,
        logprobs: bool = False,
        on_done: OnDone | None = None,
        on_rows: OnRows | None = None,
        limits: Sequence[int] | None = None,
        stop: Stop | None = None,
    ) -> SampledTokens:
        if seed is not None:
            torch.manual_seed(seed)
        options = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "eos_token_id": self.end_ids,
            "pad_token_id": self.tokenizer.pad_token_id,
            "batch_size": self.rollout.batch_size,
        }
        told = Told(on_done, on_rows, limits, stop)
        return self._decode(prompt_ids, options, logprobs, told)

    def close(self) -> None:
        del self.model


class CompactEngine(_LoadedModel):
    """Our own decoding loop."""

    def _decode(
        self,
        prompt_ids: Sequence[Sequence[int]],
        options: dict[str, Any],
        logprobs: bool,
        told: Told,
    ) -> SampledTokens:
        from r1pipe.rollout import compact

        precision = self.rollout.precision
        # All prompts at once: the loop sorts them by length, and fills freed places again.
        written = compact.write(
            self.model,
            prompt_ids,
            **options,
            return_logprobs=logprobs,
            on_done=told.on_done,
            on_rows=told.on_rows,
            limits=told.limits,
            stop=told.stop,
            dtype=None if precision == "auto" else getattr(torch, precision),
        )
        if written.logprobs is None:
            return SampledTokens(written.ids, unfinished=written.unfinished)
        found = written.logprobs.split([len(ids) for ids in written.ids])
        values = [row.tolist() for row in found]
        return SampledTokens(written.ids, values, unfinished=written.unfinished)


class TransformersEngine(_LoadedModel):
    """`model.generate`."""

    def _decode(
        self,
        prompt_ids: Sequence[Sequence[int]],
        options: dict[str, Any],
        logprobs: bool,
        told: Told,
    ) -> SampledTokens:
        written: list[list[int]] = []
        for start in range(0, len(prompt_ids), options["batch_size"]):
            rows = prompt_ids[start : start + options["batch_size"]]
            found = generate_with_transformers(self.model, rows, **options)
            if told.limits is not None:
                most = told.limits[start : start + len(rows)]
                found = [ids[:limit] for ids, limit in zip(found, most, strict=True)]
            written += found
            if told.on_rows is not None:
                told.on_rows(list(enumerate(found, start)))
            if told.on_done is not None:
                told.on_done(len(written))
        if not logprobs:
            return SampledTokens(written)
        from r1pipe.rollout.agreement import token_logprobs

        found = token_logprobs(self.model, prompt_ids, written, options["temperature"])
        return SampledTokens(written, found)


def generate_with_transformers(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    eos_token_id: Sequence[int],
    pad_token_id: int,
    batch_size: int = 64,
) -> list[list[int]]:
    """Return one completion per prompt by `model.generate`; arguments as of `compact.generate`."""
    if hasattr(model, "get_base_model"):  # adapters are inside it
        model = model.get_base_model()
    named = model.generation_config
    # Only the recipe decides: a model's own file may hold a top-k or a repetition penalty.
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos_token_id),
        pad_token_id=pad_token_id,
        suppress_tokens=None if pad_token_id in eos_token_id else [pad_token_id],
        **(
            {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
            if temperature > 0
            else {"do_sample": False}
        ),
    )
    written: list[list[int]] = []
    try:
        for start in range(0, len(prompt_ids), batch_size):
            batch = prompt_ids[start : start + batch_size]
            longest = max(map(len, batch))
            ids = torch.tensor([[pad_token_id] * (longest - len(p)) + list(p) for p in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                out = model.generate(ids.to(model.device), attention_mask=mask.to(model.device))
            written += [cut(row, set(eos_token_id)) for row in out[:, longest:].tolist()]
    finally:
        model.generation_config = named
    return written


def cut(ids: list[int], ends: set[int]) -> list[int]:
    """Return the ids up to and with the first end token."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids


def phase_seconds(engine: Engine, started: float, ready: float, tokens: int) -> dict[str, float]:
    """Return the timings of a stage that writes and rewards, for its Outcome.

    `started` and `ready` are `time.perf_counter()` before and after the engine was made; `tokens`
    those it wrote. What was found on disk after a kill took no time and is in none of them.
    """
    writing = engine.seconds_writing
    rest = time.perf_counter() - ready - writing
    return {
        "load_s": ready - started,
        "generate_s": writing,
        "reward_s": max(rest, 0.0),
        "tokens_per_second": tokens / writing if writing else 0.0,
    }
