"""Any engine at the server's end: the same three requests, checked before the engine sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from itertools import chain
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from r1pipe.models.loading import load_config
from r1pipe.rollout.agreement import token_logprobs
from r1pipe.rollout.engine import SampledTokens, make_engine
from r1pipe.rollout.remote.files import checkpoint_elements, checkpoint_shapes, content_of
from r1pipe.rollout.remote.taking import take_weights
from r1pipe.rollout.remote.wire import (
    Malformed,
    finite,
    pack,
    rows_out,
    unpack,
    values_in,
    written_in,
)
from r1pipe.schema import Load, Rollout, Sampling
from r1pipe.serving.identity import identity_of
from r1pipe.serving.protocol import MOST_ROWS

MORE_SAMPLING = {
    "frequency_penalty",
    "ignore_eos",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "top_k",
}
"""vLLM's sampling parameters that a client may set beside temperature, top-p and length."""
ROWS_OF_PARTS = 256


class Hosted:
    """An engine and what the server says about it."""

    def __init__(self, rollout: Rollout, reference: str, load: Load) -> None:
        self._reference, self._load = reference, load
        self._config = load_config(reference, load)
        self.engine = _engine(rollout.model_copy(update={"vllm_mode": "colocate"}), reference, load)
        self._is_vllm, self._precision = rollout.engine == "vllm", rollout.precision
        self._logprobs = rollout.logprobs if self._is_vllm else "engine"
        self._vocabulary = self._config.get_text_config().vocab_size

    def info(self) -> dict[str, Any]:
        """Return what clients have to know, as JSON."""
        name = type(self.engine).__name__.removesuffix("Engine").lower()
        return {
            "model": self._reference,
            "engine": name,
            "engine_version": _version("vllm" if self._is_vllm else "transformers"),
            "dtype": self._dtype(),
            "logprobs": self._logprobs,
            "context": self.engine.context,
            "end_ids": list(self.engine.end_ids),
            "start": content_of(self._reference),
            "elements": checkpoint_elements(self._reference),
            "identity": identity_of(self._config, self.engine.tokenizer),
        }

    def do(
        self, head: dict[str, Any], bodies: list[bytes], on_done: Callable[[int], None]
    ) -> list[bytes]:
        """Return the answer to each of `bodies`, whose prompts are written together.

        Raises Malformed for a request that cannot be met; after anything else that is raised the
        engine is not to be used any more.
        """
        if head["do"] == "load":
            self.load(head["paths"])
            return [pack({}, {})]
        asked = [unpack(body) for body in bodies]
        meta = asked[0][0]
        if any(other != meta for other, _ in asked):
            raise Malformed("the parts of a group ask for different things")
        prompts = [rows_out("prompts", arrays, self._vocabulary) for _, arrays in asked]
        self._check_prompts(prompts)
        together = list(chain.from_iterable(prompts))
        if head["do"] == "score":
            completions = [rows_out("completions", arrays, self._vocabulary) for _, arrays in asked]
            if [len(part) for part in completions] != [len(part) for part in prompts]:
                raise Malformed("there are other numbers of completions than of prompts")
            found = self._score(together, list(chain.from_iterable(completions)), meta)
            return [pack({}, values_in(part)) for part in _shares(found, prompts)]
        written = self._write(together, meta, _limits(asked, prompts), on_done)
        ids = _shares(written.ids, prompts)
        values = _shares(written.logprobs, prompts) if written.logprobs else [None] * len(ids)
        return [
            pack({}, written_in(SampledTokens(*part))) for part in zip(ids, values, strict=True)
        ]

    def load(self, paths: Sequence[str]) -> None:
        """Take the weights that are in these files, all of them or none."""
        if self._is_vllm:
            self._check_shapes(paths)
            self.engine.load(_tensors(paths))  # type: ignore[attr-defined]
        else:
            take_weights(self.engine.model, _tensors(paths))  # type: ignore[attr-defined]

    def close(self) -> None:
        self.engine.close()

    def _write(
        self,
        prompts: list[list[int]],
        meta: dict[str, Any],
        limits: list[int] | None,
        on_done: Callable[[int], None],
    ) -> SampledTokens:
        engine: Any = self.engine
        try:
            sampling = Sampling.model_validate(meta.get("sampling"))
        except ValidationError as error:
            raise Malformed(f"sampling: {error.errors(include_url=False)[0]['msg']}") from None
        seed, ends, more = meta.get("seed"), meta.get("end_ids"), meta.get("more") or {}
        if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise Malformed("a request says its seed")
        if not _ids(ends, self._vocabulary) or not ends:
            raise Malformed("`end_ids` are not token ids")
        banned = meta.get("banned")
        if banned is not None and not _ids([banned], self._vocabulary):
            raise Malformed("`banned` is no token id")
        self._check_more(more)
        engine.end_ids = sorted(set(ends))
        if self._is_vllm:
            engine.banned = None if banned in engine.end_ids else banned
            engine.extra = dict(more)
        more = {} if limits is None else {"limits": limits}
        wanted = bool(meta.get("logprobs"))
        return engine.write(prompts, sampling, seed=seed, logprobs=wanted, on_done=on_done, **more)

    def _score(
        self, prompts: list[list[int]], completions: list[list[int]], meta: dict[str, Any]
    ) -> list[list[float]]:
        temperature: Any = meta.get("temperature")
        if not finite(temperature) or temperature < 0:
            raise Malformed("`temperature` is not a number from 0 on")
        engine: Any = self.engine
        if self._is_vllm:
            return engine.score(prompts, completions, temperature)
        return token_logprobs(engine.model, prompts, completions, temperature)

    def _check_prompts(self, prompts: list[list[list[int]]]) -> None:
        count = sum(map(len, prompts))
        if not 0 < count <= MOST_ROWS:
            raise Malformed(f"{count} prompts; a request has 1 to {MOST_ROWS}")
        lengths = [len(ids) for part in prompts for ids in part]
        if not min(lengths):
            raise Malformed("a prompt is empty: there is nothing to continue")
        context = self.engine.context
        if context is not None and max(lengths) >= context:
            what = f"a prompt has {max(lengths)} tokens; the server's engine looks at {context}"
            hint = "serve with a larger `rollout.max_model_length`, or leave long prompts out"
            raise Malformed(f"{what} ({hint})")

    def _check_more(self, more: Any) -> None:
        if not isinstance(more, dict):
            raise Malformed("`more` is not a mapping")
        unknown = more if not self._is_vllm else more.keys() - MORE_SAMPLING
        if unknown:
            name = sorted(unknown)[0]
            raise Malformed(f"`trainer.{name}`: the server's engine has no such setting")
        if not all(isinstance(v, bool) or finite(v) for v in more.values()):
            raise Malformed("`more` holds something that is not a number")

    def _check_shapes(self, paths: Sequence[str]) -> None:
        """Refuse, before anything is changed, a set that is not the checkpoint's."""
        own = checkpoint_shapes(self._reference)
        if own is None:
            return
        given: dict[str, tuple[int, ...]] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                given |= {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        wrong = sorted(n for n in given if n in own and own[n] != given[n])
        if wrong:
            what = f"`{wrong[0]}` has shape {given[wrong[0]]}, the checkpoint's {own[wrong[0]]}"
            raise Malformed(f"weights: {what}")

    def _dtype(self) -> str:
        engine: Any = self.engine
        if self._precision == "fp8":
            return "fp8"
        if self._is_vllm:
            found = engine._llm.llm_engine.model_config.dtype
        elif self._precision != "auto":
            found = self._precision
        else:
            found = next(engine.model.parameters()).dtype
        return str(found).removeprefix("torch.")


def _engine(rollout: Rollout, reference: str, load: Load) -> Any:
    """Return the engine; of one that spreads over processes, this process's part."""
    if rollout.engine == "vllm" and rollout.tensor_parallel_size > 1:
        from r1pipe.rollout.vllm_engine import Beside, VllmEngine

        if torch.cuda.is_available():
            torch.cuda.set_device(torch.distributed.get_node_local_rank())
        dtype = load.dtype if rollout.precision in ("auto", "fp8") else rollout.precision
        rows = rollout.max_num_seqs or ROWS_OF_PARTS
        beside = Beside(ranks=rollout.tensor_parallel_size, dtype=dtype, rows=rows)
        return VllmEngine(rollout, reference, load, beside)
    return make_engine(rollout, reference, load)


def _limits(asked: list[Any], prompts: list[list[list[int]]]) -> list[int] | None:
    """Return the most tokens of each completion, where the parts say so."""
    if not any("limits" in arrays for _, arrays in asked):
        return None
    limits: list[int] = []
    for (_, arrays), part in zip(asked, prompts, strict=True):
        own = arrays.get("limits")
        if own is None or own.dtype.kind != "i" or own.shape != (len(part),) or own.min() < 1:
            raise Malformed("`limits` has to be one positive number for each prompt")
        limits += own.tolist()
    return limits


def _shares(found: Sequence[Any], prompts: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what belongs to the prompts of each part."""
    shares, start = [], 0
    for part in prompts:
        shares.append(found[start : start + len(part)])
        start += len(part)
    return shares


def _tensors(paths: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


def _ids(values: Any, vocabulary: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) < 1 << 12
        and all(type(v) is int and 0 <= v < vocabulary for v in values)
    )


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
