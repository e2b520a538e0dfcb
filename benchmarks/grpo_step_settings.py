"""What the sides of benchmarks/grpo_step.py run: models of real shapes, rows, and stages."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "0.5b": (896, 4864, 24, 14, 2, 151_936),  # Qwen2.5-0.5B's config.json
    "1.5b": (1536, 8960, 28, 12, 2, 151_936),  # Qwen2.5-1.5B's
    "tiny": (128, 256, 2, 4, 2, 2048),
}
LETTERS = 256
"""Tokens of one byte each, which prompts are made of; the pad and end tokens come next."""
GROUP = 16
"""R1's, Nature 645:633, Methods: outputs per question."""
CONTEXT_ROOM = 16


def build_model(asked: argparse.Namespace, folder: Path) -> Path:
    """Leave a Qwen2 of random weights with a tokenizer of its vocabulary in `folder`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, intermediate, layers, heads, key_values, vocabulary = SHAPES[asked.model]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_values,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        pad_token_id=LETTERS,
        eos_token_id=LETTERS + 1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if asked.device == "cuda" else "cpu"):
        model: Any = Qwen2ForCausalLM(config)
    model = model.to(torch.bfloat16)
    ends = [LETTERS + 1]
    if asked.lengths == "mixed":
        # Random weights give every token nearly the same chance: half of the length in the mean.
        ends += range(LETTERS + 2, LETTERS + 1 + max(2, 2 * vocabulary // asked.tokens))
    model.generation_config.update(eos_token_id=ends, pad_token_id=LETTERS, do_sample=True, top_k=0)
    model.save_pretrained(folder)
    build_tokenizer(vocabulary).save_pretrained(folder)
    return folder


def build_tokenizer(size: int) -> Any:
    """Return a byte-level tokenizer of `size` tokens: the bytes, and syllables nobody types."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "<pad>", "<eos>"]
    drawn, known = random.Random(0), set(tokens)
    while len(tokens) < size:
        syllable = "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(3, 7)))
        if syllable not in known:
            known.add(syllable)
            tokens.append(syllable)
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def write_prompts(folder: Path, longest: int) -> Path:
    """Write questions of up to `longest` one-byte tokens."""
    drawn, path = random.Random(0), folder / "prompts.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for _ in range(4096):
            length = drawn.randint(longest // 2, longest)
            out.write(json.dumps({"prompt": "".join(drawn.choices("0123456789+-", k=length))}))
            out.write("\n")
    return path


def composed(config: str, overrides: Sequence[str], name: str, folder: Path | None = None) -> Any:
    """Return one stage of a recipe or config as a plain mapping."""
    from r1pipe.compose import compose_recipe

    plain, problems = compose_recipe(config, overrides, folder)
    if problems:
        raise SystemExit("\n".join(map(str, problems)))
    return plain["stages"][name]


def shape_setting(
    asked: argparse.Namespace, side: str, folder: Path, model: Path
) -> dict[str, Any]:
    """Return what a side runs with a model of `SHAPES`."""
    on_gpu = asked.device == "cuda"
    context = asked.prompt + asked.tokens + CONTEXT_ROOM
    fixed = {"min_tokens": asked.tokens, "ignore_eos": True} if asked.lengths == "fixed" else None
    engine = "transformers" if asked.command == "memory" else "vllm"
    common: dict[str, Any] = {
        "beta": asked.beta,
        **{"loss_type": "dapo", "epsilon": 0.2, "use_bias_correction_kl": True},  # TRL's defaults
        "sync_ref_model": False,
        "learning_rate": 1e-6,
        "bf16": on_gpu,
        "num_generations": min(GROUP, asked.rows // 2),
        "max_completion_length": asked.tokens,
        "generation_kwargs": fixed if engine == "vllm" else None,
        "logging_steps": 1,
        "max_steps": 10_000,
        "save_strategy": "no",
    }
    passes = -(-asked.rows // asked.per_device)
    stock = {
        "per_device_train_batch_size": asked.per_device,
        "gradient_accumulation_steps": passes,
        "steps_per_generation": passes,
        "gradient_checkpointing": on_gpu and asked.checkpointing == "on",
    }
    if engine == "vllm":
        stock |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": context}
        stock["vllm_gpu_memory_utilization"] = asked.share
    overrides = [
        *["stage=grpo", "model=hf", f"model.path={model}", "model.load.dtype=float32"],
        f"data.path={write_prompts(folder, asked.prompt)}",
        f"rollout={'vllm_colocate' if engine == 'vllm' else 'transformers'}",
        f"rollout.max_model_length={context}",
        f"rollout.gpu_memory_utilization={asked.share}",
        # Weights drawn at random: two ways of rounding part further than in a trained model.
        *["rollout.on_alarm=warn", "rollout.measure_raw=false"],
    ]
    stage = composed("config", [*overrides, *[f"stage.{each}" for each in asked.ours]], "grpo")
    mine = {"per_device_train_batch_size": asked.rows, "gradient_accumulation_steps": 1}
    # Parts of a batch are as large as memory allows: recomputing them gains nothing.
    mine |= {"steps_per_generation": 1, "gradient_checkpointing": False}
    mine |= parsed([e.removeprefix("trainer.") for e in asked.ours if e.startswith("trainer.")])
    stage = {**stage, "rewards": {"spread": {"weight": 1.0}}}
    stage["trainer"] = {**stage["trainer"], **common}
    return {
        **base_setting(asked, side, folder),
        "engine": engine,
        "stage": stage,
        "ours": mine,
        "stock": {**stock, **parsed(asked.stock)},
        "context": context,
        "decoded_in": "bfloat16" if on_gpu else "float32",
        "vocabulary": SHAPES[asked.model][-1],
    }


def recipe_setting(asked: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """Return what a side runs with the tiny recipe's model after its cold start, on a CPU."""
    # A curve needs room to learn; a step is measured where completions end of themselves.
    until = "base" if asked.command == "curve" else "cold_start_sft"
    base = asked.base or train_base(folder, until)
    overrides = [f"stages.reasoning_grpo.init_from={base}"]
    overrides += [f"stages.reasoning_grpo.{each}" for each in asked.ours]
    stage = composed("tiny_r1", overrides, "reasoning_grpo", ROOT / "recipes")
    more = {"save_strategy": "no"}
    if asked.rows:
        more["per_device_train_batch_size"] = asked.rows
    stage["trainer"] = {**stage["trainer"], **more}
    return {
        **base_setting(asked, side, folder),
        **{"engine": "transformers", "stage": stage, "ours": {}, "stock": parsed(asked.stock)},
    }


def base_setting(asked: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    return {
        "side": side,
        "device": asked.device,
        "threads": asked.threads,
        "folder": str(folder),
        "rows": asked.rows,
        "share": asked.share,
        "shared": True,
        "least": asked.least,
        "most": asked.most,
    }


def train_base(folder: Path, until: str) -> Path:
    """Run the tiny recipe as far as one of its stages, which takes a minute or two."""
    out = folder / "recipe" / "runs"
    found = out / "tiny_r1" / until
    if not found.exists():
        print(f"training a model: the tiny recipe up to {until}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "r1pipe", str(ROOT / "recipes" / "tiny_r1.yaml")]
        changes = [f"output_root={out}", f"until={until}", "evaluation=null", "report=false"]
        subprocess.run([*command, *changes], check=True, cwd=ROOT, stdout=sys.stderr)
    return found


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` settings as a mapping, values read as YAML."""
    import yaml

    pairs = [each.partition("=") for each in settings]
    return {name: yaml.safe_load(value) for name, _, value in pairs}
