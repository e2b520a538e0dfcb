"""vLLM's scheduler, asked only about the requests that need it; the others go on as they are.

Its loops in Python take 10 us for a token of every request: with 512 rows that is longer than a
small model's step on a GPU, which waits. Nearly all of it says the same again: one more token for
a request that has room in its last block of cache. Such requests join a batch beside the few that
vLLM schedules itself, and their tokens are handed over when it next has to look at them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from r1pipe.rollout.vllm_support import replaced

TESTED = ("0.25.", "0.31.")
"""Versions whose scheduler was compared with this; others keep their own loop."""
PLAIN_CACHES = ("FullAttentionSpec", "MLAAttentionSpec")
MARGIN = 4
"""Tokens before a request's end from which vLLM schedules it itself."""


@contextmanager
def steadily(engine: Any) -> Iterator[Steady | None]:
    """Let requests of this engine go on by themselves, where that is known to be vLLM's own way;
    yields None where it is not."""
    core = getattr(engine.engine_core, "engine_core", None)
    scheduler = getattr(core, "scheduler", None)
    if scheduler is None or not is_plain(scheduler):
        yield None
        return
    steady = Steady(scheduler)
    with replaced(
        scheduler,
        schedule=steady.schedule,
        update_from_output=steady.update_from_output,
        _update_after_schedule=steady.join,
    ):
        yield steady


def is_plain(scheduler: Any) -> bool:
    """Whether a scheduler is one of vLLM's own that decodes, one token a request and step, on one
    process with one kind of cache, and nobody wants to hear of every step."""
    import vllm  # pyright: ignore[reportMissingImports]

    groups = scheduler.kv_cache_config.kv_cache_groups
    unusual = (
        "connector", "ec_connector", "aux_output_connector", "lora_config", "log_stats", "use_pp",
        "num_spec_tokens", "perf_metrics", "is_encoder_decoder", "enable_return_routed_experts",
        "return_sampling_mask", "defer_block_free", "finished_req_ids_dict", "has_mamba_layers",
        "enable_kv_cache_events",
    )  # fmt: skip
    return (
        vllm.__version__.startswith(TESTED)
        and type(scheduler).__module__.startswith("vllm.v1.core.sched.")
        and not any(getattr(scheduler, name, None) for name in unusual)
        and getattr(scheduler, "num_sampled_tokens_per_step", 1) == 1
        and getattr(scheduler, "dcp_world_size", 1) == 1
        and len(groups) == 1
        and type(groups[0].kv_cache_spec).__name__ in PLAIN_CACHES
    )


class Steady:
    """What stands between vLLM's engine and its scheduler."""

    def __init__(self, scheduler: Any) -> None:
        from vllm.v1.request import RequestStatus  # pyright: ignore[reportMissingImports]

        self.scheduler = scheduler
        self.running_status = RequestStatus.RUNNING
        self.block_size: int = scheduler.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        self.ahead = type(scheduler).__name__ == "AsyncScheduler"  # of the tokens it is to schedule
        self.second_runner: bool = scheduler.use_v2_model_runner
        self.plain = {
            name: getattr(scheduler, name)
            for name in ("schedule", "update_from_output", "_update_after_schedule")
        }
        self.limits = [
            name
            for name in ("max_num_running_reqs", "max_num_active_reqs", "max_num_scheduled_tokens")
            if hasattr(scheduler, name)
        ]
        self.ends: set[int] = set()
        self.usual = True
        self.joining: Sequence[Any] = ()
        self.joined: dict[int, Sequence[Any]] = {}
        self.delivered: dict[str, int] = {}

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's next batch, with the steady requests behind those that it schedules."""
        scheduler = self.scheduler
        everyone = scheduler.running
        steady: list[Any] = []
        asked = everyone
        if self.usual and self._has_room() and not any([*args, *kwargs.values()]):
            steady, asked = self._parted(everyone)
        for request in asked:
            request.update_block_hashes()  # of blocks that were filled meanwhile
        if not steady:
            return self._noted(self.plain["schedule"](*args, **kwargs))
        self.joining = steady
        room = {name: getattr(scheduler, name) - len(steady) for name in self.limits}
        with replaced(scheduler, running=list(asked), **room):
            try:
                batch = self.plain["schedule"](*args, **kwargs)
            finally:
                self.joining = ()
                now = scheduler.running
        if batch.preempted_req_ids:
            everyone = [request for request in everyone if request.status is self.running_status]
            known = {id(request) for request in asked}
            scheduler.running = everyone + [each for each in now if id(each) not in known]
        else:
            scheduler.running = everyone + now[len(asked) :]
        return self._noted(batch)

    def join(self, batch: Any) -> None:
        """Add the steady requests to a batch that vLLM has just made; then vLLM counts them."""
        if steady := self.joining:
            scheduler, names = self.scheduler, [request.request_id for request in self.joining]
            cached = batch.scheduled_cached_reqs
            cached.req_ids.extend(names)
            cached.new_block_ids.extend([None] * len(names))
            cached.num_computed_tokens.extend([r.num_computed_tokens for r in steady])
            cached.num_output_tokens.extend(
                [len(r._output_token_ids) + r.num_output_placeholders for r in steady]
            )
            batch.num_scheduled_tokens.update(dict.fromkeys(names, 1))
            batch.total_num_scheduled_tokens += len(names)
            batch.num_common_prefix_blocks = (
                scheduler.kv_cache_manager.get_num_common_prefix_blocks(names[0])
            )
            if not self.second_runner:
                scheduler.prev_step_scheduled_req_ids.update(names)
            self.joined[id(batch)] = steady
        self.plain["_update_after_schedule"](batch)

    def update_from_output(self, batch: Any, output: Any) -> Any:
        """Give the requests of a batch their tokens; vLLM sees those that may have ended."""
        steady = self.joined.pop(id(batch), ())
        scheduled = batch.num_scheduled_tokens
        if steady and output.sampled_token_ids and not output.num_nans_in_logits:
            told = self._extended(steady, output)
            scheduled = {name: n for name, n in scheduled.items() if name not in told}
            batch = replace(
                batch, num_scheduled_tokens=scheduled, total_num_scheduled_tokens=len(scheduled)
            )
        requests = {name: self.scheduler.requests.get(name) for name in scheduled}
        found = self.plain["update_from_output"](batch, output)
        for outputs in found.values():
            for out in outputs.outputs:
                request = requests.get(out.request_id)
                if request is not None and out.new_token_ids:
                    out.new_token_ids = self._undelivered(request)
        return found

    def flush(self, states: dict[str, Any]) -> None:
        """Hand over to the collectors of outputs, by request, what is still here."""
        for name, request in self.scheduler.requests.items():
            if name in states and (tokens := self._undelivered(request)):
                states[name].detokenizer.update(tokens, False)

    def _has_room(self) -> bool:
        """Whether everybody who runs can have a block more, so that nobody has to give way."""
        scheduler = self.scheduler
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        most = min(free, scheduler.max_num_scheduled_tokens)
        return len(scheduler.running) <= most and scheduler._pause_state.name == "UNPAUSED"

    def _parted(self, everyone: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return who needs one more token and nothing else, and the others."""
        size, longest = self.block_size, self.scheduler.max_model_len
        steady, asked = [], []
        for r in everyone:
            computed = r.num_computed_tokens
            if (
                computed % size
                and len(r._all_token_ids) + r.num_output_placeholders - computed == 1
                and computed + MARGIN < min(r.num_prompt_tokens + r.max_tokens, longest)
                and not r.is_prefill_chunk
            ):
                steady.append(r)
            else:
                asked.append(r)
        if not self.second_runner:
            # vLLM's first model runner gets all tokens of a request that missed a batch.
            before = self.scheduler.prev_step_scheduled_req_ids
            if late := [r for r in steady if r.request_id not in before]:
                return [r for r in steady if r.request_id in before], asked + late
        return steady, asked

    def _extended(self, steady: Sequence[Any], output: Any) -> set[str]:
        """Append the tokens of steady requests that go on; return the names of those."""
        index, sampled, ends = output.req_id_to_index, output.sampled_token_ids, self.ends
        longest, running, told = self.scheduler.max_model_len, self.running_status, set[str]()
        ahead, in_flight = self.ahead, hasattr(steady[0], "num_in_flight_tokens")
        stale = "num_stale_output_tokens" if in_flight else "async_tokens_to_discard"
        for r in steady:
            name, written, whole = r.request_id, r._output_token_ids, r._all_token_ids
            (token,) = sampled[index[name]] or (None,)
            if (
                token is None
                or token in ends
                or r.status is not running
                or len(written) + 1 >= r.max_tokens
                or len(whole) + 1 >= longest
                or getattr(r, stale)
            ):
                continue
            written.append(token)
            whole.append(token)
            if ahead:
                r.num_output_placeholders -= 1
            if in_flight:
                r.num_in_flight_tokens -= 1
            told.add(name)
        return told

    def _noted(self, batch: Any) -> Any:
        """Learn what ends the requests that a batch brings."""
        for new in batch.scheduled_new_reqs:
            params = new.sampling_params
            if params is None or getattr(params, "repetition_detection", None) is not None:
                self.usual = False
                continue
            if getattr(params, "structured_outputs", None) is not None:
                self.usual = False
            self.ends.update(params.stop_token_ids or ())
            self.ends.add(params.eos_token_id)
        return batch

    def _undelivered(self, request: Any) -> list[int]:
        """Return what a request has written since this was last asked."""
        name, written = request.request_id, request._output_token_ids
        tokens = written[self.delivered.get(name, 0) :]
        self.delivered[name] = len(written)
        return tokens
