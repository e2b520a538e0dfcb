"""Training in fp8_block against bf16, both in one run: loss, speed of a layer, speed of models.

    python benchmarks/fp8_training.py loss            loss curves, same seed and data; any machine
    python benchmarks/fp8_training.py layer           FP8Linear against nn.Linear; a GPU
    python benchmarks/fp8_training.py models          tokens per second and memory; a GPU

bf16 is float32 master weights under autocast, as `trainer.bf16=true` trains; fp8_block is the same
with `model.load.precision=fp8_block`. Without a GPU the products are the kernels' reference.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from r1pipe.models.building import deepseek_config
from r1pipe.models.deepseek import DeepseekForCausalLM
from r1pipe.models.loading import hf_defaults
from r1pipe.models.precision import apply_precision, kernels_package
from r1pipe.recipes import conf_dir
from r1pipe.schema import Load

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# DeepSeek-V3's architecture as wide as one CPU core can train for some hundred steps; every layer
# is at least one block of 128 wide and the hidden size is two.
SMALL = {
    "vocab_size": 256, "hidden_size": 256, "intermediate_size": 768, "moe_intermediate_size": 128,
    "num_hidden_layers": 4, "first_k_dense_replace": 1, "num_attention_heads": 4,
    "q_lora_rank": None, "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 32, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "num_nextn_predict_layers": 1,
    "max_position_embeddings": 512, "initializer_range": 0.02, "pad_token_id": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def options(precision: str, **fp8: Any) -> Load:
    defaults = hf_defaults()
    values = {
        **defaults,
        "dtype": "float32",
        "precision": precision if precision == "fp8_block" else None,
        "fp8": {**defaults["fp8"], **fp8},
    }
    return Load.model_validate(values)


def text(size: int) -> torch.Tensor:
    """Bytes of Python's own library, files in the order of their names."""
    found = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        found += path.read_bytes()
        if len(found) >= size:
            break
    return torch.frombuffer(found[:size], dtype=torch.uint8).long()


def loss_curve(
    model: nn.Module, precision: str, corpus: torch.Tensor, arguments: argparse.Namespace
) -> list[float]:
    """Train on the same batches in the same order; the loss of each step.

    `nudged` is bf16 from weights a rounding away: two runs that ought to be equal part that far.
    """
    model = copy.deepcopy(model)
    if precision == "nudged":
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.bfloat16())
    model = apply_precision(model, options(precision, min_features=64)).to(DEVICE)
    steps, rows, length = arguments.steps, arguments.rows, arguments.length
    optimizer = torch.optim.AdamW(
        model.parameters(), arguments.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 1 - 0.9 * (step - warm) / steps)
    )
    generator = torch.Generator().manual_seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    curve: list[float] = []
    started = time.perf_counter()
    for step in range(steps):
        starts = torch.randint(len(corpus) - length, (rows,), generator=generator)
        batch = torch.stack([corpus[s : s + length] for s in starts.tolist()]).to(DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision != "float32"):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.append(loss.item())
        if step % 25 == 24:
            each = (time.perf_counter() - started) / (step + 1)
            mean = statistics.mean(curve[-25:])
            print(f"{precision:10} {step + 1:5d} {mean:.4f} {each:6.2f} s a step", flush=True)
    return curve


def losses(arguments: argparse.Namespace) -> dict[str, Any]:
    """Gaps of the mean loss over the last steps; float32 beside it says what bf16 itself costs."""
    torch.manual_seed(arguments.seed)
    model = DeepseekForCausalLM(deepseek_config(SMALL, None))
    corpus = text(arguments.bytes)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.1f} M parameters, {arguments.rows} x {arguments.length} bytes a step")
    curves = {p: loss_curve(model, p, corpus, arguments) for p in arguments.precisions}
    last = min(50, arguments.steps)
    ends = {p: statistics.mean(curve[-last:]) for p, curve in curves.items()}
    print(f"\n| | loss, last {last} steps | over bf16 |\n|---|--:|--:|")
    for precision, end in ends.items():
        print(f"| {precision} | {end:.4f} | {100 * (end / ends['bf16'] - 1):+.3f} % |")
    others = [p for p in curves if p != "bf16"]
    print("\n| gap to bf16 over all steps so far | " + " | ".join(others) + " |")
    print("|--:|" + "--:|" * len(others))
    for step in range(last, arguments.steps + 1, last):
        mean = {p: statistics.mean(curve[:step]) for p, curve in curves.items()}
        gaps = [f"{100 * (mean[p] / mean['bf16'] - 1):+.3f} %" for p in others]
        print(f"| {step} | " + " | ".join(gaps) + " |")
    return {"curves": curves, "ends": ends}


def timed(
    calls: dict[str, Callable[[], object]], rounds: int, queued: int = 1
) -> dict[str, tuple[float, float]]:
    """Median seconds of each call and their spread, calls taking turns, `queued` at a time."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()  # pyright: ignore[reportCallIssue]
            for _ in range(queued):
                call()
            end.record()  # pyright: ignore[reportCallIssue]
            end.synchronize()
            samples[name].append(start.elapsed_time(end) / 1e3 / queued)
    return {
        name: (statistics.median(times), (max(times) - min(times)) / statistics.median(times))
        for name, times in samples.items()
    }


def torchao_layer(module: nn.Linear) -> nn.Module | None:
    """torchao's layer of the same recipe, where it is installed and takes the shape."""
    try:
        from torchao.prototype.blockwise_fp8_training.linear import Float8BlockwiseLinear

        return Float8BlockwiseLinear.from_float(copy.deepcopy(module))
    except (ImportError, AssertionError) as problem:
        print(f"<!-- torchao: {type(problem).__name__}: {str(problem)[:120]} -->")
        return None


def graphed(module: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], object]:
    """Forward and backward of a layer as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            torch.autograd.grad(module(x), [x, module.weight], dy)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        torch.autograd.grad(module(x), [x, module.weight], dy)
    return graph.replay


def layer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of one layer with bf16 weights, quantisation and its launches included.

    `weights kept`: several micro-batches an optimizer step, codes made once. `weights anew`: codes
    made in every pass, as with one micro-batch a step. `graph`: replayed as a CUDA graph, where the
    host's time for launching is none of it, with codes made anew. Ten passes are queued at a time,
    over two inputs in turn: an input that has not changed is quantised once.
    """
    kernels = kernels_package()
    found = {}
    for tokens, inputs, outputs in [
        (4096, 7168, 4608), (8192, 7168, 4608), (4096, 7168, 2048), (16384, 7168, 18432),
        (4096, 1536, 8960), (8192, 768, 2048),
    ]:  # fmt: skip
        pair = [
            torch.randn(tokens, inputs, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(2)
        ]
        dy = torch.randn(tokens, outputs, device=DEVICE, dtype=torch.bfloat16)
        bf16 = nn.Linear(inputs, outputs, bias=False, device=DEVICE, dtype=torch.bfloat16)
        fp8 = copy.deepcopy(bf16)
        fp8.__class__ = kernels.FP8Linear

        def call(module: nn.Module, anew: bool = False, pair: Any = pair, dy: Any = dy) -> None:
            if anew:
                kernels.invalidate()
            x = pair[0]
            pair.reverse()
            module(x).backward(dy)
            x.grad = None
            module.zero_grad(set_to_none=True)

        calls: dict[str, Callable[[], object]] = {
            "bf16": lambda m=bf16: call(m),
            "fp8, weights kept": lambda m=fp8: call(m),
            "fp8, weights anew": lambda m=fp8: call(m, True),
            "bf16, graph": graphed(bf16, pair[0], dy),
            "fp8, graph": graphed(fp8, pair[0], dy),
        }
        if theirs := torchao_layer(bf16):
            calls["torchao"] = lambda m=theirs: call(m)
        times = timed(calls, arguments.rounds, queued=10)
        key = f"{tokens} x {inputs} x {outputs}"
        found[key] = {name: value[0] for name, value in times.items()}
        for name, (seconds, spread) in times.items():
            base = times["bf16, graph" if "graph" in name else "bf16"][0]
            rate = 6 * tokens * inputs * outputs / seconds / 1e12
            print(
                f"| {key} | {name} | {seconds * 1e6:.0f} us | {rate:.0f} TFLOP/s | "
                f"{base / seconds:.2f} | {spread:.0%} |",
                flush=True,
            )
    return found


def built(name: str) -> Any:
    """A model to train, on the GPU, with float32 weights."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        if name == "mla_moe_300m":
            fields: dict[str, Any] = {}
            for part in ("mla_moe_30m", name):
                path = conf_dir() / "model" / f"{part}.yaml"
                fields |= yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
            fields |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
            return DeepseekForCausalLM(deepseek_config(fields, None))
        from transformers import Qwen2Config, Qwen2ForCausalLM

        # Qwen2.5-1.5B's config.json.
        config = Qwen2Config(
            vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
            num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        return Qwen2ForCausalLM(config)


def models(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of whole optimizer steps, and the most memory one took."""
    found: dict[str, Any] = {}
    for name in arguments.models:
        calls: dict[str, Callable[[], object]] = {}
        memory: dict[str, float] = {}
        for precision in ("bf16", "fp8_block"):
            model = apply_precision(built(name), options(precision, min_features=128))
            if arguments.checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
            vocabulary = model.config.vocab_size
            optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

            def call(
                model: Any = model, optimizer: Any = optimizer, vocabulary: int = vocabulary
            ) -> None:
                for _ in range(arguments.micro_batches):
                    ids = torch.randint(
                        vocabulary, (arguments.rows, arguments.length), device=DEVICE
                    )
                    with torch.autocast(DEVICE, torch.bfloat16):
                        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            memory[precision] = (torch.cuda.max_memory_allocated() - held) / 2**30
            calls[precision] = call
        times = timed(calls, arguments.rounds)
        tokens = arguments.micro_batches * arguments.rows * arguments.length
        for precision, (seconds, spread) in times.items():
            print(
                f"| {name} | {precision} | {tokens / seconds:,.0f} tokens/s | "
                f"{times['bf16'][0] / seconds:.2f} | {memory[precision]:.1f} GiB above the weights "
                f"| {spread:.0%} |",
                flush=True,
            )
        found[name] = {"seconds": {p: t[0] for p, t in times.items()}, "memory": memory}
        del calls, model, optimizer, call
        gc.collect()
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("loss", "layer", "models"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, help="of a batch: 4; of a micro-batch of `models`: 8")
    parser.add_argument("--length", type=int, help="tokens of a row: 256; of `models`: 4096")
    parser.add_argument("--bytes", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    known = ["bf16", "fp8_block", "nudged", "float32"]
    parser.add_argument("--precisions", nargs="+", default=known[:3], choices=known)
    parser.add_argument("--models", nargs="+", default=["mla_moe_300m", "qwen2_1.5b"])
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    small = arguments.what == "loss"
    arguments.rows = arguments.rows or (4 if small else 8)
    arguments.length = arguments.length or (256 if small else 4096)
    if not small and DEVICE != "cuda":
        parser.error(f"{arguments.what} is timed on a GPU")
    if "bf16" not in arguments.precisions:
        parser.error("--precisions: gaps are to bf16, which has to be among them")
    found = {"loss": losses, "layer": layer, "models": models}[arguments.what](arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
