"""`python -m r1pipe_kernels.testing.sanitize [tool ...]`: every operator under compute-sanitizer.

Runs itself under each tool (memcheck, racecheck, synccheck, initcheck) with small shapes, odd ones
among them, forward and backward. Exit code 1 when a tool finds something; 2 without the program.
`COMPUTE_SANITIZER` names it where it is not on the path or in /usr/local/cuda.

Two things the tools do not see. racecheck does not follow the barriers by which `warp_specialize`
hands warps their work, and reports that hand-over for any kernel that uses it, here for one that
does nothing else (`control`); such reports, on the lines of the kernel's head and of that call, are
counted apart. initcheck does not see what the copy engine writes, so it runs with fp32 outputs,
which are stored by threads.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shutil
import subprocess
import sys
from typing import Any

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
SHAPES = [(1, 128, 128), (70, 144, 160), (200, 384, 256), (300, 136, 272)]
COUNTS = [[3, 0, 130, 67], [0, 0, 5], [128, 16]]


def exercise(types: tuple[str, ...] = ("bfloat16", "float32")) -> None:
    """Every operator once a shape: results are the tests' business, accesses are the tool's."""
    import torch

    from r1pipe_kernels.linear import FP8Linear, fp8_experts, fp8_gated_mlp
    from r1pipe_kernels.quantise import ops as quantise

    def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)

    for dtype in (getattr(torch, name) for name in types):
        for m, n, k in SHAPES:
            layer = FP8Linear(k, n, device="cuda", dtype=dtype)
            layer(random(m, k, dtype=dtype)).sum().backward()
            weight = layer._parameters["weight"]
            assert weight is not None
            weight.main_grad = torch.zeros(n, k, device="cuda")  # type: ignore[attr-defined]
            layer(random(m, k, dtype=dtype)).sum().backward()
            codes, scales, _, _ = quantise.quantise_weight(weight.detach())
            quantise.dequantise(codes, scales)
            quantise.quantise_columns(random(m, k, dtype=dtype).detach())
            parts = [random(128, k, dtype=dtype), random(128, k, dtype=dtype)]
            mlp = [*parts, random(n, 128, dtype=dtype)]
            fp8_gated_mlp(random(m, k, dtype=dtype), *mlp).sum().backward()
        for counts in COUNTS:
            edges = torch.tensor([0, *counts]).cumsum(0).int().cuda()
            experts = [
                random(len(counts), 256, 96, dtype=dtype),
                random(len(counts), 64, 128, dtype=dtype),
            ]
            x = random(sum(counts), 96, dtype=dtype)
            fp8_experts(x, *experts, edges).sum().backward()
            with torch.no_grad():
                fp8_experts(x, *experts, edges)
    torch.cuda.synchronize()


def program() -> str | None:
    usual = "/usr/local/cuda/bin/compute-sanitizer"
    named = os.environ.get("COMPUTE_SANITIZER") or shutil.which("compute-sanitizer")
    return named or (usual if os.access(usual, os.X_OK) else None)


def handovers() -> set[tuple[str, int]]:
    """(file, line) of every kernel's head, of its calls of `warp_specialize` and of the branch that
    chooses one of them, which is where the compiler says the call is."""
    from r1pipe_kernels.gemm import gluon_sm90 as gemm
    from r1pipe_kernels.grouped import gluon_sm90 as grouped

    from . import control

    kernels: list[Any] = [
        gemm.gemm, grouped.rows_kernel, grouped.reduce_kernel, control.control_kernel,
    ]  # fmt: skip
    found = set()
    for kernel in kernels:
        lines, first = inspect.getsourcelines(kernel.fn)
        name = os.path.basename(inspect.getsourcefile(kernel.fn) or "")
        for number, line in enumerate(lines, first):
            if line.startswith(("def ", "    if STRIPS")) or "warp_specialize(" in line:
                found.add((name, number))
    return found


def races(log: str) -> tuple[int, list[str]]:
    """How many reports are of the hand-over of work alone, and the others."""
    known, others, count = handovers(), [], 0
    for report in re.split(r"(?m)^(?========== (?:Error|Warning): )", log)[1:]:
        places = re.findall(r" in (\S+?\.py):(\d+)", report)
        if places and all((os.path.basename(f), int(n)) in known for f, n in places):
            count += 1
        else:
            others.append(report)
    return count, others


def check(sanitizer: str, tool: str) -> bool:
    """Run the operators under one tool; prints what it found, and returns whether that is none."""
    command = [
        sanitizer, "--tool", tool, "--error-exitcode", "1",
        "--print-limit", "100000" if tool == "racecheck" else "20",
        # torch's own kernels and copies are not ours to check, and take most of the time.
        "--kernel-name-exclude", "kernel_substring=at::native",
        sys.executable, "-m", __spec__.name, f"under {tool}",
    ]  # fmt: skip
    # Without torch's pool every tensor has bounds of its own.
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        print(f"{tool}: clean", flush=True)
        return True
    if tool == "racecheck" and "RACECHECK SUMMARY" in done.stdout:
        apart, others = races(done.stdout)
        print("".join(others[:20]), end="")
        print(f"{tool}: {len(others)} races; {apart} reports of work handed to warps", flush=True)
        return not others
    print(done.stdout, end="")
    print(f"{tool}: exit code {done.returncode}", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    inner = [f"under {tool}" for tool in TOOLS]
    parser.add_argument("tools", nargs="*", default=TOOLS, choices=[*TOOLS, *inner])
    options = parser.parse_args()
    if options.tools[0] in inner:
        exercise(("float32",) if "initcheck" in options.tools[0] else ("bfloat16", "float32"))
        if "racecheck" in options.tools[0]:
            from . import control

            control.run()
        return 0
    sanitizer = program()
    if sanitizer is None:
        print("compute-sanitizer is not here; set COMPUTE_SANITIZER", file=sys.stderr)
        return 2
    clean = [check(sanitizer, tool) for tool in options.tools]
    return int(not all(clean))


if __name__ == "__main__":
    sys.exit(main())
