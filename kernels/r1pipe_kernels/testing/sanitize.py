"""`python -m r1pipe_kernels.testing.sanitize [tool ...]`: every operator under compute-sanitizer.

Runs itself under each tool (memcheck, racecheck, synccheck, initcheck) with small shapes, odd ones
among them, forward and backward. Exit code 1 when a tool finds something; 2 without the program.
`COMPUTE_SANITIZER` names it where it is not on the path or in /usr/local/cuda.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
SHAPES = [(1, 128, 128), (70, 144, 160), (200, 384, 256), (300, 136, 272)]
COUNTS = [[3, 0, 130, 67], [0, 0, 5], [128, 16]]


def exercise() -> None:
    """Every operator once a shape: results are the tests' business, accesses are the tool's."""
    import torch

    from r1pipe_kernels.linear import FP8Linear, fp8_experts, fp8_gated_mlp
    from r1pipe_kernels.quantise import ops as quantise

    def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype, requires_grad=True)

    for dtype in (torch.bfloat16, torch.float32):
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="*", default=TOOLS, choices=[*TOOLS, "none"])
    options = parser.parse_args()
    if options.tools == ["none"]:
        exercise()
        return 0
    sanitizer = program()
    if sanitizer is None:
        print("compute-sanitizer is not here; set COMPUTE_SANITIZER", file=sys.stderr)
        return 2
    failed = []
    for tool in options.tools:
        command = [
            sanitizer, "--tool", tool, "--error-exitcode", "1", "--print-limit", "20",
            # torch's own kernels and copies are not ours to check, and take most of the time.
            "--kernel-name-exclude", "kernel_substring=at::native",
            sys.executable, "-m", __spec__.name, "none",
        ]  # fmt: skip
        # Without torch's pool every tensor has bounds of its own.
        env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        code = subprocess.run(command, env=env, check=False).returncode
        print(f"{tool}: {'clean' if code == 0 else f'exit code {code}'}", flush=True)
        failed += [tool] if code else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
