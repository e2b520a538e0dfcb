"""The DeepSeek model beside stock transformers': training tokens and decoding steps per second.

    python benchmarks/model_speed.py                        # one GPU: mla_moe_300m in bfloat16
    python benchmarks/model_speed.py --device cpu --tiny    # a dry run in seconds

Both sides have the same weights, batch and objective and run in turns, so that a busy machine slows
all alike. Training is forward, backward and fused AdamW of full rows without padding, for the plain
next-token loss; "all losses" adds the balance and MTP losses and the bias update, which stock has
not. Decoding is greedy after a full context; the time to read the prompt is taken off.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM, update_biases
from r1pipe.models.deepseek.pieces import unfused
from r1pipe.rollout import compact

CONF = Path(__file__).parents[1] / "conf" / "model"
SHAPE = "mla_moe_300m"
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass
class Contestant:
    """One way to do the work, and the seconds each round of it took."""

    name: str
    run: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    result: Any = None
    memory: float = 0.0
    """GiB allocated at most."""


def main() -> None:
    """Measure on the device asked for, and print one table per kind of work."""
    parser = argparse.ArgumentParser(description="Speed of the DeepSeek model beside stock.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--only", choices=["train", "decode"])
    parser.add_argument("--shape", default=SHAPE, help="a DeepSeek model of conf/model")
    parser.add_argument("--batch", type=int, default=8, help="rows of a training step")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=4, help="training steps of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64], help="decoded at once")
    parser.add_argument("--context", type=int, default=4096, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens decoded after it")
    parser.add_argument("--attention", choices=list(KERNELS), help="force torch's kernel, for all")
    asked = parser.parse_args()
    if asked.tiny:
        asked.batch, asked.length, asked.steps, asked.rounds = 2, 32, 1, 2
        asked.rows, asked.context, asked.new = [1, 2], 32, 4
    forced = sdpa_kernel(KERNELS[asked.attention]) if asked.attention else nullcontext()
    with forced:
        if asked.only != "decode":
            train(asked)
        if asked.only != "train":
            for rows in asked.rows:
                decode(asked, rows)


def shape_of(asked: Any) -> dict[str, Any]:
    """Return the fields of the model's shape, as its file in conf/model gives them."""

    def read(name: str) -> dict[str, Any]:
        content = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
        fields: dict[str, Any] = {}
        for base in content.get("defaults", []):
            if base != "_self_":
                fields |= read(base)
        return fields | (content.get("config") or {})

    fields = read(asked.shape) | (TINY if asked.tiny else {})
    longest = max(asked.length, asked.context + asked.new + 1)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    heads = fields["num_attention_heads"]
    return {**fields, **ends, "num_key_value_heads": heads, "max_position_embeddings": longest}


def stock_model(asked: Any) -> Any:
    """Return transformers' model with random weights; experts as its default, grouped products."""
    torch.manual_seed(0)
    fields = {**shape_of(asked), "num_nextn_predict_layers": 0}
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**fields))
    return model.to(asked.device, precision(asked))


def our_model(asked: Any, stock: Any, **changes: Any) -> DeepseekForCausalLM:
    """Return our model with stock's weights."""
    model = DeepseekForCausalLM(DeepseekConfig(**{**shape_of(asked), **changes}))
    model.load_state_dict(stock.state_dict(), strict=False)
    return model.to(asked.device, precision(asked))


def precision(asked: Any) -> torch.dtype:
    return torch.bfloat16 if asked.device == "cuda" else torch.float32


def train(asked: Any) -> None:
    """Print tokens per second of training."""
    stock = stock_model(asked)
    generator = torch.Generator().manual_seed(1)
    vocabulary = stock.config.vocab_size
    ids = torch.randint(1, vocabulary, (asked.batch, asked.length), generator=generator)
    ids = ids.to(asked.device)
    same = {"num_nextn_predict_layers": 0, "balance_factor": 0.0}
    ours = our_model(asked, stock, **same)
    kernel_by_kernel = our_model(asked, stock, **same)
    whole = our_model(asked, stock)
    contestants = [
        Contestant("stock", stepper(asked, stock, ids)),
        Contestant("ours", stepper(asked, ours, ids)),
        Contestant("ours, unfused pieces", stepper(asked, kernel_by_kernel, ids, unfused)),
        Contestant("ours, all losses", stepper(asked, whole, ids)),
    ]
    measure(asked, contestants)
    tokens = asked.batch * asked.length * asked.steps
    parameters = sum(p.numel() for p in stock.parameters()) / 1e6
    print(
        f"\ntraining, {asked.shape}: {parameters:.0f} M parameters, {asked.batch} rows of "
        f"{asked.length} tokens, {precision(asked)}"
    )
    table(contestants, tokens, "tokens/s", lambda found: f"first loss {found:.4f}")


def stepper(
    asked: Any,
    model: Any,
    ids: Tensor,
    inside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], float]:
    """Return what trains `model` for one round and gives back the first loss of all."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    first: list[Tensor] = []

    def run() -> float:
        with inside():
            for _ in range(asked.steps):
                loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                update_biases(model, 0.001)
                optimizer.step()
                optimizer.zero_grad()
                first.append(loss.detach())
        return float(first[0])

    return run


def decode(asked: Any, rows: int) -> None:
    """Print decoding steps per second of `rows` at once, after a prompt of `context` tokens."""
    stock = stock_model(asked).eval()
    ours = our_model(asked, stock, num_nextn_predict_layers=0).eval()
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, stock.config.vocab_size, (rows, asked.context), generator=generator)
    ids = ids.to(asked.device)

    def generating(model: Any, new: int) -> Callable[[], Any]:
        options = {
            "do_sample": False,
            "max_new_tokens": new,
            "attention_mask": torch.ones_like(ids),
        }
        return lambda: model.generate(ids, **options)[:, asked.context :].tolist()

    def writing(new: int) -> Callable[[], Any]:
        prompts = ids.tolist()
        options: dict[str, Any] = {"max_new_tokens": new, "temperature": 0.0, "batch_size": rows}
        # Nothing ends: the end token is one past the vocabulary's last.
        options |= {"eos_token_id": stock.config.vocab_size, "pad_token_id": 0}
        return lambda: compact.write(ours, prompts, **options).ids

    ways = {
        "stock generate": lambda new: generating(stock, new),
        "ours, generate": lambda new: generating(ours, new),
        "ours, compact loop": writing,
    }
    whole = [Contestant(name, way(asked.new + 1)) for name, way in ways.items()]
    reading = [Contestant(name, way(1)) for name, way in ways.items()]
    measure(asked, [*whole, *reading])
    for contestant, prompt in zip(whole, reading, strict=True):
        offset = statistics.median(prompt.seconds)
        contestant.seconds = [max(seconds - offset, 1e-9) for seconds in contestant.seconds]
    expected = whole[0].result
    print(f"\ndecoding, {asked.shape}: {rows} rows after {asked.context} tokens")

    def agreement(tokens: Any) -> str:
        same = torch.tensor(tokens) == torch.tensor(expected)
        return f"{same.float().mean():.0%} of stock's tokens"

    table(whole, rows * asked.new, "tokens/s", agreement)


def measure(asked: Any, contestants: list[Contestant]) -> None:
    """Run every contestant once to warm up, then all in turns."""
    on_gpu = asked.device == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    for number in range(asked.rounds + 1):
        for contestant in contestants:
            wait()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with torch.autograd.set_grad_enabled(True):
                contestant.result = contestant.run()
            wait()
            if number:
                contestant.seconds.append(time.perf_counter() - start)
                if on_gpu:
                    peak = torch.cuda.max_memory_allocated() / 2**30
                    contestant.memory = max(contestant.memory, peak)
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()


def table(
    contestants: list[Contestant], work: int, unit: str, remark: Callable[[Any], str]
) -> None:
    """Print medians with the spread of the rounds, and how many times the first one's speed."""
    base = statistics.median(contestants[0].seconds)
    print(f"{'':24}{unit:>12}{'slowest':>12}{'fastest':>12}{'times':>8}{'GiB':>8}")
    for contestant in contestants:
        median = statistics.median(contestant.seconds)
        print(
            f"{contestant.name:24}{work / median:12,.0f}{work / max(contestant.seconds):12,.0f}"
            f"{work / min(contestant.seconds):12,.0f}{base / median:8.2f}{contestant.memory:8.1f}"
            f"   {remark(contestant.result)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
