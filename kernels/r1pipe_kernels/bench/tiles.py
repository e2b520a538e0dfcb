"""`bench tiles`: time the candidates of every class of shapes and print `gemm.table` anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from r1pipe_kernels.gemm import launch
from r1pipe_kernels.gemm.tiles import Tile, candidates, choose_tile, shape_class
from r1pipe_kernels.quantise import ops as q

from .timing import measure

# One shape or more a class, from DeepSeek-V3's layers and a dense model of 1.5 B.
ROWS = (1, 64, 128, 512, 4096, 16384)
WEIGHTS = [(2112, 7168), (7168, 2048), (7168, 16384), (24576, 1536), (18432, 7168), (8960, 1536)]
KEPT = 0.98
"""A candidate replaces the tile of now when it takes less than this share of its time."""


def times_of(
    shape: tuple[int, int, int], vector: bool, operands: Callable[..., Any]
) -> dict[Tile, float]:
    """Microseconds of every candidate that compiles and runs, each on two sets of inputs."""
    m, n, k = shape
    sets = []
    for _ in range(2):
        x, w, codes = operands(m, n, k)
        if vector:
            codes = (*q.quantise_rows(x), *q.quantise_rows(w))
        dtype = torch.float32 if vector else torch.bfloat16
        sets.append((codes, torch.empty(m, n, device="cuda", dtype=dtype)))
    calls = {}
    now = choose_tile(m, n, k, vector, launch.processors(0))
    for tile in dict.fromkeys([now, *candidates(m, vector, 0 if vector else 2)]):
        make = [
            lambda c=c, out=out, tile=tile: launch.gemm(*c, out, vector, False, tile)
            for c, out in sets
        ]
        try:
            make[0]()
            torch.cuda.synchronize()
        except Exception as problem:
            print(f"<!-- {shape} {tile}: {type(problem).__name__}: {str(problem)[:120]} -->")
            continue
        calls[tile] = make
    found = measure({str(tile): make for tile, make in calls.items()}, rounds=5, target_us=1500)
    return {tile: found[str(tile)].us for tile in calls}


def main(operands: Callable[..., Any]) -> None:
    """Print, per class, the tile with the least geometric mean of times over those of now."""
    processors = launch.processors(0)
    classes: dict[Any, list[dict[Tile, float]]] = {}
    before: dict[Any, list[Tile]] = {}
    for vector in (False, True):
        for m in ROWS if not vector else ROWS[-2:]:
            for n, k in WEIGHTS:
                # A gradient of a weight has outputs for rows and tokens for depth.
                shape = (n, k, m) if vector else (m, n, k)
                key = shape_class(*shape, vector, processors)
                classes.setdefault(key, []).append(times_of(shape, vector, operands))
                before.setdefault(key, []).append(choose_tile(*shape, vector, processors))
                torch.cuda.empty_cache()
    print(f"\n### Tiles, {torch.cuda.get_device_name()}, {processors} processors\n\n```python")
    for key, measured in classes.items():
        shared = set.intersection(*(set(times) for times in measured))
        mean = {
            tile: math.exp(
                sum(
                    math.log(t[tile] / t[now]) for t, now in zip(measured, before[key], strict=True)
                )
                / len(measured)
            )
            for tile in shared
        }
        best = min(mean, key=lambda tile: mean[tile])
        old = before[key][0]
        chosen = best if mean[best] < KEPT or old not in mean else old
        entry = (chosen.strips, chosen.columns, chosen.stages, chosen.group)
        print(f"{key}: {entry},  # {mean[chosen]:.3f} of before, {len(measured)} shapes")
    print("```")
