"""vLLM beside a TRL trainer: takes its weights, writes its completions, and is held to them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from r1pipe.artifact import digest
from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.rollout.agreement import Agreement, agreement_of, flat, sums_of, token_logprobs
from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.ending import OnRows, Stop
from r1pipe.rollout.engine import SampledTokens
from r1pipe.rollout.vllm_engine import Beside, VllmEngine
from r1pipe.rollout.vllm_fp8 import is_fp8
from r1pipe.rollout.vllm_sleep import Sleeper, sleeps
from r1pipe.rollout.vllm_support import on_gpu
from r1pipe.schema import Load, Rollout, Sampling
from r1pipe.stages.guards import KEPT
from r1pipe.stages.rollouts import decoding_dtype
from r1pipe.stages.telemetry import CHECK, SYNC

ALARM = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1, "fp8": 0.3}
"""Mean |Δ| in nats. In float32 both sides agree to 1e-6; in 16 bits to about 0.01 (tests/vllm,
and TRL's own `sampling_logp_difference`), while weights of another policy differ by tenths. FP8
products are off by a few percent each: there the alarm is for what has gone wrong altogether."""
MOST_SEQUENCES = 1024


class ColocatedVllm:
    """An engine in the trainer's process; TRL's `rollout_func`, and its `vllm_generation`."""

    def __init__(self, trainer: Any, rollout: Rollout, reference: str, load: Load) -> None:
        """`reference` is the model that the trainer started from."""
        self.rollout, self.trainer = rollout, trainer
        args = trainer.args
        self.parts = rollout.tensor_parallel_size
        ranks = trainer.accelerator.num_processes
        if ranks % self.parts:
            what = f"{self.parts} does not divide the {ranks} processes of the training"
            hint = "set it to a divisor: an engine spreads over processes of the trainer"
            raise UserError(Problem("rollout.tensor_parallel_size", what, hint))
        if rollout.logprobs == "rescore" and trainer.top_p < 1:
            what = "reading completions once more does not show what top-p left out"
            raise UserError(Problem("rollout.logprobs", what, "set it to `engine`"))
        if is_fp8(rollout):
            require_correction(trainer, rollout)
        model = trainer.accelerator.unwrap_model(trainer.model)
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        self._group = _group(ranks, self.parts)
        rows = args.per_device_train_batch_size * getattr(args, "steps_per_generation", 1)
        self.dtype = decoding_dtype(trainer, rollout)
        plain = rollout.model_copy(update={"precision": "auto"}) if is_fp8(rollout) else rollout
        beside = Beside(
            ranks=ranks,
            dtype=decoding_dtype(trainer, plain),
            sleeps=sleeps(rollout, trained, ranks if sharded else 1),
            end_ids=tuple(trainer.eos_token_ids),
            rows=min(MOST_SEQUENCES, rows * self.parts),
            routes=getattr(trainer, "router_replay", "none") == "rollout",
        )
        self.engine = VllmEngine(rollout, reference, load, beside)
        self.engine.extra = more_sampling(trainer)
        self._checked, self._calls, self._written = -1, 0, 0
        # Seeding and loading take different times; the first collective of the trainer must not.
        trainer.accelerator.wait_for_everyone()

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Return what TRL asks of a `rollout_func`; the weights are the trainer's by then."""
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
        written = self.write(prompt_ids)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": written.ids,
            "logprobs": written.logprobs,
        }

    def sync_weights(self) -> None:
        """Give the engine the trainer's weights; every rank has to call this."""
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.clock.phase(SYNC):
            self.engine.load(checkpoint_tensors(model, gather_whole(trainer)))

    def write(
        self,
        prompt_ids: list[list[int]],
        *,
        limits: list[int] | None = None,
        on_rows: OnRows | None = None,
        stop: Stop | None = None,
    ) -> SampledTokens:
        """Return a completion of every prompt, by the trainer's sampling settings.

        What else may be said is `Engine.write`'s; `stop` where this rank has its own engine.
        """
        trainer, rollout = self.trainer, self.rollout
        sampling = Sampling(
            temperature=trainer.temperature,
            top_p=trainer.top_p,
            max_tokens=trainer.max_completion_length,
            num_samples=1,
        )
        step = trainer.state.global_step + 1
        sleeper: Sleeper | None = getattr(self.engine, "sleeper", None)
        try:
            if sleeper is not None and sleeper.lacks_weights:  # more than one writing in a step
                self.sync_weights()
            more: dict[str, Any] = {"limits": limits, "on_rows": on_rows, "stop": stop}
            more = {name: value for name, value in more.items() if value is not None}
            written = self._write(prompt_ids, sampling, **more)
            trainer.written_routes = written.routes
            written, empty = never_empty(written, self.engine.end_ids[0])
            if empty:
                trainer._metrics["train"]["rollout/empty"].append(empty)
            self._check(prompt_ids, written)
            self._measure_raw(prompt_ids, sampling)
            if rollout.logprobs == "rescore":
                values = self.engine.score(prompt_ids, written.ids, trainer.temperature)
                written = SampledTokens(written.ids, values, unfinished=written.unfinished)
            if sleeper is not None:
                sleeper.sleep()
        except StageFailed as error:
            raise StageFailed(f"step {step}: {error}; {KEPT}") from error
        return written

    def close(self) -> None:
        self.engine.close()

    def _write(self, prompt_ids: list[list[int]], sampling: Sampling, **more: Any) -> SampledTokens:
        wanted = self.rollout.logprobs == "engine"
        if self._group is None:
            told = self._told(range(len(prompt_ids))) | more
            return self.engine.write(prompt_ids, sampling, logprobs=wanted, **told)
        # The ranks of an engine write all their prompts together, each the same.
        shares: list[Any] = [None] * self.parts
        torch.distributed.all_gather_object(shares, prompt_ids, group=self._group)
        together = [ids for share in shares for ids in share]
        self._calls += 1
        rank = torch.distributed.get_rank()
        named = [self.trainer.args.seed, self.trainer.state.global_step, self._calls]
        seed = int(digest([*named, rank // self.parts])[:8], 16)
        first = sum(map(len, shares[: rank % self.parts]))
        own = slice(first, first + len(prompt_ids))
        told = self._told(range(own.start, own.stop))
        written = self.engine.write(together, sampling, seed=seed, logprobs=wanted, **told)
        return SampledTokens(
            written.ids[own],
            written.logprobs and written.logprobs[own],
            written.routes and written.routes[own],
        )

    def _told(self, own: range) -> dict[str, Any]:
        """Return the argument by which the engine tells the trainer of its own rows' ends."""
        on_rows: OnRows | None = getattr(self.trainer, "on_rows", None)
        if on_rows is None:
            return {}
        end = self.engine.end_ids[0]

        def tell(ended: list[tuple[int, list[int]]]) -> None:
            on_rows([(row - own.start, ids or [end]) for row, ids in ended if row in own])

        return {"on_rows": tell}

    def _check(self, prompt_ids: list[list[int]], written: SampledTokens) -> None:
        """Compare a few completions' log-probabilities, log the figures, sound the alarm."""
        trainer, rollout = self.trainer, self.rollout
        step = trainer.state.global_step
        due = rollout.check_every and step % rollout.check_every == 0
        if not due or step == self._checked or not trainer.model.training:
            return
        self._checked = step
        with trainer.clock.phase(CHECK):
            found = self.compare(prompt_ids, written)
        for name, value in found.logged().items():
            trainer._metrics["train"][name].append(value)
        limit = rollout.alarm_threshold or ALARM[self.dtype]
        if found.mean <= limit:
            return
        what = (
            f"vLLM gives the tokens other probabilities than the trainer: mean |Δ| "
            f"{found.mean:.3g} nats over {found.tokens} tokens (limit {limit:g}), largest "
            f"{found.max:.3g}. It does not hold the trainer's weights, or computes another function"
        )
        if rollout.on_alarm == "stop":
            hint = "`rollout.alarm_threshold` sets the limit, `rollout.on_alarm=warn` goes on"
            raise StageFailed(f"{what} ({hint})")
        if trainer.accelerator.is_main_process:
            print(f"warning: step {step + 1}: {what}", file=sys.stderr, flush=True)

    def _measure_raw(self, prompt_ids: list[list[int]], sampling: Sampling) -> None:
        """Let the clock know, once, how fast the engine alone writes what it has just written.

        It is the second batch's: in the first, kernels are compiled.
        """
        clock, wanted = self.trainer.clock, self.rollout.measure_raw
        self._written += 1
        wanted = on_gpu() if wanted is None else wanted
        if wanted and self._written == 2 and self._group is None:
            with clock.phase(CHECK):
                clock.raw_speed = self.engine.raw_speed(prompt_ids, sampling)

    def compare(self, prompt_ids: Sequence[list[int]], written: SampledTokens) -> Agreement:
        """Return how the engine and the trainer agree on some of these completions, all ranks'."""
        trainer, count = self.trainer, min(self.rollout.check_sequences, len(prompt_ids))
        begun = [row for row, ids in enumerate(written.ids) if ids]  # not all, where stopped early
        rows = [begun[place * len(begun) // count] for place in range(min(count, len(begun)))]
        prompts, ids = [prompt_ids[row] for row in rows], [written.ids[row] for row in rows]
        temperature = trainer.temperature if hasattr(trainer, LOGPS) else 1.0
        plain = trainer.top_p == 1 and not self.engine.extra
        if written.logprobs is not None and plain and temperature == trainer.temperature:
            engine = [written.logprobs[row] for row in rows]
        else:
            engine = self.engine.score(prompts, ids, temperature)
        own = policy_logprobs(trainer, prompts, ids, temperature)
        sums = sums_of(flat(engine), flat(own)).to(trainer.accelerator.device)
        return agreement_of(trainer.accelerator.gather(sums[None]).cpu())


LOGPS = "_get_per_token_logps_and_entropies"


def policy_logprobs(
    trainer: Any,
    prompt_ids: Sequence[list[int]],
    completion_ids: Sequence[list[int]],
    temperature: float,
) -> list[list[float]]:
    """Return the trainer's log-probability of every completion token, as its loss computes it."""
    if not hasattr(trainer, LOGPS):
        return token_logprobs(trainer.model, prompt_ids, completion_ids, temperature)
    device, pad = trainer.accelerator.device, trainer._tokenizer.pad_token_id
    before, after = max(map(len, prompt_ids)), max(map(len, completion_ids))
    ids, mask = [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        left, right = before - len(prompt), after - len(completion)
        ids.append([pad] * left + prompt + completion + [pad] * right)
        mask.append([0] * left + [1] * (len(prompt) + len(completion)) + [0] * right)
    model = trainer.model
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            values, _, _ = getattr(trainer, LOGPS)(
                model,
                torch.tensor(ids, device=device),
                torch.tensor(mask, device=device),
                after,
                batch_size=trainer.args.per_device_train_batch_size,
            )
    finally:
        model.train(training)
    lengths = map(len, completion_ids)
    return [row[:length] for row, length in zip(values.tolist(), lengths, strict=True)]


def require_correction(trainer: Any, rollout: Rollout) -> None:
    """Raise UserError where a policy would learn from FP8 samples as if they were its own."""
    if not hasattr(trainer, "vllm_importance_sampling_correction"):
        return  # distillation weighs nothing by who wrote it
    if rollout.logprobs == "none":
        key, wanted = "rollout.logprobs", "`engine`, or `rescore`"
    elif not trainer.vllm_importance_sampling_correction:
        key, wanted = "trainer.vllm_importance_sampling_correction", "true"
    else:
        return
    what = "FP8 rollouts need the off-policy correction: they are another policy's samples"
    raise UserError(Problem(key, what, f"set it to {wanted}, or `rollout.precision: auto`"))


def never_empty(written: SampledTokens, end_id: int) -> tuple[SampledTokens, int]:
    """Return completions of at least one token, and how many had none.

    An engine that keeps end tokens to itself says nothing where the first token was one: it is put
    back, with a log-probability that is not known (NaN).
    """
    cut = set(written.unfinished)  # those may not have been begun
    empty = [row for row, ids in enumerate(written.ids) if not ids and row not in cut]
    if not empty:
        return written, 0
    ids, values = list(written.ids), written.logprobs and list(written.logprobs)
    for row in empty:
        ids[row] = [end_id]
        if values is not None:
            values[row] = [math.nan]
    return SampledTokens(ids, values, unfinished=written.unfinished), len(empty)


def more_sampling(trainer: Any) -> dict[str, Any]:
    """Return what the trainer's config says of sampling beyond temperature, top-p and length."""
    args = trainer.args
    asked = {
        "top_k": args.top_k or None,
        "min_p": args.min_p or None,
        "repetition_penalty": None if args.repetition_penalty == 1 else args.repetition_penalty,
        **(args.generation_kwargs or {}),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _group(ranks: int, parts: int) -> Any:
    """Return this rank's group of processes that share an engine, None where each has its own."""
    if parts == 1:
        return None
    blocks = [list(range(first, first + parts)) for first in range(0, ranks, parts)]
    group, _ = torch.distributed.new_subgroups_by_enumeration(blocks)
    return group


def gather_whole(trainer: Any) -> Any:
    """Return how whole parameters become visible under ZeRO-3, None where they are already."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is None or plugin.zero_stage != 3:
        return None
    import deepspeed  # pyright: ignore[reportMissingImports]

    def gather(parameters: Sequence[Tensor]) -> AbstractContextManager[Any]:
        return deepspeed.zero.GatheredParameters(list(parameters))

    return gather
