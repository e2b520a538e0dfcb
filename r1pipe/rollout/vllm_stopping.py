"""What lies in vLLM between two of its steps: unfinished requests, batches on their way, states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r1pipe.errors import StageFailed


@dataclass(frozen=True)
class Output:
    """What a request wrote until it was stopped; by vLLM's names."""

    token_ids: list[int]
    logprobs: Any
    routed_experts: Any = None


@dataclass(frozen=True)
class Request:
    outputs: list[Output]


def drain(engine: Any) -> None:
    """Let batches end that were on their way when their requests were aborted."""
    core = getattr(engine.engine_core, "engine_core", None)
    while getattr(core, "batch_queue", None):
        engine.step()


def stopped(engine: Any, names: Sequence[str]) -> dict[str, Request]:
    """Return what requests in the midst of their work have written so far.

    vLLM hands a request over when it is finished. Until then its tokens lie with the collector of
    its output, in the same process.
    """
    states = {
        getattr(state, "external_req_id", None) or name: state
        for name, state in engine.output_processor.request_states.items()
    }
    found = {}
    for name in names:
        state = states[name]
        ids = list(state.detokenizer.output_token_ids)
        logprobs = getattr(state.logprobs_processor, "logprobs", None)
        found[name] = Request([Output(ids, logprobs)])
    return found


def forget_prefixes(llm: Any) -> None:
    """Drop the states of all that was read with weights that are no longer.

    Raises StageFailed where vLLM keeps them: it would go on from them.
    """
    drain(llm.llm_engine)
    config = getattr(llm.llm_engine, "vllm_config", None)
    kept = llm.reset_prefix_cache() is False
    if kept and getattr(getattr(config, "cache_config", None), "enable_prefix_caching", True):
        raise StageFailed("vLLM keeps states of the weights that it had before")
