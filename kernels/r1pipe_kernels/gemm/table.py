"""Measured tiles: what `python -m r1pipe_kernels.bench tiles` printed, by class of shape.

A class is (strips of 64 rows, columns of 128 against processors, depth, whether B has a scale a
row); `tiles.shape_class` has the limits. Classes that are missing take the analytic choice of
`tiles`. Nothing is tuned while a model trains: the same shape runs with the same tile every time.
"""

from __future__ import annotations

# (strips x 64 rows, columns, stages, rows of tiles walked together), by processors of the card.
Entry = tuple[int, int, int, int]
Class = tuple[str, str, str, bool]

TABLES: dict[int, dict[Class, Entry]] = {
    # NVIDIA H200, torch 2.11, triton 3.6.0. README.md: forward and weight gradient at 4096 and 8192
    # rows; five stages instead of four were within 1 %.
    132: {
        ("many", "few", "deep", False): (3, 128, 4, 8),
        ("many", "many", "shallow", False): (3, 128, 4, 8),
        ("many", "few", "deep", True): (3, 128, 4, 8),
    },
}
