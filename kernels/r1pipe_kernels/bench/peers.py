"""Other implementations of the same products, as far as this machine has them.

A `vllm` folder on the path is enough, unpacked from its wheel: its shared library, its DeepGEMM
and the text of its Triton kernel are loaded without importing vllm itself.
"""

import ast
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from r1pipe_kernels.formats import blocks
from r1pipe_kernels.quantise import ops as quantise

Forward = Callable[..., Callable[[], torch.Tensor]]


@cache
def _vllm() -> Path | None:
    for entry in sys.path:
        if (Path(entry) / "vllm").is_dir():
            return Path(entry) / "vllm"
    return None


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@cache
def deep_gemm():
    """DeepGEMM, its own package or the copy in vLLM's wheel."""
    if importlib.util.find_spec("deep_gemm"):
        return importlib.import_module("deep_gemm")
    folder = _vllm()
    assert folder, "no vllm folder on the path"
    return _load("deep_gemm", folder / "third_party/deep_gemm/__init__.py")


@cache
def _vllm_triton():
    """The block-scaled kernel out of vLLM's fp8_utils.py, alone."""
    folder = _vllm()
    assert folder, "no vllm folder on the path"
    utils = folder / "model_executor/layers/quantization/utils"
    text = (utils / "fp8_utils.py").read_text()
    wanted = "_w8a8_triton_block_scaled_mm"
    node = next(n for n in ast.parse(text).body if getattr(n, "name", "") == wanted)
    source = "\n".join(text.splitlines()[node.lineno - 2 : node.end_lineno])
    path = Path(tempfile.mkdtemp()) / "vllm_triton.py"
    path.write_text(f"import triton\nimport triton.language as tl\n\n\n{source}\n")
    return getattr(_load("vllm_triton", path), wanted), utils / "configs"


@cache
def _cutlass():
    folder = _vllm()
    assert folder, "no vllm folder on the path"
    torch.ops.load_library(str(folder / "_C_stable_libtorch.abi3.so"))
    return torch.ops._C.cutlass_scaled_mm


def cublaslt(a, a_s, b, b_s):
    kinds = torch.nn.functional.ScalingType
    padded = b_s.new_zeros(b_s.shape[0], -(-b_s.shape[1] // 4) * 4)
    padded[:, : b_s.shape[1]] = b_s
    right = padded[:, : b_s.shape[1]].t()
    return lambda: F.scaled_mm(
        a, b.t(), a_s.t(), kinds.BlockWise1x128, right, kinds.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )  # fmt: skip


def cublaslt_rows(a, a_s, b, b_s):
    kind = torch.nn.functional.ScalingType.BlockWise1x128
    return lambda: F.scaled_mm(a, b.t(), a_s.t(), kind, b_s.t(), kind, output_dtype=torch.float32)


def vllm_cutlass(a, a_s, b, b_s):
    run = _cutlass()
    out = torch.empty(a.shape[0], b.shape[0], dtype=torch.bfloat16, device=a.device)

    def call():
        run(out, a, b.t(), a_s.t(), b_s.t(), None)
        return out

    return call


def vllm_triton(a, a_s, b, b_s):
    kernel, configs = _vllm_triton()
    (m, k), n = a.shape, b.shape[0]
    name = f"N={n},K={k},device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    config = {
        "BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 32,
        "num_warps": 4, "num_stages": 2,
    }  # fmt: skip
    if (configs / name).exists():
        table = json.loads((configs / name).read_text())
        table = {int(key): value for key, value in table.items() if key.isdigit()}
        config = table[min(table, key=lambda key: abs(key - m))]
    out = torch.empty(m, n, dtype=torch.bfloat16, device=a.device)
    rows = a_s.t().contiguous()
    tiles = -(-m // config["BLOCK_SIZE_M"]) * -(-n // config["BLOCK_SIZE_N"])

    def call():
        kernel[(tiles,)](
            a, b, out, rows, b_s, m, n, k, 128, 128, a.stride(0), 1, 1, b.stride(0), n, 1,
            rows.stride(0), 1, 1, b_s.stride(0), **config,
        )  # fmt: skip
        return out

    return call


def deep_gemm_forward(a, a_s, b, b_s):
    module = deep_gemm()
    out = torch.empty(a.shape[0], b.shape[0], dtype=torch.bfloat16, device=a.device)

    def call():
        module.fp8_gemm_nt((a, a_s.t()), (b, b_s), out, disable_ue8m0_cast=True)
        return out

    return call


def deep_gemm_rows(a, a_s, b, b_s):
    module = deep_gemm()
    out = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float32, device=a.device)

    def call():
        module.fp8_gemm_nt(
            (a, a_s.t()), (b, b_s.t()), out, c=out, recipe=(1, 1, 128), disable_ue8m0_cast=True
        )
        return out

    return call


def deep_gemm_grouped(a, a_s, b, b_s, offsets):
    """Groups padded to 128 rows beforehand, as its layout asks; the padding is not timed."""
    module = deep_gemm()
    edges = offsets.tolist()
    rows, which = [], []
    for e, (start, end) in enumerate(itertools.pairwise(edges)):
        padded = blocks(end - start) * 128
        rows += [*range(start, end), *([start] * (padded - end + start))]
        which += [e] * padded
    index = torch.tensor(rows, device=a.device)
    left = a.view(torch.uint8)[index].view(a.dtype).contiguous()
    scales = a_s.t()[index].t().contiguous().t()
    which = torch.tensor(which, dtype=torch.int32, device=a.device)
    out = torch.empty(len(rows), b.shape[1], dtype=torch.bfloat16, device=a.device)

    def call():
        module.m_grouped_fp8_gemm_nt_contiguous(
            (left, scales), (b, b_s), out, which, disable_ue8m0_cast=True
        )
        return out

    return call


def deep_gemm_k_grouped(dy, x, offsets, out):
    """Weight gradients of experts, added to `out` [E, M, N]; tokens padded to 128 beforehand.

    Each group's codes lie as a matrix of their own, one after the other.
    """
    module = deep_gemm()

    def operand(tensor):
        codes, scales = [], []
        for start, end in itertools.pairwise(offsets.tolist()):
            rows = tensor[start:end]
            padded = F.pad(rows.float(), (0, 0, 0, blocks(end - start) * 128 - (end - start)))
            if end > start:
                part, scale = quantise.quantise_columns(padded.to(tensor.dtype))
                codes.append(part.contiguous().view(torch.uint8).flatten())
                scales.append(scale)
        return torch.cat(codes).view(torch.float8_e4m3fn), torch.cat(scales).t()

    left, right = operand(dy), operand(x)
    counts = [blocks(end - start) * 128 for start, end in itertools.pairwise(offsets.tolist())]
    on_card = torch.tensor(counts, dtype=torch.int32, device=x.device)

    def call():
        module.k_grouped_fp8_gemm_nt_contiguous(left, right, out, counts, on_card, out)
        return out

    return call


@cache
def _torchao():
    from torchao.prototype.blockwise_fp8_training import kernels

    return kernels


def torchao(a, a_s, b, b_s):
    run = _torchao().triton_fp8_gemm_1x128_128x128
    return lambda: run(a, b.t(), a_s.t(), b_s.t(), out_dtype=torch.bfloat16)


def torchao_rows(a, a_s, b, b_s):
    run = _torchao().triton_fp8_gemm_1x128_128x1
    return lambda: run(a, b.t(), a_s.t(), b_s, out_dtype=torch.float32)


FORWARD: dict[str, Forward] = {
    "cuBLASLt": cublaslt,
    "DeepGEMM": deep_gemm_forward,
    "vLLM CUTLASS": vllm_cutlass,
    "vLLM Triton": vllm_triton,
    "torchao": torchao,
}
REDUCE: dict[str, Forward] = {
    "cuBLASLt": cublaslt_rows,
    "DeepGEMM": deep_gemm_rows,
    "torchao": torchao_rows,
}
