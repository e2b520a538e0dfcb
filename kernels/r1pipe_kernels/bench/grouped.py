"""The grouped products against DeepGEMM's and against a loop over experts."""

import itertools

import torch

from r1pipe_kernels.backend import run
from r1pipe_kernels.formats import E4M3
from r1pipe_kernels.gemm import launch as dense
from r1pipe_kernels.gemm import ops as gemm
from r1pipe_kernels.gemm import reference
from r1pipe_kernels.grouped import launch
from r1pipe_kernels.grouped import ops as grouped
from r1pipe_kernels.quantise import ops as q

from . import peers
from .timing import launched, measure

# Experts, tokens after routing, N, K.
CASES = [
    (256, 32768, 4096, 7168), (256, 32768, 7168, 2048), (32, 32768, 4096, 7168),
    (8, 32768, 4096, 7168), (256, 4096, 4096, 7168),
]  # fmt: skip


def skewed(experts: int, tokens: int) -> torch.Tensor:
    """Offsets of loads that fall as 1 / (rank + 8), in random order; some experts get little."""
    share = 1 / (torch.arange(experts) + 8.0)
    share = share[torch.randperm(experts)]
    return torch.cat([torch.zeros(1), share.cumsum(0) / share.sum() * tokens]).round().int().cuda()


def case(experts: int, tokens: int, n: int, k: int, provide) -> None:
    offsets = skewed(experts, tokens)
    offsets[-1] = tokens
    x = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
    a, a_s = q.quantise_rows(x)
    b = torch.empty(experts, n, k, device="cuda", dtype=E4M3)
    b_s = torch.empty(experts, n // 128, k // 128, device="cuda")
    for e in range(experts):
        w = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        b[e], b_s[e], _, _ = q.quantise_weight(w)
    edges = offsets.tolist()
    out = torch.empty(tokens, n, device="cuda", dtype=torch.bfloat16)
    spans = [(e, s, t) for e, (s, t) in enumerate(itertools.pairwise(edges)) if t > s]
    rows = torch.cat([torch.arange(s, min(t, s + 2)) for _, s, t in spans]).cuda()
    expert = torch.cat([torch.full((min(t, s + 2) - s,), e) for e, s, t in spans]).tolist()
    wide = reference.wide_rows(a[rows], a_s[:, rows], torch.float64)
    want = torch.stack(
        [
            reference.wide_blocks(b[e], b_s[e], torch.float64) @ wide[i]
            for i, e in enumerate(expert[:64])
        ]
    )

    def ours():
        launch.gemm(a, a_s, b, b_s, out, offsets)
        return out

    def loop():
        for e, s, t in spans:
            # A slice's scales are not 16-byte aligned; its own, made before, are not timed.
            dense.gemm(a[s:t], slices[e], b[e], b_s[e], out[s:t], False, False)
        return out

    def one_by_one():
        for e, s, t in spans:
            run(gemm.gemm, a[s:t], slices[e], b[e], b_s[e], torch.bfloat16)

    slices = {e: q.quantise_rows(x[s:t])[1] for e, s, t in spans}
    table, errors = {}, {}
    out.fill_(float("nan"))
    provide(table, errors, "r1pipe", [lambda: ours()[rows[:64]]], want)
    table = {"r1pipe": [ours]} if table else {}
    try:
        call = peers.deep_gemm_grouped(a, a_s, b, b_s, offsets)
        call()
        torch.cuda.synchronize()
        table["DeepGEMM"] = [call]
    except Exception as problem:
        print(f"<!-- DeepGEMM grouped: {type(problem).__name__}: {str(problem)[:200]} -->")
    if experts <= 256:
        table["loop of r1pipe"] = [loop]
    times = measure(table, rounds=5)
    times["loop of r1pipe, launched one by one"] = launched(one_by_one)
    flops, moved = 2 * tokens * n * k, experts * n * k + tokens * k + 2 * tokens * n
    first = next(iter(times.values())).us
    for name, t in times.items():
        rate = flops / t.us / 1e6
        print(
            f"| {experts} | {tokens} | {n} x {k} | {name} | {t.us:.0f} | {rate:.0f} | "
            f"{moved / t.us / 1e6:.2f} | {t.us / first:.2f} | {errors.get(name, 0):.1e} |"
        )


def reduce_case(experts: int, tokens: int, n: int, k: int) -> None:
    offsets = skewed(experts, tokens)
    offsets[-1] = tokens
    dy = torch.randn(tokens, n, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
    a, b = grouped.quantise_columns(dy, offsets), grouped.quantise_columns(x, offsets)
    c = torch.zeros(experts, n, k, device="cuda")
    table = {
        "add": [lambda: launch.gemm_reduce(*a, *b, c, offsets, True)],
        "write": [lambda: launch.gemm_reduce(*a, *b, c, offsets, False)],
    }
    try:
        theirs = torch.zeros_like(c)
        call = peers.deep_gemm_k_grouped(dy, x, offsets, theirs)
        call()
        launch.gemm_reduce(*a, *b, c, offsets, False)
        gap = float((theirs - c).norm() / c.norm())
        if gap < 1e-3:
            table["DeepGEMM, added"] = [call]
        else:
            print(f"<!-- DeepGEMM by tokens: differs by {gap:.1e} -->")
    except Exception as problem:
        print(f"<!-- DeepGEMM by tokens: {type(problem).__name__}: {str(problem)[:200]} -->")
    times = measure(table, rounds=5)
    for name, t in times.items():
        rate = 2 * tokens * n * k / t.us / 1e6
        what = f"weight gradient, {name}"
        ratio = t.us / times["add"].us
        print(
            f"| {experts} | {tokens} | {n} x {k} | {what} | {t.us:.0f} | {rate:.0f} | | "
            f"{ratio:.2f} | |"
        )


def main(provide) -> None:
    print("\n### Grouped, skewed loads\n")
    print("| experts | tokens | N x K | | us | TFLOP/s | TB/s | it / ours | error |")
    print("|--:|--:|---|---|--:|--:|--:|--:|--:|")
    for experts, tokens, n, k in CASES:
        case(experts, tokens, n, k, provide)
        torch.cuda.empty_cache()
    for experts, tokens, n, k in [(8, 32768, 4096, 7168), (32, 32768, 2048, 7168)]:
        reduce_case(experts, tokens, n, k)
        torch.cuda.empty_cache()
