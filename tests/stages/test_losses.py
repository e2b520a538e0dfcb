"""Every loss preset gives the loss its paper writes down, through TRL's own compute_loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig

from r1pipe.recipes import conf_dir
from r1pipe.stages.grpo import R1GRPOTrainer
from r1pipe.stages.metrics import read_rows
from tests.stages import tiny
from tests.stages.children import in_child, train, train_whole_and_split

PRESETS = {
    path.stem: yaml.safe_load(path.read_text())["trainer"]
    for path in sorted((conf_dir() / "stage" / "loss").glob("*.yaml"))
}
LONGEST = 9
"""max_completion_length, Dr. GRPO's constant."""


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    """PPO's term of one token or sequence, to be made large."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def naive(
    name: str, now: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, lengths: list[int]
) -> Tensor:
    """The loss of completions i with tokens t < lengths[i], as the papers write it; (B, T) in."""
    rows, tokens = len(lengths), sum(lengths)
    total = torch.zeros(())
    for i, length in enumerate(lengths):
        lp, then, ref_lp = now[i, :length], old[i, :length], ref[i, :length]
        a, ratio = float(advantages[i]), torch.exp(lp - then)
        if name == "grpo":  # R1, eq. 1 and 2: epsilon 10, beta 0.001, the k3 estimator
            k3 = torch.exp(ref_lp - lp) - (ref_lp - lp) - 1
            total = total + (clipped(ratio, a, 10.0, 10.0) - 0.001 * k3).mean() / rows
        elif name == "dapo":  # eq. 8: one mean over all tokens
            total = total + clipped(ratio, a, 0.2, 0.28).sum() / tokens
        elif name == "dr_grpo":  # 3.2: neither |o_i| nor the std; a constant instead
            total = total + clipped(ratio, a, 0.2, 0.2).sum() / (rows * LONGEST)
        elif name == "gspo":  # eq. 5 and 7: the geometric mean of the ratios
            total = total + clipped(ratio.log().mean().exp(), a, 3e-4, 4e-4) / rows
        elif name == "cispo":  # eq. 4 and 5: a clipped constant times the log-likelihood
            total = total + (ratio.clamp(max=5.0).detach() * a * lp).sum() / tokens
        else:
            raise KeyError(name)
    return -total


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("spread", [1e-3, 0.3, 2.5])
def test_the_loss_is_the_papers(name: str, spread: float, tmp_path: Path) -> None:
    """Ratios near 1, around the clip bounds, and far beyond: value and gradient."""
    args = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_completion_length=LONGEST,
        per_device_train_batch_size=8,
        num_generations=4,
        **PRESETS[name],
    )
    folder = tiny.save_model(tmp_path / "model")
    rewards: Any = [tiny.digits]
    trainer: Any = R1GRPOTrainer(
        model=folder, reward_funcs=rewards, args=args, train_dataset=tiny.rows(8)
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    draw = torch.Generator().manual_seed(7)
    lengths = [7, 1, 4, 7, 2, 5, 3, 6]
    mask = torch.tensor([[t < length for t in range(7)] for length in lengths]).long()
    old = -3 * torch.rand((8, 7), generator=draw)
    now = (old + spread * torch.randn((8, 7), generator=draw)).requires_grad_()
    ref = old + 0.5 * torch.randn((8, 7), generator=draw)
    advantages = torch.randn(8, generator=draw)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (now, torch.zeros(8, 7), None)
    batch = {
        "prompt_ids": torch.ones((8, 3), dtype=torch.long),
        "prompt_mask": torch.ones((8, 3), dtype=torch.long),
        "completion_ids": torch.ones((8, 7), dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    found = trainer.compute_loss(trainer.model, batch)
    (gradient,) = torch.autograd.grad(found, now)
    expected = naive(name, now, old, ref, advantages, lengths)
    (right,) = torch.autograd.grad(expected, now)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, right, rtol=1e-5, atol=1e-6)
    assert not gradient[mask == 0].any()


GRPO = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 6,
    "save_strategy": "no",
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(name: str, tmp_path: Path) -> None:
    """Some steps on a tiny model, with the advantages that the paper means."""
    folder = tiny.save_model(tmp_path / "model")
    config = tiny.grpo_stage(folder, "compact", **GRPO, **PRESETS[name])
    context = tiny.context(tmp_path / "run", config)
    assert in_child(lambda: train(context, 64, ([tiny.digits], [1.0]))) == 0
    rows = read_rows(context.workdir / "metrics.jsonl")
    assert len(rows) == 6 and all(row["grad_norm"] > 0 for row in rows[:1])
    if name == "grpo":
        assert rows[-1]["kl"] > 0
    else:
        assert "kl" not in rows[-1]
    table = pandas.read_parquet(next(iter(sorted((context.workdir / "completions").iterdir()))))
    rewards = torch.tensor(table["digits"].to_numpy()).view(-1, 4)
    expected = rewards - rewards.mean(1, keepdim=True)
    if name != "dr_grpo":
        expected = expected / (rewards.std(1, keepdim=True) + 1e-4)
    found = torch.tensor(table["advantage"].to_numpy()).view(-1, 4)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_parts_of_like_length_give_the_same_gradient(name: str, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    options = {**GRPO, **PRESETS[name], "max_steps": 4, "optim": "sgd", "learning_rate": 1.0}
    train_whole_and_split(tiny.grpo_stage(folder, "compact", **options), tmp_path)
    whole, split = (read_rows(tmp_path / kind / "metrics.jsonl") for kind in ("whole", "split"))
    for before, after in zip(whole, split, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3)
