"""Tokens per second of the ways to write completions with a small model, side by side.

    python benchmarks/rollouts.py                      # one CPU thread: compact beside `generate`
    python benchmarks/rollouts.py --device cuda        # fixed places: rows, graphs, experts, shares

A figure is the best of a few rounds taken in turn, so that a busy machine slows all alike. The
models are untrained: so that their completions are as long as a trained one's on the arithmetic
task (some 40 tokens of up to 160, in any mixture), several tokens count as the end of one. On a CPU
seconds are the process's own.
On a GPU three tables are printed: one decoding step by itself, with what share of it attention and
experts are; whole rollouts with the share of reading prompts, decoding and handing over; and, with
`--profile`, the kernels of a step.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from r1pipe.data.arithmetic import rows
from r1pipe.models.building import deepseek_v3
from r1pipe.models.loading import load_causal_lm, load_tokenizer
from r1pipe.models.tiny import build_tiny_tokenizer, tiny_config, tiny_qwen3
from r1pipe.rollout import steps
from r1pipe.rollout.choosing import Choosing
from r1pipe.rollout.compact import write
from r1pipe.rollout.engine import generate_with_transformers
from r1pipe.rollout.slot_loop import SlotLoop, capacity_for, release, slots_for
from r1pipe.rollout.slots import Slots
from r1pipe.rollout.steps import make_step
from r1pipe.schema import Fp8, Load

ROUNDS = 3
CONF = Path(__file__).parents[1] / "conf" / "model"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Measure on the device asked for."""
    parser = argparse.ArgumentParser(description="Speed of rollouts.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    names = "tiny_qwen3, qwen3_30m, a DeepSeek model of conf/model, or a folder"
    parser.add_argument("--models", nargs="+", help=names)
    parser.add_argument("--rows", type=int, nargs="+", help="rows at once")
    parser.add_argument("--prompts", type=int, help="completions in all; default: the rows")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--ends", type=int, default=4, help="other tokens that end a completion")
    parser.add_argument("--dtypes", nargs="+", choices=list(PRECISIONS), help="of the decoding")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="also list a step's kernels")
    parser.add_argument(
        "--dry-run", action="store_true", help="the GPU's tables with small numbers, on a CPU"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.dry_run:
        steps.MOST_PARAMETERS["cpu"] = steps.MOST_PARAMETERS["cuda"]
    if args.device == "cpu" and not args.dry_run:
        on_cpu(args)
    else:
        on_gpu(args)


def on_cpu(args: argparse.Namespace) -> None:
    """Compare the compact loop with `generate`, for one model after the other."""
    print(
        f"{'model':14} {'dtype':9} {'rows':>5} {'generate tok/s':>15} {'compact':>9} {'ratio':>6}"
    )
    cases = itertools.product(args.models or ["tiny_qwen3", "tiny_mla_moe"], args.rows or [64, 512])
    for name, size in cases:
        model, tokenizer = build(name)
        prompts = prompts_of(tokenizer, args.prompts or size)
        for dtype in args.dtypes or ["float32"]:
            model.to(PRECISIONS[dtype])
            options = options_of(tokenizer, args.max_tokens, size, ends_of(args))
            engines = {
                "generate": lambda m=model, p=prompts, o=options: generate_with_transformers(
                    m, p, **o
                ),
                "compact": lambda m=model, p=prompts, o=options: write(m, p, **o).ids,
            }
            best = best_of(engines, args.rounds, "cpu")
            ratio = best["compact"] / best["generate"]
            print(
                f"{name:14} {dtype:9} {size:5d} {best['generate']:15,.0f} {best['compact']:9,.0f} "
                f"{ratio:6.1f}",
                flush=True,
            )


def on_gpu(args: argparse.Namespace) -> None:
    """Print the tables of steps, of whole rollouts and, if asked for, of kernels."""
    device = "cpu" if args.dry_run else "cuda"
    sizes = args.rows or ([4, 8] if args.dry_run else [1024, 4096, 8192, 16384])
    limit = 6 if args.dry_run else args.max_tokens
    graphs = [False] if args.dry_run else [True, False]
    default = ["tiny_qwen3", "tiny_mla_moe", "mla_moe_30m", "qwen3_30m"]
    for name in args.models or default:
        model, tokenizer = build(name)
        model.to(device)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"\n{name}: {parameters:.1f} M parameters, completions of up to {limit} tokens")
        ways = ["dense", "grouped"] if getattr(model.config, "kv_lora_rank", None) else [None]
        variants = [
            (dtype, graph, way)
            for dtype in args.dtypes or ["bfloat16"]
            for graph in graphs
            for way in ways
            # On a GPU torch multiplies groups in bfloat16 alone without waiting for the host.
            if not (way == "grouped" and dtype == "float32" and device == "cuda")
        ]
        step_table(model, sizes, limit, variants, device, args.profile)
        rollout_table(model, tokenizer, sizes, limit, variants, args)
        if device == "cuda":
            torch.cuda.empty_cache()


def step_table(
    model: Any,
    sizes: Sequence[int],
    limit: int,
    variants: Sequence[tuple[str, bool, str | None]],
    device: str,
    profile: bool,
) -> None:
    """One step at half of the completions' length, all rows alive."""
    print(f"{'one step':30} {'rows':>6} {'ms':>8} {'tok/s at most':>14} {'attention':>10}")
    choosing = Choosing(1.0, 1.0, (1,), 0)
    for (dtype, graph, way), size in itertools.product(variants, sizes):
        title = variant_title(dtype, graph, way)
        with refused(title, size), torch.inference_mode():
            capacity = capacity_for(model, 24 + limit)
            step: Any = make_step(model, capacity, PRECISIONS[dtype], way)
            slots = slots_for(model, step, size, capacity, keep=False)
            if slots.rows < size:
                raise ValueError("not enough memory for so many rows")
            place_anything(slots, model, size, 16 + limit // 2)
            length = min(capacity, 64 * -(-(24 + limit // 2) // 64))
            move = slots.advance_by_graph if graph else slots.advance

            def once(move=move, size=size, length=length) -> None:
                move(choosing, False, size, length)

            taken = seconds_of(once, device)
            step.layers = [idle] * len(step.layers)  # what is left is everything else
            slots.forget_graphs()
            rest = seconds_of(once, device)
            print(
                f"{title:30} {size:6d} {taken * 1e3:8.3f} {size / taken:14,.0f} "
                f"{max(0.0, 1 - rest / taken):10.0%}",
                flush=True,
            )
    if profile:
        kernels(model, sizes[-1], limit, variants[0], device)


def idle(hidden: torch.Tensor, *_: Any) -> torch.Tensor:
    """Stand in for attention and do nothing: the difference is what attention takes."""
    return hidden


def kernels(
    model: Any, size: int, limit: int, variant: tuple[str, bool, str | None], device: str
) -> None:
    """List the operations of one step, run without a graph."""
    from torch.profiler import ProfilerActivity, profile

    dtype, _, way = variant
    choosing = Choosing(1.0, 1.0, (1,), 0)
    with torch.inference_mode():
        capacity = capacity_for(model, 24 + limit)
        step: Any = make_step(model, capacity, PRECISIONS[dtype], way)
        slots = slots_for(model, step, size, capacity, keep=False)
        place_anything(slots, model, size, 16 + limit // 2)
        slots.advance(choosing, False, size, capacity)
        activities = [ProfilerActivity.CPU]
        if device == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as seen:
            slots.advance(choosing, False, size, capacity)
            synchronize(device)
    order = f"self_{device}_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))


def rollout_table(
    model: Any,
    tokenizer: Any,
    sizes: Sequence[int],
    limit: int,
    variants: Sequence[tuple[str, bool, str | None]],
    args: argparse.Namespace,
) -> None:
    """Whole rollouts, first call (which captures graphs) and best of the later ones."""
    device = "cpu" if args.dry_run else "cuda"
    head = f"{'rollout':30} {'rows':>6} {'first s':>8} {'tok/s':>11} {'read':>6} {'decode':>7}"
    print(f"{head} {'hand over':>10} {'peak GiB':>9}")
    for (dtype, graph, way), size in itertools.product(variants, sizes):
        title = variant_title(dtype, graph, way)
        prompts = prompts_of(tokenizer, args.prompts or size)
        options: dict[str, Any] = {
            **options_of(tokenizer, limit, size, ends_of(args)),
            **{"dtype": PRECISIONS[dtype], "experts": way, "graphs": graph, "loop": "slots"},
        }

        def once(prompts=prompts, options=options) -> list[list[int]]:
            return write(model, prompts, **options).ids

        release(model)
        with refused(title, size):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            first = seconds_of(once, device, warm_up=0, repeat=1)
            best = best_of({"slots": once}, args.rounds, device)["slots"]
            shares = shares_of(once, device)
            peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
            told = f"{shares['_admit']:6.0%} {shares['_advance']:7.0%} {shares['_collect']:10.0%}"
            print(f"{title:30} {size:6d} {first:8.2f} {best:11,.0f} {told} {peak:9.1f}", flush=True)
    release(model)
    size = sizes[0]
    prompts, options = (
        prompts_of(tokenizer, size),
        options_of(tokenizer, limit, size, ends_of(args)),
    )
    others = {
        "growing cache, modules' dtype": lambda: (
            write(model, prompts, **options, loop="growing").ids
        ),
        "generate, modules' dtype": lambda: generate_with_transformers(model, prompts, **options),
    }
    for title, found in best_of(others, 1, device).items():
        print(f"{title:30} {size:6d} {'':8} {found:11,.0f}", flush=True)


def build(name: str) -> tuple[Any, Any]:
    """Return an untrained float32 model of that name, or the one in a folder, and its tokenizer."""
    load = Load(**load_settings())
    if name == "tiny_qwen3":
        model, tokenizer = tiny_qwen3("xs", seed=0)
    elif name == "qwen3_30m":  # dense, as wide as mla_moe_30m
        from transformers import Qwen3ForCausalLM

        config = tiny_config("m")
        shape = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
        shape |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
        config.update(shape)
        config.layer_types = ["full_attention"] * 8
        model, tokenizer = Qwen3ForCausalLM(config), build_tiny_tokenizer()
    elif (CONF / f"{name}.yaml").is_file():
        content = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
        model, tokenizer = deepseek_v3(None, 0, content["config"], load)
    else:
        model, tokenizer = load_causal_lm(name, load), load_tokenizer(name, load)
    return model.eval(), tokenizer


def load_settings() -> dict[str, Any]:
    """Return what conf/model/tiny.yaml says about loading."""
    content = yaml.safe_load((CONF / "tiny.yaml").read_text(encoding="utf-8"))["load"]
    return {**content, "fp8": Fp8(**content["fp8"])} if "fp8" in content else content


def prompts_of(tokenizer: Any, count: int) -> list[list[int]]:
    return [tokenizer(row["prompt"]).input_ids for row in rows("train", 0, count)]


def options_of(tokenizer: Any, max_tokens: int, batch_size: int, more_ends: int) -> dict[str, Any]:
    return {
        "max_new_tokens": max_tokens,
        "temperature": 1.0,
        "eos_token_id": [tokenizer.eos_token_id, *range(10, 10 + more_ends)],
        "pad_token_id": tokenizer.pad_token_id,
        "batch_size": batch_size,
    }


def ends_of(args: argparse.Namespace) -> int:
    """Return how many tokens end a completion beside the end token; a folder's model is trained."""
    return 0 if args.models and any(Path(name).is_dir() for name in args.models) else args.ends


def variant_title(dtype: str, graph: bool, way: str | None) -> str:
    return f"{dtype} {'graph' if graph else 'eager'} {way or ''}".strip()


def place_anything(slots: Slots, model: Any, rows: int, length: int) -> None:
    """Fill places with rows in the middle of a completion; what they hold does not matter."""
    step: Any = slots.step
    cache = SlotLoop(model, slots, rows, 1, Choosing(0.0, 1.0, (1,), 0), 0, graphs=False)
    device = slots.device
    states, _ = cache._read(torch.full((1, 2), 3, device=device), torch.tensor([2]))
    slots.prepare(slots.capacity, logprobs=False, routes=False)
    index = torch.arange(rows, device=device)
    slots.place(index, states, torch.zeros_like(index))
    slots.token[:rows], slots.position[:rows], slots.count[:rows] = 3, length, 1
    slots.live[:rows] = True
    assert step.embedding.device == slots.device


def seconds_of(
    once: Callable[[], Any], device: str, warm_up: int = 2, repeat: int | None = None
) -> float:
    """Return the mean time of one call; a step moves rows on, so that few are made."""
    repeat = repeat or (8 if device == "cuda" else 2)
    for _ in range(warm_up):
        once()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeat):
        once()
    synchronize(device)
    return (time.perf_counter() - started) / repeat


def best_of(
    engines: dict[str, Callable[[], list[list[int]]]], rounds: int, device: str
) -> dict[str, float]:
    """Return each engine's best tokens per second, all with the same seed."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = dict.fromkeys(engines, 0.0)
    for _ in range(rounds):
        for name, engine in engines.items():
            torch.manual_seed(0)
            synchronize(device)
            started = clock()
            tokens = sum(map(len, engine()))
            synchronize(device)
            best[name] = max(best[name], tokens / (clock() - started))
    return best


def shares_of(once: Callable[[], Any], device: str) -> dict[str, float]:
    """Return the shares of one call's time of reading prompts, decoding and handing over."""
    names = ["_admit", "_advance", "_collect"]
    spent = dict.fromkeys(names, 0.0)

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            started = time.perf_counter()
            result = method(*args)
            synchronize(device)
            spent[name] += time.perf_counter() - started
            return result

        return call

    originals = {name: getattr(SlotLoop, name) for name in names}
    for name, method in originals.items():
        setattr(SlotLoop, name, timed(name, method))
    try:
        whole = seconds_of(once, device, warm_up=0, repeat=1)
    finally:
        for name, method in originals.items():
            setattr(SlotLoop, name, method)
    return {name: value / whole for name, value in spent.items()}


@contextmanager
def refused(title: str, size: int) -> Iterator[None]:
    """Print why a variant cannot run here, and go on with the next."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        print(f"{title:30} {size:6d} {str(error).splitlines()[0][:90]}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
