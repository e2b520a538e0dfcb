"""`python -m r1pipe_kernels.bench [gemm wgrad small grouped quantise tiles]`: measure on this GPU.

Prints Markdown tables; `--json PATH` writes the numbers. Every provider's result is compared with
the exact product of the dequantised operands before it is timed.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import triton

from r1pipe_kernels.gemm import launch, reference
from r1pipe_kernels.gemm.tiles import Tile, choose_tile
from r1pipe_kernels.quantise import ops as q

from . import grouped, peers, tiles
from .timing import Call, Time, copy_bandwidth, measure

# M, N, K of DeepSeek-V3's linear layers at 4096 tokens, and one larger.
SHAPES = [
    (4096, 7168, 2048), (4096, 2112, 7168), (4096, 24576, 1536), (4096, 7168, 16384),
    (4096, 4096, 7168), (8192, 7168, 4608),
]  # fmt: skip
WEIGHTS = [(2112, 7168), (7168, 2048), (24576, 1536)]
SMALL = [(m, n, k) for m in (1, 64, 128, 256) for n, k in WEIGHTS]
Row = dict[str, Time]


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


def provide(
    table: dict[str, list[Call]], errors: dict[str, float], name: str, calls: list[Call], want
) -> None:
    """Add a provider whose first call is right; say so when it is not or cannot run."""
    try:
        got = calls[0]()
        torch.cuda.synchronize()
        error = relative(got[: want.shape[0], : want.shape[1]], want)
    except Exception as problem:
        print(f"<!-- {name}: {type(problem).__name__}: {str(problem).splitlines()[0][:160]} -->")
        return
    errors[name] = error
    if error < 4e-3:
        table[name] = calls
    else:
        print(f"<!-- {name}: wrong, relative error {error:.1e} -->")


def operands(m: int, n: int, k: int):
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    return x, w, (*q.quantise_rows(x), *q.quantise_weight(w)[:2])


def ours(a, a_s, b, b_s, tile: Tile | None = None, dtype=torch.bfloat16, rows=False, add=False):
    out = torch.zeros(a.shape[0], b.shape[0], device=a.device, dtype=dtype)

    def call():
        launch.gemm(a, a_s, b, b_s, out, rows, add, tile)
        return out

    return call


def forward(shape: tuple[int, int, int]) -> tuple[Row, dict[str, float]]:
    sets = [operands(*shape) for _ in range(2)]
    want = reference.exact(*sets[0][2], rows=False)
    table: dict[str, list[Call]] = {}
    errors: dict[str, float] = {}
    provide(table, errors, "r1pipe", [ours(*s[2]) for s in sets], want)
    for name, make in peers.FORWARD.items():
        try:
            calls = [make(*s[2]) for s in sets]
        except Exception as problem:
            print(f"<!-- {name}: {type(problem).__name__}: {str(problem)[:160]} -->")
            continue
        provide(table, errors, name, calls, want)
    del want
    table["bf16 cuBLAS"] = [lambda s=s: s[0] @ s[1].t() for s in sets]
    return measure(table), errors


def reduce(shape: tuple[int, int, int]) -> tuple[Row, dict[str, float]]:
    """Weight gradient: M outputs, N inputs, K tokens."""
    m, n, k = shape
    sets = []
    for _ in range(2):
        dy = torch.randn(k, m, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
        sets.append((dy, x, (*q.quantise_columns(dy), *q.quantise_columns(x))))
    want = reference.exact(*sets[0][2], rows=True)
    table: dict[str, list[Call]] = {}
    errors: dict[str, float] = {}
    f32 = torch.float32
    provide(table, errors, "r1pipe add", [ours(*s[2], None, f32, True, True) for s in sets], want)
    provide(table, errors, "r1pipe write", [ours(*s[2], None, f32, True) for s in sets], want)
    for name, make in peers.REDUCE.items():
        try:
            calls = [make(*s[2]) for s in sets]
        except Exception as problem:
            print(f"<!-- {name}: {type(problem).__name__}: {str(problem)[:160]} -->")
            continue
        provide(table, errors, name, calls, want)
    del want
    table["bf16 cuBLAS"] = [lambda s=s: s[0].t() @ s[1] for s in sets]
    return measure(table), errors


def show(title: str, rows: dict[tuple[int, int, int], Row], errors: dict[str, float]) -> None:
    """TFLOP/s of every provider, their geometric mean, ours over theirs, spread and error."""
    names = [n for n in next(iter(rows.values())) if all(n in r for r in rows.values())]
    print(f"\n### {title}, TFLOP/s\n")
    heads = [" x ".join(map(str, s)) for s in rows]
    print("| | " + " | ".join(heads) + " | mean | ours / it | spread | error |")
    print("|---|" + "--:|" * (len(heads) + 4))
    rate = {n: [2 * math.prod(s) / r[n].us / 1e6 for s, r in rows.items()] for n in names}
    mean = {n: math.exp(sum(map(math.log, v)) / len(v)) for n, v in rate.items()}
    for n in names:
        spread = max(r[n].spread for r in rows.values())
        cells = " | ".join(f"{v:.0f}" for v in rate[n])
        error = f"{errors[n]:.1e}" if n in errors else "-"
        ratio = mean[names[0]] / mean[n]
        print(f"| {n} | {cells} | {mean[n]:.0f} | {ratio:.2f} | {spread:.0%} | {error} |")


def quantisers() -> None:
    top = copy_bandwidth()
    print(f"\n### Quantisers; a copy moves {top / 1e12:.2f} TB/s\n")
    print("| | us | TB/s | of copy | spread |\n|---|--:|--:|--:|--:|")
    m, k = 32768, 7168
    x = [torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    gated = [torch.randn(m, k // 2 * 3, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    w = [torch.randn(18432, 7168, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    scale = 4 / 128
    cases = {
        "rows": (q.quantise_rows, x, 3 + scale),
        "columns": (q.quantise_columns, x, 3 + scale),
        "both from one read": (q.quantise_both, x, 4 + 2 * scale),
        "silu * mul, both": (
            lambda t: q.silu_mul_quantise(*t.chunk(2, 1)),
            x,
            (4 + 2 + 2 * scale) / 2,
        ),
        "gradients of silu * mul, both": (
            lambda t: q.silu_mul_backward_quantise(*t.chunk(3, 1)),
            gated,
            (6 + 4 + 4 * scale) / 3,
        ),
        "weight, both": (q.quantise_weight, w, 4.0),
    }
    table = {n: [lambda f=f, t=t: f(t) for t in ts] for n, (f, ts, _) in cases.items()}
    times = measure(table)
    for name, (_, tensors, per) in cases.items():
        rate = per * tensors[0].numel() / times[name].us * 1e6
        t = times[name]
        print(f"| {name} | {t.us:.0f} | {rate / 1e12:.2f} | {rate / top:.2f} | {t.spread:.0%} |")
    ratio = (times["rows"].us + times["columns"].us) / times["both from one read"].us
    print(f"\nTwo passes over one: {ratio:.2f}")


def few_rows() -> None:
    """Products of few rows move the weight and little else: bytes per second beside the rate."""
    measured = {s: forward(s) for s in SMALL}
    rows = {s: r for s, (r, _) in measured.items()}
    show("Few rows, M x N x K", rows, measured[SMALL[0]][1])
    for m, n, k in SMALL:
        us = rows[m, n, k]["r1pipe"].us
        rate = (n * k + m * k + 2 * m * n) / us / 1e6
        tile = choose_tile(m, n, k, False, launch.processors(0))
        print(f"<!-- {m} x {n} x {k}: {us:.1f} us, {rate:.2f} TB/s, {tile} -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", default=["gemm", "wgrad", "small", "grouped", "quantise"]
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    results = {}
    tables = {
        "gemm": ("Forward, M x N x K", forward, SHAPES),
        "wgrad": ("Weight gradient, N x K x M", reduce, [(n, k, m) for m, n, k in SHAPES]),
    }
    for name, (title, run, shapes) in tables.items():
        if name in options.what:
            measured = {s: run(s) for s in shapes}
            rows = {s: r for s, (r, _) in measured.items()}
            results[name] = {str(s): {n: vars(t) for n, t in r.items()} for s, r in rows.items()}
            show(title, rows, measured[shapes[0]][1])
    if "small" in options.what:
        few_rows()
    if "grouped" in options.what:
        grouped.main(provide)
    if "quantise" in options.what:
        quantisers()
    if "tiles" in options.what:
        tiles.main(operands)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
