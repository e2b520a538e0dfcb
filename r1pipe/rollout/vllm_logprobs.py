"""Log-probabilities on their way out of vLLM: of samples by whole batches, of readings by heat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from r1pipe.rollout.vllm_support import replaced

Values = dict[str, list[float]]
"""Of each request, by vLLM's own name of it, the log-probability of every token drawn for it."""


@contextmanager
def taken_by_batch(engine: Any) -> Iterator[Values | None]:
    """Take the log-probabilities of sampled tokens as each batch brings them; yields them.

    vLLM hands them over row by row in objects of several lists, which takes it 5 us a token: with
    512 rows a quarter of the step of a small model, whose GPU waits for it. A request may have
    values beyond its tokens: its next batch was on its way when it ended. Yields None where vLLM
    has to do it: tokens are drafted, or the scheduler is in another process.
    """
    core = getattr(engine.engine_core, "engine_core", None)
    drafts = getattr(engine.vllm_config, "speculative_config", None) is not None
    if core is None or drafts:
        yield None
        return
    scheduler, values = core.scheduler, defaultdict[str, list[float]](list)
    plain = scheduler.update_from_output

    def update_from_output(scheduled: Any, output: Any) -> Any:
        found, output.logprobs = output.logprobs, None
        if found is not None:
            drawn = found.logprobs[:, 0].tolist()  # the token's own comes first
            for name, ids, value in zip(
                output.req_ids, output.sampled_token_ids, drawn, strict=True
            ):
                if ids:  # else a part of a prompt was read
                    values[name].append(value)
        return plain(scheduled, output)

    with replaced(scheduler, update_from_output=update_from_output):
        yield values


def by_name(taken: Values, names: Sequence[str], tokens: Sequence[int]) -> list[list[float]]:
    """Return the values of these requests, in order.

    Names are `call-row`; vLLM's own have something random behind that. Raises RuntimeError for a
    request that has fewer values than `tokens`.
    """
    known = {"-".join(name.split("-")[:2]): values for name, values in taken.items()}
    found = [known.get(name, []) for name in names]
    for name, values, count in zip(names, found, tokens, strict=True):
        if len(values) < count:
            raise RuntimeError(f"vLLM gave {len(values)} of {count} log-probabilities for {name}")
    return found


@contextmanager
def scaled_logits(model: Any, temperature: float) -> Iterator[None]:
    """Divide all logits of a vLLM model by the temperature: it does so for samples alone.

    Its two model runners share no other place that the logits of a prompt pass through.
    """
    if temperature == 1:
        yield
        return
    plain = model.compute_logits

    def compute_logits(*args: Any, **kwargs: Any) -> Any:
        logits = plain(*args, **kwargs)  # None where another part of the engine has them
        return None if logits is None else logits.float() / temperature

    with replaced(model, compute_logits=compute_logits):
        yield


def seeds_requests(runner: Any) -> bool:
    """Whether this runner of vLLM draws by a seed of each request: its second one does so always,
    from numpy's generator where none is given."""
    return type(runner).__module__.startswith("vllm.v1.worker.gpu.")
