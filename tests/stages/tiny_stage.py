"""Typed stages over a tiny model on disk, for the tests of sampling and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.models.tiny import build_tiny_model, build_tiny_tokenizer
from r1pipe.registry import REWARDS, register_reward
from r1pipe.schema import Data, EvalStage, SampleStage
from r1pipe.stages.context import Progress, StageContext

LOAD = {
    "dtype": "float32",
    "attn_implementation": None,
    "trust_remote_code": False,
    "revision": None,
    "tokenizer": None,
    "chat_template": None,
}


def save_tiny_model(folder: Path) -> str:
    build_tiny_model("nano", 0).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def arithmetic(**changes: Any) -> Data:
    base = {"path": "task:arithmetic", "split": "train", "limit": 32}
    return Data(**{**base, **changes})


def _common(model: str, **changes: Any) -> dict[str, Any]:
    launcher = {
        "name": "local",
        "command": "python",
        "preset": None,
        "num_processes": 1,
        "num_machines": 1,
        "cpu_threads": 1,
    }
    rollout = {
        "engine": "compact",
        "batch_size": 16,
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
    return {
        "output_dir": "unused",
        "seed": 1,
        "launcher": launcher,
        "tracker": {"name": "none", "project": None},
        "init_from": model,
        "load": LOAD,
        "data": arithmetic(),
        "rollout": {**rollout, **changes},
    }


def sampling(**changes: Any) -> dict[str, Any]:
    return {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "num_samples": 2, **changes}


def sample_stage(model: str, **changes: Any) -> SampleStage:
    rest = {
        "kind": "sample",
        "sampling": sampling(),
        "few_shot": None,
        "rewards": {"even_length": {"weight": 1.0}},
        "keep": {},
        "max_per_prompt": None,
        "max_rows": None,
        "min_rows": 1,
        "prefer": "first",
    }
    return SampleStage(**{**_common(model), **rest, **changes})


def eval_stage(model: str, **changes: Any) -> EvalStage:
    rest = {
        "kind": "eval",
        "decodings": {
            "greedy": sampling(temperature=0.0, num_samples=1),
            "t1": sampling(num_samples=1),
        },
        "rewards": {"even_length": {"weight": 1.0}},
        "save_samples": 2,
    }
    return EvalStage(**{**_common(model), **rest, **changes})


def context(folder: Path, name: str, stage: Any) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(name, stage, folder, Progress(folder / "progress.json"))


if "even_length" not in REWARDS.names():

    @register_reward("even_length")
    def even_length(completions, **columns):
        """1 for an even number of characters: earned by about half of what any model writes."""
        return [float(len(text) % 2 == 0) for text in completions]

    @register_reward("english_only")
    def english_only(completions, language, **columns):
        """Does not apply to Chinese prompts; on all others 0 for what any model writes."""
        return [
            None if code == "zh" else float(not text)
            for code, text in zip(language, completions, strict=True)
        ]

    @register_reward("constant")
    def constant(completions, **columns):
        return [0.5] * len(completions)
