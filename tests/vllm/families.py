"""Small models of every family whose weights reach vLLM differently, with their stage configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from r1pipe.schema import GrpoStage, Load, Rollout
from r1pipe.stages.context import Progress, StageContext
from tests.stages import tiny

CONF = Path(__file__).parents[2] / "conf"
COMMON: dict[str, Any] = {
    "vocab_size": len(tiny.CHARACTERS) + 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
HEADS: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 32}
# vLLM's CPU kernel of latent attention has these two sizes alone.
LATENT: dict[str, Any] = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}


def dense(tied: bool = False) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**COMMON, **HEADS, tie_word_embeddings=tied))


def qwen3_moe() -> Any:
    config = Qwen3MoeConfig(
        **COMMON,
        **HEADS,
        moe_intermediate_size=32,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    )
    return Qwen3MoeForCausalLM(config)


def deepseek(**changes: Any) -> Any:
    """Return a model whose routing biases matter."""
    config = {
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "num_nextn_predict_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    model = DeepseekForCausalLM(DeepseekConfig(**{**COMMON, **LATENT, **config, **changes}))
    with torch.no_grad():
        for router in model.model.routers:
            router.e_score_correction_bias.copy_(
                0.3 * torch.randn_like(router.e_score_correction_bias)
            )
    return model


FAMILIES = {
    "dense": dense,
    "tied": lambda: dense(tied=True),
    "qwen3_moe": qwen3_moe,
    "deepseek": deepseek,
    "deepseek_without_query_latent": lambda: deepseek(q_lora_rank=None),
}


def build(family: str, folder: Path) -> Any:
    """Save a model of the family with its tokenizer in `folder`; returns the model."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


def load() -> Load:
    return Load(**yaml.safe_load((CONF / "model" / "tiny.yaml").read_text())["load"])


def rollout(**changes: Any) -> Rollout:
    """The shipped settings with vLLM as the engine."""
    values = yaml.safe_load((CONF / "rollout" / "compact.yaml").read_text())
    return Rollout(**{**values, "engine": "vllm", **changes})


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    """Random ids, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [3 + row % 5 for row in range(count)]
    return [
        torch.randint(3, COMMON["vocab_size"], (size,), generator=generator).tolist()
        for size in sizes
    ]


def disturb(model: Any, seed: int, size: float = 0.05) -> None:
    """Move every weight and every persistent buffer, as optimizer steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "inv_freq" not in name:
                value.add_(size * torch.randn(value.shape, generator=generator))


def digits(completions: list[str], **columns: Any) -> list[float]:
    """Share of digits: a reward with spread at random weights."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def grpo_context(
    folder: Path, init_from: Path, settings: dict[str, Any], lora: Any = None, **trainer: Any
) -> StageContext:
    """A GRPO stage of three steps on `digits`, ready for `grpo.run`."""
    rows = "".join(f'{{"prompt": "{a}+{b}=", "answer": "{a + b}"}}\n' for a, b in PAIRS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text(rows)
    common = {
        "output_dir": "out",
        "seed": 3,
        "launcher": yaml.safe_load((CONF / "launcher" / "local.yaml").read_text()),
        "tracker": {"name": "none", "project": None},
        "load": load(),
        "lora": lora,
    }
    values = {
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_steps": 3,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 12,
        "beta": 0.0,
        **trainer,
    }
    stage = GrpoStage(
        kind="grpo",
        init_from=str(init_from),
        data={"path": str(folder / "rows.jsonl"), "split": "train"},  # pyright: ignore
        rewards={"digits": {"weight": 1.0}},  # pyright: ignore
        rollout=rollout(**settings),
        trainer=values,
        **common,
    )
    work = folder / "work"
    work.mkdir()
    return StageContext("grpo", stage, work, Progress(work / "progress.json"))


PAIRS = [(a, b) for a in range(5) for b in range(5)]
