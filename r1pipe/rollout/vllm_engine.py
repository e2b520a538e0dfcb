"""vLLM in this process: ids in, ids and log-probabilities out, weights taken from a trainer."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1pipe.artifact import model_path
from r1pipe.errors import StageFailed
from r1pipe.models.loading import load_config, load_tokenizer
from r1pipe.rollout.ending import OnRows, Stop
from r1pipe.rollout.engine import OnDone, SampledTokens, WritingEngine, cut
from r1pipe.rollout.vllm_fp8 import SentBiases, has_biases, is_fp8, quantisation, require_fp8
from r1pipe.rollout.vllm_logprobs import (
    by_name,
    scaled_logits,
    seeds_requests,
    taken_by_batch,
)
from r1pipe.rollout.vllm_sleep import Sleeper
from r1pipe.rollout.vllm_steady import Steady, steadily
from r1pipe.rollout.vllm_stopping import drain, forget_prefixes, stopped
from r1pipe.rollout.vllm_support import (
    batch_options,
    engine_options,
    graphed,
    old_objects_left,
    on_gpu,
    plain_errors,
    process_unchanged,
    replaced,
    require_head_size,
    require_rotary_size,
    require_vllm,
    routes_options,
    uncompiled,
)
from r1pipe.rollout.vllm_weights import (
    forget_packed_experts,
    has_own_head,
    pack_tied_heads,
    takes_weights_directly,
    with_head,
)
from r1pipe.schema import Load, Rollout, Sampling


@dataclass(frozen=True)
class Beside:
    """What an engine has to know of the trainer whose process it shares."""

    ranks: int = 1
    """Processes of the training; each has an engine of its own, or a part of one."""
    dtype: str = "float32"
    """What the trainer computes in."""
    end_ids: tuple[int, ...] = ()
    rows: int = 256
    """Completions of one call."""
    sleeps: bool = False
    """Give the memory away between writings."""
    routes: bool = False
    """Report which experts every token met; vLLM does so on a GPU only."""


class VllmEngine(WritingEngine):
    """vLLM's engine; the model is loaded from its folder or the hub, later weights by `load`."""

    def __init__(
        self, rollout: Rollout, reference: str, load: Load, beside: Beside | None = None
    ) -> None:
        """`beside`: given where the engine shares a process with a trainer."""
        vllm = require_vllm()
        self.rollout = rollout
        self.tokenizer = load_tokenizer(reference, load)
        options = engine_options(rollout)
        dtype = rollout.precision
        if beside is not None:
            options.setdefault("max_num_seqs", graphed(beside.rows))
            if beside.ranks > 1:
                options["distributed_executor_backend"] = "external_launcher"
            dtype = beside.dtype if dtype == "auto" else dtype
            if beside.routes:
                options |= routes_options()
            if beside.sleeps:
                options["enable_sleep_mode"] = True
        if is_fp8(rollout):
            require_fp8(load_config(reference, load))
            options["quantization"] = quantisation()
            # FP8 kernels give 16 bits; what a layer keeps for itself is in these too.
            dtype = "float16" if beside is not None and beside.dtype == "float16" else "bfloat16"
        model_config = load_config(reference, load)
        require_rotary_size(model_config)
        options |= batch_options(options, model_config)
        self._filled: set[str] = set()
        self._alone = beside is None or beside.ranks == 1
        self._eager, self._routes = options["enforce_eager"], bool(beside and beside.routes)
        # The figures of what was sampled, after temperature and top-p. Without any wish for them
        # the raw mode stays, which spares the sampler a pass over all logits.
        if rollout.logprobs == "engine":
            options["logprobs_mode"] = "processed_logprobs"
        with plain_errors(rollout, "starting vLLM"), process_unchanged():
            self._llm: Any = vllm.LLM(
                model=model_path(reference),
                tokenizer=model_path(load.tokenizer or reference),
                revision=load.revision,
                # vLLM's own "auto" serves float32 weights in 16 bits.
                dtype=dtype if dtype != "auto" else load.dtype,
                trust_remote_code=load.trust_remote_code,
                **options,
            )
        self.sleeper = Sleeper(self._llm, bool(beside and beside.sleeps))
        config = self._llm.llm_engine.model_config
        if not config.use_mla:
            require_head_size(config.get_head_size())
        if self._in_process() and getattr(config.hf_config, "tie_word_embeddings", False):
            self._fill_own_head()
        self.context = config.max_model_len
        named = getattr(config.hf_config, "eos_token_id", None)
        more = [named] if isinstance(named, int) else list(named or [])
        ends = beside.end_ids if beside is not None and beside.end_ids else ()
        self.end_ids = sorted(set(ends) or {self.tokenizer.eos_token_id, *more})
        # A trainer knows nothing of a ban; without one, both give a token the same probability.
        banned = None if beside is not None else self.tokenizer.pad_token_id
        self.banned = None if banned in self.end_ids else banned
        self.extra: dict[str, Any] = {}
        """More of vLLM's sampling parameters, by their own names."""
        # vLLM's second model runner has a seed for each completion whether one is given or not.
        self._seeded = self._in_process() and seeds_requests(self._runner())
        self._calls = 0

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
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        # Where its runner can, one engine in this process draws from torch's generator, which is
        # faster than one for each completion; parts of an engine have to agree, whatever they hold.
        apart = self.rollout.tensor_parallel_size > 1
        if seed is not None and not apart:
            torch.manual_seed(seed)
        if seed is None and self._seeded and not apart:
            seed = int(torch.randint(2**31, ()))
        common: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": self.end_ids,
            "logprobs": 0 if logprobs else None,
            "logit_bias": None if self.banned is None else {self.banned: -100.0},
            **self.extra,
        }
        each = apart or self._seeded
        most = [sampling.max_tokens] * len(prompt_ids) if limits is None else limits
        params = [
            _params(
                SamplingParams,
                seed=(seed + row) % 2**31 if each and seed is not None else None,
                max_tokens=min(limit, sampling.max_tokens),
                **common,
            )
            for row, limit in enumerate(most)
        ]
        ends = set(self.end_ids)

        def told(row: int, out: Any) -> None:
            if on_rows is not None:
                on_rows([(row, cut(list(out.outputs[0].token_ids), ends))])

        engine = self._llm.llm_engine
        with (
            steadily(engine) if self.rollout.scheduler == "steady" else nullcontext() as steady,
            taken_by_batch(engine) if logprobs else nullcontext() as taken,
        ):
            outputs, unfinished = self._run(prompt_ids, params, on_done, told, stop, steady)
        found = [out.outputs[0] for out in outputs]
        ids = [cut(list(out.token_ids), ends) for out in found]
        routes = [out.routed_experts for out in found] if self._routes else None
        if not logprobs:
            return SampledTokens(ids, None, routes, unfinished)
        if taken is None:
            values = [_flat(out.logprobs) for out in found]
        else:
            asked = [f"{self._calls}-{row}" for row in range(len(found))]
            values = by_name(taken, asked, [len(out.token_ids) for out in found])
        values = [v[: len(i)] for v, i in zip(values, ids, strict=True)]
        return SampledTokens(ids, values, routes, unfinished)

    def score(
        self,
        prompt_ids: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
        temperature: float = 1.0,
    ) -> list[list[float]]:
        """Return the log-probability of every completion token, from one reading of the whole.

        Tokens that the engine cannot look at any more (the last of a sequence as long as its
        context) are NaN.
        """
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        pairs = list(zip(prompt_ids, completion_ids, strict=True))
        # vLLM reads a prompt only to write behind it.
        whole = [[*prompt, *completion][: self.context - 1] for prompt, completion in pairs]
        params = [
            _params(SamplingParams, temperature=0.0, max_tokens=1, prompt_logprobs=0) for _ in whole
        ]
        model = self._runner().get_model() if temperature != 1 else None
        with scaled_logits(model, temperature):
            found, _ = self._run(whole, params, None)
        values = []
        for (prompt, completion), read, out in zip(pairs, whole, found, strict=True):
            known = _flat(out.prompt_logprobs)  # none for the first token
            known = known[len(known) - (len(read) - len(prompt)) :] if read[len(prompt) :] else []
            values.append(known + [math.nan] * (len(completion) - len(known)))
        return values

    def raw_speed(self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> float:
        """Return tokens a second of `LLM.generate` on these prompts, asked for nothing but ids.

        Its draws are its own: nobody's generator has moved afterwards.
        """
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        params = _params(
            SamplingParams,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop_token_ids=self.end_ids,
            **self.extra,
        )
        asked = [{"prompt_token_ids": list(ids)} for ids in prompt_ids]
        with plain_errors(self.rollout, "writing"), uncompiled(self._eager), process_unchanged():
            forget_prefixes(self._llm)
            started = time.perf_counter()
            found = self._llm.generate(asked, params, use_tqdm=False)
            seconds = time.perf_counter() - started
        return sum(len(out.outputs[0].token_ids) for out in found) / seconds

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[Any],
        on_done: OnDone | None,
        told: Callable[[int, Any], None] | None = None,
        stop: Stop | None = None,
        steady: Steady | None = None,
    ) -> tuple[list[Any], list[int]]:
        """Return the request of every prompt, in order, and the numbers of those cut off by `stop`.

        `told` is called with the number of the prompt and its request when that is finished.
        """
        engine = self._llm.llm_engine
        self._calls += 1
        found: dict[str, Any] = {}
        unfinished: list[int] = []
        with plain_errors(self.rollout, "writing"), uncompiled(self._eager), old_objects_left():
            self.sleeper.wake()
            asked = [f"{self._calls}-{row}" for row in range(len(prompts))]
            numbers = {name: row for row, name in enumerate(asked)}
            try:
                for name, ids, each in zip(asked, prompts, params, strict=True):
                    engine.add_request(name, {"prompt_token_ids": list(ids)}, each)
                while engine.has_unfinished_requests():
                    before = len(found)
                    for out in engine.step():
                        if out.finished:
                            found[out.request_id] = out
                            if told is not None:
                                told(numbers[out.request_id], out)
                    if on_done is not None and len(found) > before:
                        on_done(len(found))
                    if stop is not None and stop():
                        left = [name for name in asked if name not in found]
                        if steady is not None:
                            steady.flush(engine.output_processor.request_states)
                        found |= stopped(engine, left)
                        unfinished = [numbers[name] for name in left]
                        engine.abort_request(left)
                        break
                # What has ended may be in one more batch; an engine that sleeps could not end it.
                drain(engine)
            except BaseException:
                engine.abort_request([name for name in asked if name not in found])
                raise
        return [found[name] for name in asked], unfinished

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take new weights, by the names of the checkpoint.

        All of the checkpoint has to be there. On a GPU they go from the trainer's memory to the
        engine's without a copy on the host.
        """
        llm, biases = self._llm, SentBiases()
        with plain_errors(self.rollout, "giving vLLM the new weights"), torch.no_grad():
            self.sleeper.wake_weights()
            if is_fp8(self.rollout):
                tensors = biases.watch(tensors)
            stream = with_head(tensors, llm.apply_model(has_own_head)[0])
            if llm.apply_model(takes_weights_directly)[0]:
                loaded = llm.apply_model(lambda model: model.load_weights(stream))[0]
            else:
                llm.apply_model(forget_packed_experts)
                with self._recorded() as loaded:
                    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
                llm.apply_model(pack_tied_heads)
            # vLLM says nothing of weights that do not come; all that ever came has to come again.
            self._filled = self._filled or set(loaded or ())
            if missing := sorted(self._filled - set(loaded or ())):
                what = f"vLLM got no new values for {len(missing)} of its weights"
                raise StageFailed(f"{what}: {', '.join(missing[:3])} ...")
            if biases.any:
                biases.require(llm.apply_model(has_biases)[0])
            forget_prefixes(llm)
            self.sleeper.loaded()
        if on_gpu():
            torch.cuda.synchronize()

    @contextmanager
    def _recorded(self) -> Iterator[set[str]]:
        """Yield a set that holds, after a reload, the names of the engine's weights it changed."""
        loaded: set[str] = set()
        model = self._runner().get_model()
        plain = model.load_weights

        def load_weights(weights: Iterable[tuple[str, Tensor]]) -> Any:
            found = plain(weights)
            loaded.update(found or ())
            return found

        with replaced(model, load_weights=load_weights):
            yield loaded

    def _fill_own_head(self) -> None:
        """Read the checkpoint again for an output head that it has as the embedding alone.

        vLLM's DeepSeek-V3 has a head of its own and, where the weights are tied, leaves it as
        memory was, without a word.
        """
        if not self._llm.apply_model(has_own_head)[0]:
            return
        from vllm.model_executor.model_loader import (  # pyright: ignore[reportMissingImports]
            get_model_loader,
        )

        runner = self._runner()
        loader: Any = get_model_loader(runner.load_config)
        self.load(loader.get_all_weights(runner.model_config, runner.get_model()))

    def _in_process(self) -> bool:
        return hasattr(getattr(self._llm.llm_engine, "model_executor", None), "driver_worker")

    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.model_runner

    def close(self) -> None:
        if not hasattr(self, "_llm"):
            return
        if self._alone:  # left to the collector, its end could come in the middle of the next one
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        if self._alone:
            from vllm.distributed import (  # pyright: ignore[reportMissingImports]
                cleanup_dist_env_and_memory,
            )

            cleanup_dist_env_and_memory()


def _params(made: Any, **values: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    return made(
        detokenize=False, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY, **values
    )


def _flat(found: Any) -> list[float]:
    """Return vLLM's flat log-probabilities: one for each token, as none but its own was asked."""
    return found.logprobs if found is not None else []
