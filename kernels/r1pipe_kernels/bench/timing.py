"""Timing several providers side by side: graphs of launches, random order, equal warm-up."""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Time:
    """Median microseconds of one call and the spread (largest - smallest) / median of rounds."""

    us: float
    spread: float


def _graph(calls: list[Call], launches: int) -> torch.cuda.CUDAGraph:
    """Launches that rotate over `calls`, one a set of inputs, so that no set stays in the cache."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls * 2:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            calls[i % len(calls)]()
    return graph


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def measure(
    providers: dict[str, list[Call]], rounds: int = 9, target_us: float = 4000.0
) -> dict[str, Time]:
    """Time each provider; every entry is a list of the same call on different inputs.

    Power and clocks follow the load of the last milliseconds, so every round visits all providers
    in a random order and precedes each with the same copy that moves memory and rests the cores.
    """
    graphs, launches = {}, {}
    for name, calls in providers.items():
        trial = max(_replay(_graph(calls, 2 * len(calls))) / (2 * len(calls)), 1.0)
        launches[name] = max(2 * len(calls), int(target_us / trial))
        graphs[name] = _graph(calls, launches[name])
    rest = torch.empty(2**29, dtype=torch.int8, device="cuda")
    samples: dict[str, list[float]] = {name: [] for name in providers}
    order = list(providers)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            for _ in range(8):
                torch.neg(rest[2**28 :], out=rest[: 2**28])
            samples[name].append(_replay(graphs[name]) / launches[name])
    return {
        name: Time(statistics.median(v), (max(v) - min(v)) / statistics.median(v))
        for name, v in samples.items()
    }


def launched(call: Call, rounds: int = 7) -> Time:
    """Time a call without a graph: its kernels, or the host that launches them."""
    samples = []
    for number in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        if number >= 2:
            samples.append(start.elapsed_time(end) * 1e3)
    middle = statistics.median(samples)
    return Time(middle, (max(samples) - min(samples)) / middle)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a large device-to-device copy."""
    # A kernel that negates, not `copy_`: inside a graph that one is left to a slower copy engine.
    a, b = (torch.ones(2**29, dtype=torch.float32, device="cuda") for _ in range(2))
    call = lambda: torch.neg(a, out=b)  # noqa: E731
    return 2 * 2**31 / (measure({"copy": [call]}, rounds=5)["copy"].us * 1e-6)
