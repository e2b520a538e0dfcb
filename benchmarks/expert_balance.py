"""How evenly experts share skewed text with the bias update alone, and without any balancing.

    python benchmarks/expert_balance.py [--seeds 3] [--steps 160]

A small model with one MTP module learns texts of four skewed kinds, rows of unlike length padded on
the left, two micro-batches to an optimizer step, no balance loss. Figures are the highest load of
an expert over the mean, of the worst layer (the MTP module's is one), as `lowest-highest` of the
seeds. `window`: tokens of the last quarter of the steps counted together, as the trainer logs it;
`batch`: each of these steps by itself, and the mean of them. The biases move on by gamma at every
step, so that one batch tells more about the size of gamma than about what experts learn from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM, update_biases

TOKENS, ROWS, LENGTH = 60, 6, 32
"""Of the vocabulary (0 is padding beside it), and of one micro-batch."""
MICRO_BATCHES = 2
SHAPE: dict[str, Any] = {
    "vocab_size": TOKENS + 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,  # about 1 / sqrt(hidden_size): tokens differ from the first step on
    "balance_factor": 0.0,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "2 of 8": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "4 of 16, 2 of 4 groups": {
        **{"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2}
    },
}
Corpus = Callable[[torch.Generator], Tensor]


def zipf(generator: torch.Generator) -> Tensor:
    """Tokens of Zipf's law: the commonest is a quarter of the text."""
    shares = torch.arange(1, TOKENS + 1).float() ** -1.25
    drawn = torch.multinomial(shares, ROWS * LENGTH, replacement=True, generator=generator)
    return 1 + drawn.view(ROWS, LENGTH)


def one_token(generator: torch.Generator) -> Tensor:
    """Half of the text is one token."""
    ids = torch.randint(1, TOKENS + 1, (ROWS, LENGTH), generator=generator)
    return ids.masked_fill(torch.rand(ROWS, LENGTH, generator=generator) < 0.5, 7)


def topics(generator: torch.Generator) -> Tensor:
    """Rows are of three topics with tokens of their own; four fifths of the rows are of one."""
    shares, third = torch.tensor([0.8, 0.15, 0.05]), TOKENS // 3
    topic = torch.multinomial(shares, ROWS, replacement=True, generator=generator)
    within = torch.randint(0, third, (ROWS, LENGTH), generator=generator)
    return 1 + third * topic[:, None] + within


def walks(generator: torch.Generator) -> Tensor:
    """Small steps around few starts: what comes next can be learned."""
    start = 1 + 10 * torch.randint(0, 2, (ROWS, 1), generator=generator)
    steps = torch.randint(0, 3, (ROWS, LENGTH), generator=generator).cumsum(1)
    return 1 + (start + steps % 15) % TOKENS


CORPORA: dict[str, Corpus] = {
    "Zipf": zipf,
    "one token": one_token,
    "topics": topics,
    "walks": walks,
}


@dataclass
class Loads:
    """Highest over mean load of the worst layer."""

    first: float
    """Of the first step."""
    window: float
    """Of the last quarter of the steps together."""
    batch: float
    """Mean over the steps of that quarter, each by itself."""


def worst(load_LE: Tensor) -> float:
    """Return the highest load over the mean, of the worst layer."""
    return float((load_LE.amax(dim=1) / load_LE.mean(dim=1)).max())


def trained(corpus: Corpus, speed: float, seed: int, steps: int, **changes: Any) -> Loads:
    """Train a fresh model with the bias update of this `speed` as its only balancing."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DeepseekForCausalLM(DeepseekConfig(**{**SHAPE, **EXPERTS["2 of 8"], **changes})).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4)
    loads = []
    for _ in range(steps):
        for _ in range(MICRO_BATCHES):
            lengths = torch.randint(LENGTH // 2, LENGTH + 1, (ROWS, 1), generator=generator)
            mask = torch.arange(LENGTH) >= LENGTH - lengths
            ids = corpus(generator) * mask
            labels = ids.masked_fill(~mask, -100)
            (model(ids, attention_mask=mask.long(), labels=labels).loss / MICRO_BATCHES).backward()
        load_LE = update_biases(model, speed)
        assert load_LE is not None
        loads.append(load_LE)
        optimizer.step()
        optimizer.zero_grad()
    last = loads[-(steps // 4) :]
    singly = sum(worst(load_LE) for load_LE in last) / len(last)
    return Loads(worst(loads[0]), worst(torch.stack(last).sum(dim=0)), singly)


def spread(values: list[float]) -> str:
    """Return lowest and highest."""
    return f"{min(values):.2f}-{max(values):.2f}"


def main() -> None:
    """Print one row for each kind of text, number of experts and gamma."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--speeds", type=float, nargs="+", default=[0.0, 0.003, 0.01])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| text | experts | gamma | first step | window | batch |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, corpus in CORPORA.items():
        for experts, changes in EXPERTS.items():
            for speed in args.speeds:
                runs = [
                    trained(corpus, speed, seed, args.steps, **changes)
                    for seed in range(args.seeds)
                ]
                columns = [spread([getattr(r, c) for r in runs]) for c in vars(runs[0])]
                print(f"| {name} | {experts} | {speed:g} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
