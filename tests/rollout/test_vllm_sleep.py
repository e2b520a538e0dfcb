"""An engine sleeps and wakes in the order that keeps its weights, and only where it is asked to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1pipe.errors import UserError
from r1pipe.rollout import vllm_sleep
from r1pipe.rollout.engine import require_served
from r1pipe.rollout.vllm_sleep import Sleeper, is_short, sleeps
from tests.vllm import families


class Fake:
    """vLLM as far as sleeping goes: what is dropped must come again before it is used."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.held = {"weights", "kv_cache"}

    def sleep(self, level: int) -> None:
        assert self.held == {"weights", "kv_cache"}
        self.held = set()
        self.did.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        assert self.held.isdisjoint(tags)
        self.held |= set(tags)
        self.did += tags


def test_a_step_wakes_the_weights_first_then_the_cache_and_sleeps_after_writing() -> None:
    fake = Fake()
    sleeper = Sleeper(fake, True)
    sleeper.wake()  # nothing to do
    for _ in range(2):
        sleeper.sleep()
        sleeper.sleep()
        assert sleeper.lacks_weights
        sleeper.wake_weights()
        assert fake.held == {"weights"}
        sleeper.loaded()
        sleeper.wake()
        sleeper.wake()
    assert fake.did == ["sleep 2", "weights", "kv_cache"] * 2


def test_without_new_weights_nothing_is_written() -> None:
    sleeper = Sleeper(Fake(), True)
    sleeper.sleep()
    with pytest.raises(RuntimeError, match="no weights"):
        sleeper.wake()
    sleeper.wake_weights()
    with pytest.raises(RuntimeError, match="no weights"):
        sleeper.wake()


def test_an_engine_that_does_not_sleep_is_left_alone() -> None:
    fake = Fake()
    sleeper = Sleeper(fake, False)
    for act in (sleeper.sleep, sleeper.wake_weights, sleeper.loaded, sleeper.wake):
        act()
    assert fake.did == [] and not sleeper.lacks_weights


def test_sleep_is_refused_by_name_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_sleep, "on_gpu", lambda: False)
    assert not sleeps(families.rollout(), 10**12)
    with pytest.raises(UserError, match=r"rollout\.sleep[\s\S]*CPU"):
        sleeps(families.rollout(sleep=True), 10)
    for engine, mode in (("compact", "colocate"), ("vllm", "server")):
        settings = families.rollout(engine=engine, vllm_mode=mode, sleep=True)
        with pytest.raises(UserError, match=r"rollout\.sleep"):
            require_served(settings)
    require_served(families.rollout(sleep=True))


def test_without_a_wish_the_engine_sleeps_where_the_gpu_is_too_small_for_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gib = 2**30
    monkeypatch.setattr(vllm_sleep, "on_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 6 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80 * gib, 80 * gib))
    settings = families.rollout(gpu_memory_utilization=0.3)
    assert not sleeps(settings, 1_500_000_000)  # 24 + 6 + 17 GiB
    assert sleeps(settings, 7_000_000_000)  # 24 + 6 + 78 GiB
    assert not sleeps(settings, 7_000_000_000, parts=8)
    assert sleeps(families.rollout(gpu_memory_utilization=0.9), 1)
    assert not sleeps(families.rollout(gpu_memory_utilization=0.9, sleep=False), 1)
    assert is_short(100, 0.5, 30, 6) and not is_short(100, 0.5, 30, 5)
