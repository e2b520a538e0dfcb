"""What MTP drafts save on a trained tiny model: accepted share and tokens per forward pass.

    python benchmarks/speculation.py                # trains some minutes on one CPU thread
    python benchmarks/speculation.py --steps 5 --prompts 8 --new 8      # a dry run

The model of conf/model/tiny_mla_moe is trained on worked arithmetic, then continues prompts of
mixed length in one batch, greedily, with drafts and without: the tokens must be the same. V3 has
85 to 90 % of its drafts accepted (arXiv 2412.19437, 5.4.3).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from r1pipe.data import traces
from r1pipe.models.building import deepseek_v3
from r1pipe.models.deepseek import update_biases
from r1pipe.models.deepseek.speculation import speculate
from r1pipe.models.loading import hf_defaults
from r1pipe.schema import Load

CONF = Path(__file__).parents[1] / "conf" / "model" / "tiny_mla_moe.yaml"


def main() -> None:
    """Train, generate both ways, print what was accepted."""
    parser = argparse.ArgumentParser(description="Self-speculative decoding with MTP modules.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=32, help="of a training step")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--new", type=int, default=96, help="tokens after a prompt, at most")
    parser.add_argument("--mtp-weight", type=float, default=0.3, help="lambda; V3 starts with 0.3")
    asked = parser.parse_args()
    fields = yaml.safe_load(CONF.read_text(encoding="utf-8"))["config"]
    fields["mtp_loss_weight"] = asked.mtp_weight
    load = Load.model_validate(hf_defaults())
    model, tokenizer = deepseek_v3("xs", 0, fields, load)
    train(model, tokenizer, asked)
    ids, mask = prompts(tokenizer, asked.prompts)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": asked.new}
    options |= {"eos_token_id": end, "pad_token_id": pad, "attention_mask": mask}
    start = time.perf_counter()
    plain = model.generate(ids, **options)
    plain_seconds = time.perf_counter() - start
    start = time.perf_counter()
    made = speculate(model, ids, mask, asked.new, [end], pad)
    seconds = time.perf_counter() - start
    width = plain.shape[1] - ids.shape[1]
    new = plain[:, ids.shape[1] :]
    tokens = int(((new == end).cumsum(dim=1) - (new == end).long() == 0).sum())
    lengths = mask.sum(dim=1)
    print(f"{asked.prompts} prompts of {int(lengths.min())} to {int(lengths.max())} tokens")
    print(f"same tokens as without drafts: {torch.equal(made.sequences, plain)}")
    print(f"drafts accepted: {made.accepted} of {made.drafted}, {made.acceptance:.1%}")
    each = asked.prompts + made.drafted
    print(f"tokens per forward pass of a row: {tokens / each:.2f} ({tokens} in {each})")
    batch = made.forward_passes
    print(f"passes of the batch, which its slowest row decides: {batch} instead of {width}")
    print(f"seconds: {seconds:.1f} instead of {plain_seconds:.1f}")


def train(model: Any, tokenizer: Any, asked: Any) -> None:
    """Train on worked problems, prompt and solution alike, with the balance and MTP losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=asked.steps, pct_start=min(0.1, 10 / asked.steps)
    )
    model.train()
    start = time.perf_counter()
    for step, (ids, labels) in enumerate(batches(tokenizer, asked), start=1):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update_biases(model, model.config.bias_update_speed)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == asked.steps:
            spent = time.perf_counter() - start
            print(f"step {step}: loss {loss.item():.3f}, {spent:.0f} s", flush=True)
    model.eval()


def batches(tokenizer: Any, asked: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Return rows of tokens with labels, -100 where padded."""
    texts = traces.rows("train", 0, asked.steps * asked.rows)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    for _ in range(asked.steps):
        rows = [next(texts) for _ in range(asked.rows)]
        tokens = [tokenizer(row["prompt"] + row["completion"]).input_ids for row in rows]
        longest = max(map(len, tokens)) + 1
        padded = [row + [end] + [pad] * (longest - 1 - len(row)) for row in tokens]
        labels = [row + [end] + [-100] * (longest - 1 - len(row)) for row in tokens]
        yield torch.tensor(padded), torch.tensor(labels)


def prompts(tokenizer: Any, count: int) -> tuple[Tensor, Tensor]:
    """Return questions of the test split, cut into the solution here and there; left-padded."""
    generator = torch.Generator().manual_seed(5)
    tokens = []
    for row in traces.rows("test", 1, count):
        given = tokenizer(row["completion"]).input_ids
        kept = int(torch.randint(0, len(given) // 2, (1,), generator=generator))
        tokens.append(torch.tensor(tokenizer(row["prompt"]).input_ids + given[:kept]))
    longest = max(map(len, tokens))
    ids = [F.pad(row, (longest - len(row), 0), value=tokenizer.pad_token_id) for row in tokens]
    mask = [F.pad(torch.ones_like(row), (longest - len(row), 0)) for row in tokens]
    return torch.stack(ids), torch.stack(mask)


if __name__ == "__main__":
    main()
