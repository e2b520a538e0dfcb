"""Requests that go on by themselves get the batches, tokens and cache that vLLM's loop gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("vllm")

import torch
from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]
from vllm.v1.core.kv_cache_utils import (  # pyright: ignore[reportMissingImports]
    get_request_block_hasher,
    init_none_hash,
)
from vllm.v1.core.sched import async_scheduler, scheduler  # pyright: ignore[reportMissingImports]
from vllm.v1.kv_cache_interface import (  # pyright: ignore[reportMissingImports]
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
)
from vllm.v1.outputs import ModelRunnerOutput  # pyright: ignore[reportMissingImports]
from vllm.v1.request import Request  # pyright: ignore[reportMissingImports]
from vllm.v1.structured_output import (  # pyright: ignore[reportMissingImports]
    StructuredOutputManager,
)

from r1pipe.rollout import vllm_steady
from r1pipe.rollout.vllm_steady import steadily
from tests.vllm import families

BLOCK, LONGEST, END = 16, 100, 7
relaxed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
work = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 90)), min_size=1, max_size=12)


class Settings:
    """vLLM's, which cannot be printed."""

    def __init__(self, vllm: Any, hasher: Any) -> None:
        self.vllm, self.hasher = vllm, hasher


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("steady") / "model"
    families.build("dense", folder)
    options: dict[str, Any] = {"block_size": 32, "max_model_len": LONGEST}
    arguments = EngineArgs(model=str(folder), skip_tokenizer_init=True, **options)
    try:
        from vllm.utils.hashing import sha256  # pyright: ignore[reportMissingImports]
    except ImportError:
        from vllm.utils import sha256  # pyright: ignore[reportMissingImports]
    init_none_hash(sha256)
    return Settings(arguments.create_engine_config(), get_request_block_hasher(BLOCK, sha256))


def token_of(name: str, place: int) -> int:
    """What the model writes there: one token in 40 is an end."""
    return (place * 31 + int(name) * 17) % 40


class World:
    """A scheduler with a model that writes `token_of`, run as vLLM's engine runs it."""

    def __init__(self, config: Any, ahead: bool, second: bool, seqs: int, blocks: int) -> None:
        vllm_config, self.hasher = config.vllm, config.hasher
        vllm_config.scheduler_config.max_num_seqs = seqs
        vllm_config.cache_config.enable_prefix_caching = True
        vllm_config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        groups = [KVCacheGroupSpec(["layer"], spec)]
        made: Any = async_scheduler.AsyncScheduler if ahead else scheduler.Scheduler
        self.scheduler = made(
            vllm_config=vllm_config,
            kv_cache_config=KVCacheConfig(blocks, [], groups),
            structured_output_manager=StructuredOutputManager(vllm_config),
            block_size=BLOCK,
            log_stats=False,
        )
        self.scheduler.use_v2_model_runner = second
        self.depth = 2 if ahead else 1
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, Any] = {}
        self.blocks: dict[str, int] = {}

    def engine(self) -> Any:
        core = SimpleNamespace(engine_core=SimpleNamespace(scheduler=self.scheduler))
        return SimpleNamespace(engine_core=core)

    def add(self, requests: list[tuple[int, int]]) -> None:
        for number, (prompt, most) in enumerate(requests):
            params = SamplingParams(max_tokens=most, stop_token_ids=[END], temperature=1.0)
            prompt_ids = [(number % 3) + 1] * min(prompt, LONGEST - 1)
            self.scheduler.add_request(
                Request(str(number), prompt_ids, params, None, block_hasher=self.hasher)
            )

    def steps(self, abort: dict[int, str]) -> Iterator[Any]:
        """Run to the end; yields after every step what it scheduled and the requests' states."""
        queue: deque[Any] = deque()
        for step in range(2000):
            if not (self.scheduler.has_requests() or queue):
                return
            if step in abort and abort[step] in self.scheduler.requests:
                from vllm.v1.request import (  # pyright: ignore[reportMissingImports]
                    RequestStatus,
                )

                self.scheduler.finish_requests(abort[step], RequestStatus.FINISHED_ABORTED)
            batch = self.scheduler.schedule() if self.scheduler.has_requests() else None
            if batch is not None:
                self.know_blocks(batch)
                queue.append((batch, self.written(batch)))
            if batch is None or len(queue) >= self.depth or not self.scheduler.has_requests():
                self.tell(*queue.popleft())
            scheduled = None if batch is None else dict(sorted(batch.num_scheduled_tokens.items()))
            yield scheduled, self.state()
        raise AssertionError("it never ends")

    def know_blocks(self, batch: Any) -> None:
        """Count blocks as a worker does: it only ever hears of new ones."""
        for new in batch.scheduled_new_reqs:
            self.blocks[new.req_id] = len(new.block_ids[0])
        cached = batch.scheduled_cached_reqs
        for name, ids in zip(cached.req_ids, cached.new_block_ids, strict=True):
            more = 0 if ids is None else len(ids[0])
            resumed = name in cached.resumed_req_ids
            self.blocks[name] = more + (0 if resumed else self.blocks[name])
        for name, count in batch.num_scheduled_tokens.items():
            request = self.scheduler.requests[name]
            assert self.blocks[name] * BLOCK >= request.num_computed_tokens, (name, count)

    def written(self, batch: Any) -> Any:
        names = list(batch.num_scheduled_tokens)
        sampled = []
        for name in names:
            request = self.scheduler.requests[name]
            reading = (
                request.is_prefill_chunk
                if self.depth > 1
                else (request.num_computed_tokens < request.num_tokens)
            )
            sampled.append([] if reading else [token_of(name, request.num_computed_tokens)])
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=sampled,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )

    def tell(self, batch: Any, output: Any) -> None:
        for outputs in self.scheduler.update_from_output(batch, output).values():
            for out in outputs.outputs:
                self.tokens.setdefault(out.request_id, []).extend(out.new_token_ids)
                if out.finish_reason is not None:
                    self.reasons[out.request_id] = out.finish_reason, out.stop_reason

    def state(self) -> Any:
        """What must be alike after every step."""
        kept = ("num_computed_tokens", "num_output_placeholders", "num_in_flight_tokens", "status")
        return {
            name: ([getattr(r, key, None) for key in kept], list(r.all_token_ids))
            for name, r in self.scheduler.requests.items()
        }


@relaxed
@given(
    requests=work,
    ahead=st.booleans(),
    second=st.booleans(),
    seqs=st.integers(2, 12),
    blocks=st.integers(9, 90),
    abort=st.dictionaries(st.integers(3, 60), st.integers(0, 11).map(str), max_size=2),
)
def test_batches_states_and_tokens_are_vllms(
    requests: list[tuple[int, int]],
    ahead: bool,
    second: bool,
    seqs: int,
    blocks: int,
    abort: dict[int, str],
    config: Any,
) -> None:
    worlds = [World(config, ahead, second, seqs, blocks) for _ in range(2)]
    plain, own = worlds
    for world in worlds:
        world.add(requests)
    with steadily(own.engine()) as steady:
        assert steady is not None
        for expected, found in zip(plain.steps(abort), own.steps(abort), strict=True):
            assert found == expected
    assert own.reasons == plain.reasons
    for name, tokens in plain.tokens.items():
        # What was aborted leaves nothing to hand over.
        assert own.tokens[name] == tokens[: len(own.tokens[name])]
        assert len(own.tokens[name]) == len(tokens) or name not in plain.reasons
    free = [world.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() for world in worlds]
    assert free[0] == free[1]
    assert "schedule" not in vars(own.scheduler)


@pytest.mark.parametrize("ahead", [False, True])
def test_most_tokens_pass_by_the_scheduler(ahead: bool, config: Any) -> None:
    world = World(config, ahead, True, 8, 90)
    world.add([(5, 80)] * 8)
    asked = 0
    plain = world.scheduler.kv_cache_manager.allocate_slots

    def allocate_slots(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return plain(*args, **kwargs)

    world.scheduler.kv_cache_manager.allocate_slots = allocate_slots
    with steadily(world.engine()):
        for _ in world.steps({}):
            pass
    assert asked < sum(map(len, world.tokens.values())) / 2


def test_what_is_not_delivered_yet_can_be_had(config: Any) -> None:
    world = World(config, True, True, 4, 90)
    world.add([(5, 80), (11, 70)])
    collected: dict[str, list[int]] = {"0": [], "1": []}
    with steadily(world.engine()) as steady:
        assert steady is not None
        for step, _ in enumerate(world.steps({})):
            if step == 6:
                break
        states = {
            name: SimpleNamespace(
                detokenizer=SimpleNamespace(
                    update=lambda ids, end, n=name: collected[n].extend(ids)
                )
            )
            for name in collected
        }
        steady.flush(states)
    assert len(world.scheduler.requests) == 2
    for name, request in world.scheduler.requests.items():
        assert collected[name]
        assert world.tokens[name] + collected[name] == list(request.output_token_ids)


def test_versions_that_were_not_compared_keep_their_own_loop(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(config, False, False, 4, 40)
    monkeypatch.setattr(vllm_steady, "TESTED", ("0.1.",))
    with steadily(world.engine()) as steady:
        assert steady is None
        assert "schedule" not in vars(world.scheduler)


def test_an_engine_elsewhere_is_left_alone() -> None:
    with steadily(SimpleNamespace(engine_core=object())) as steady:
        assert steady is None


def test_sampled_completions_are_the_same(tmp_path: Path) -> None:
    from r1pipe.rollout.vllm_engine import Beside, VllmEngine
    from r1pipe.schema import Sampling

    families.build("dense", tmp_path)
    rollout = families.rollout(max_model_length=128, vllm={"block_size": 32})
    engine = VllmEngine(rollout, str(tmp_path), families.load(), Beside(rows=16))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=80, num_samples=1)
    prompts, limits = families.prompts(16), [5 * row + 3 for row in range(16)]
    found = []
    for chosen in ("vllm", "steady"):
        engine.rollout = rollout.model_copy(update={"scheduler": chosen})
        for stop in (None, iter([False] * 20 + [True] * 9).__next__):
            found.append(
                engine.write(prompts, sampling, seed=3, logprobs=True, limits=limits, stop=stop)
            )
    engine.close()
    for plain, own in (found[::2], found[1::2]):
        assert plain == own
    assert any(found[1].unfinished)
