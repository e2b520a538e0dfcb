"""What flipping routers do to likelihood ratios, and what is left of it under routing replay.

    python benchmarks/router_replay.py [--model FOLDER] [--steps 150]

A model scores its own text as an engine would (weights and arithmetic in another precision, or
weights of some updates ago); then the trainer scores it, choosing experts itself or replaying the
engine's. One row each: share of (token, layer) pairs and of tokens that meet other experts, mean
and largest |log ratio| in nats, and the share of tokens whose ratio is beyond a factor of 2.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from r1pipe.data.arithmetic import rows
from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from r1pipe.models.deepseek.replay import record_routes, replay_routes
from r1pipe.models.loading import load_causal_lm, load_tokenizer
from r1pipe.models.tiny import build_tiny_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_nextn_predict_layers": 0,
    "initializer_range": 0.04,
}
ROWS, LENGTH = 16, 96


def main() -> None:
    """Train or load a model, then compare engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a DeepSeek-V3 folder; default: a small one, trained here")
    parser.add_argument("--steps", type=int, default=150, help="training steps of the small one")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if args.model:
        model, tokenizer = load_causal_lm(args.model, dtype="float32"), load_tokenizer(args.model)
        batches = text(tokenizer)
    else:
        tokenizer = build_tiny_tokenizer()
        config = DeepseekConfig(vocab_size=len(tokenizer), pad_token_id=0, **SHAPE)
        model, batches = DeepseekForCausalLM(config), text(tokenizer)
        print(f"trained to a loss of {train(model, batches, args.steps):.3f}")
    ids = next(batches)
    model.eval()
    print(
        f"{'engine':24} {'pairs':>7} {'tokens':>7} {'replay':>7} {'mean':>9} {'max':>9} {'x2':>8}"
    )
    for name, engine in engines(model, batches):
        compare(name, model, engine, ids)


def text(tokenizer: Any) -> Iterator[Tensor]:
    """Yield batches [ROWS, LENGTH] of arithmetic, one text after the other."""
    seed = 0
    while True:
        lines = [row["prompt"] + row["completion"] for row in rows("train", seed, 40 * ROWS)]
        ids = torch.tensor([i for line in lines for i in tokenizer(line).input_ids])
        yield from ids[: len(ids) // (ROWS * LENGTH) * ROWS * LENGTH].view(-1, ROWS, LENGTH)
        seed += 1


def train(model: Any, batches: Iterator[Tensor], steps: int, rate: float = 2e-3) -> float:
    """Take optimizer steps on the next batches; returns the last loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    loss = torch.zeros(())
    for _ in range(steps):
        ids = next(batches)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def engines(model: Any, batches: Iterator[Tensor]) -> Iterator[tuple[str, Any]]:
    """Yield models that stand for a rollout engine, or for the policy of some updates ago."""
    yield "the trainer itself", model
    yield "bfloat16", copy.deepcopy(model).bfloat16()
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if weight.ndim > 1 and "gate.weight" not in name and "embed" not in name:
                scale = weight.abs().max() / 448
                weight.copy_((weight / scale).to(torch.float8_e4m3fn).float() * scale)
    yield "weights in float8", rounded
    for steps in (1, 4, 16):
        moved = copy.deepcopy(model)
        train(moved, batches, steps, rate=1e-5)
        yield f"{steps} updates ago, lr 1e-5", moved.eval()


@torch.no_grad()
def compare(name: str, model: Any, engine: Any, ids: Tensor) -> None:
    """Print the rows of one engine."""
    with record_routes(engine) as recorder:
        written = logps(engine, ids)
    routes = recorder.take()
    with record_routes(model) as recorder:
        live = logps(model, ids)
    flips = (routes.sort(-1).values != recorder.take().sort(-1).values).any(-1)
    with replay_routes(model, routes):
        replayed = logps(model, ids)
    shares = f"{float(flips.float().mean()):7.2%} {float(flips.any(-1).float().mean()):7.2%}"
    for replay, found in (("no", live), ("yes", replayed)):
        gap = (found - written).abs()
        beyond = float((gap > 0.6931).float().mean())
        print(
            f"{name:24} {shares} {replay:>7} {float(gap.mean()):9.2e} {float(gap.max()):9.2e} "
            f"{beyond:8.3%}"
        )


def logps(model: Any, ids: Tensor) -> Tensor:
    found = model(ids).logits[:, :-1].float().log_softmax(-1)
    return found.gather(-1, ids[:, 1:, None]).squeeze(-1)


if __name__ == "__main__":
    main()
