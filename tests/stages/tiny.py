"""A tiny model, rows and stage configs for the tests of the trained stages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from r1pipe.schema import DistillStage, GrpoStage, SftStage
from r1pipe.stages.context import Progress, StageContext

CHARACTERS = list("0123456789+-= abcdefgh")
LAUNCHER = {
    "name": "local",
    "command": "python",
    "preset": None,
    "num_processes": 1,
    "num_machines": 1,
    "cpu_threads": 1,
}
TRACKER = {"name": "none", "project": None}
LOAD = {
    "dtype": "float32",
    "attn_implementation": None,
    "trust_remote_code": False,
    "revision": None,
    "tokenizer": None,
    "chat_template": None,
}
DATA = {"path": "rows.jsonl", "split": "train"}
ROLLOUT = {
    "engine": "transformers",
    "batch_size": 64,
    "vllm_mode": "colocate",
    "server_url": None,
    "server_token_file": None,
    "server_timeout": 30.0,
    "server_hang_timeout": 30.0,
    "server_stall_timeout": 600.0,
    "gpu_memory_utilization": 0.5,
    "tensor_parallel_size": 1,
    "precision": "auto",
    "max_model_length": None,
    "max_num_seqs": None,
    "enforce_eager": None,
    "logprobs": "engine",
    "check_every": 1,
    "check_sequences": 8,
    "alarm_threshold": None,
    "on_alarm": "stop",
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def model(seed: int = 0, hidden: int = 16) -> Qwen3ForCausalLM:
    """A Qwen3 of a few thousand parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(CHARACTERS) + 3,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def save_model(folder: Path, seed: int = 0, hidden: int = 16) -> str:
    """Save a tiny model with its tokenizer and return the path."""
    model(seed, hidden).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def mixture(seed: int = 0, **fields: Any) -> Any:
    """A DeepSeek model of a few thousand parameters: experts in one of two layers, one MTP module.

    `bias_update_speed` and `balance_factor` are large enough for a few steps to show them.
    """
    from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM

    torch.manual_seed(seed)
    shape = {
        **{"hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8},
        **{"num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2},
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
        **{"q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4},
        **{"v_head_dim": 8, "num_nextn_predict_layers": 1, "max_position_embeddings": 128},
        **{"bias_update_speed": 0.125, "balance_factor": 0.01, "initializer_range": 0.3},
    }
    tokens = {"vocab_size": len(CHARACTERS) + 3, "pad_token_id": 0, "eos_token_id": 1}
    config = DeepseekConfig(**{**shape, **tokens, "bos_token_id": None, **fields})
    return DeepseekForCausalLM(config)


def save_mixture(folder: Path, seed: int = 0, **fields: Any) -> str:
    """Save a tiny DeepSeek model with its tokenizer and return the path."""
    mixture(seed, **fields).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def rows(count: int, seed: int = 0) -> Dataset:
    """Additions of one-digit numbers."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(10), rng.randrange(10)) for _ in range(count)]
    return Dataset.from_list(
        [
            {
                "prompt": f"{a}+{b}=",
                "completion": f"{a + b}",
                "answer": f"{a + b}",
                "task": "add",
                "id": str(number),
            }
            for number, (a, b) in enumerate(pairs)
        ]
    )


def digits(completions: list[str], **columns: Any) -> list[float]:
    """Share of digits: a reward with spread at random weights."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def right_length(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    """Compare with a column of the data; not applicable to one-digit answers."""
    pairs = zip(completions, answer, strict=True)
    return [None if len(a) == 1 else -abs(len(text) - len(a)) / 10 for text, a in pairs]


def context(workdir: Path, stage: Any) -> StageContext:
    workdir.mkdir(parents=True, exist_ok=True)
    return StageContext("tiny", stage, workdir, Progress(workdir / "progress.json"))


def _common(trainer: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": "out",
        "seed": 3,
        "launcher": LAUNCHER,
        "tracker": TRACKER,
        "load": LOAD,
        "data": DATA,
        "lora": None,
        "trainer": {"logging_steps": 1, "learning_rate": 1e-2, **trainer},
    }


def sft_stage(init_from: str, length_window: int = 0, **trainer: Any) -> SftStage:
    common = {**_common(trainer), "length_window": length_window}
    return SftStage(kind="sft", init_from=init_from, **common)


def grpo_stage(init_from: str, engine: str = "transformers", **trainer: Any) -> GrpoStage:
    rollout = {**ROLLOUT, "engine": engine}
    rewards = {"digits": {"weight": 1.0}, "right_length": {"weight": 0.5}}
    return GrpoStage(
        kind="grpo", init_from=init_from, rewards=rewards, rollout=rollout, **_common(trainer)
    )


def distill_stage(init_from: str, teacher: str, **trainer: Any) -> DistillStage:
    return DistillStage(
        kind="distill", init_from=init_from, teacher=teacher, rollout=ROLLOUT, **_common(trainer)
    )
