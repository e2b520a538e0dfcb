"""Writes a run directory of the whole chain with invented figures, to draw reports from."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.report.intervals import wilson

OPERATIONS = ("add", "sub", "mul", "div")
GENERAL = ("copy", "reverse", "sort", "number_words")
REWARDS: dict[str, dict[str, float]] = {
    "accuracy": {"weight": 1.0},
    "format": {"weight": 0.2},
}
LANGUAGE = {"language": {"weight": 0.3}}


@dataclass(frozen=True)
class Plan:
    """A stage to invent: where it comes from and what its model scores (shares)."""

    name: str
    kind: str
    start: str | None = None
    data: tuple[str, ...] = ()
    accuracy: tuple[float, float] = (0.0, 0.0)
    """Greedy and T=1."""
    format: float = 1.0
    language: float = 1.0
    general: float = 0.0
    length: float = 50.0
    parameters: int = 102_464
    steps: int = 80
    seconds: float = 60.0


CHAIN = (
    Plan(
        "base", "pretrain", None, (), (0.006, 0.048), 0.04, 0.45, 0.62, 13, steps=900, seconds=150
    ),
    Plan("student_base", "pretrain", None, (), (0.004, 0.02), 0.03, 0.4, 0.4, 12, 26_112, 500, 40),
    Plan("r1_zero", "grpo", "base", (), (0.645, 0.51), 0.997, 0.49, 0.31, 45, steps=83),
    Plan("cold_start_data", "sample", "r1_zero", (), seconds=9),
    Plan(
        *("cold_start_sft", "sft", "base", ("cold_start_data",), (0.43, 0.37), 0.97, 0.83, 0.4, 50),
        steps=20,
        seconds=6,
    ),
    Plan("reasoning_grpo", "grpo", "cold_start_sft", (), (0.73, 0.66), 0.996, 0.97, 0.35, 52),
    Plan("rejection_sampling", "sample", "reasoning_grpo", (), seconds=14),
    Plan(
        *("rejection_sft", "sft", "base", ("rejection_sampling",), (0.9, 0.84), 0.995, 0.985, 0.97),
        steps=300,
        seconds=25,
    ),
    Plan("all_domain_grpo", "grpo", "rejection_sft", (), (0.934, 0.9), 0.998, 0.99, 0.985, 49),
    Plan("distill_data", "sample", "all_domain_grpo", (), seconds=16),
    Plan(
        *("distill", "sft", "student_base", ("distill_data",), (0.71, 0.6), 0.99, 0.98, 0.95, 48),
        *(26_112, 400, 30),
    ),
    Plan(
        "student_grpo", "grpo", "student_base", (), (0.21, 0.17), 0.98, 0.6, 0.2, 38, 26_112, 90, 45
    ),
)


def write_fake_run(
    run_dir: Path, *, seed: int = 0, per_task: int = 1000, chain: tuple[Plan, ...] = CHAIN
) -> Path:
    """Make `run_dir` look like a finished run of `chain`; returns it."""
    rng = random.Random(seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    configs = {plan.name: _config(run_dir, plan) for plan in chain}
    resolved = {"name": run_dir.name, "seed": seed, "stages": configs}
    stages = {plan.name: {"kind": plan.kind} for plan in chain} | {
        f"{plan.name}_eval": {"kind": "eval"} for plan in chain if plan.kind != "sample"
    }
    asked = {"recipe": "tiny_r1", "overrides": [f"seed={seed}"], "version": "0.1.0"}
    _json(run_dir / "recipe.json", {**asked, "stages": stages})
    _json(run_dir / "resolved.yaml", resolved)  # JSON is YAML
    problems = _problems(rng)
    for number, plan in enumerate(chain):
        _stage(run_dir, plan, configs[plan.name], number, rng)
        if plan.kind != "sample":
            _evaluation(run_dir, plan, problems, number, rng, per_task)
    return run_dir


def _config(run_dir: Path, plan: Plan) -> dict[str, Any]:
    trainer: dict[str, Any] = {"max_steps": plan.steps, "learning_rate": 3e-3, "bf16": False}
    config: dict[str, Any] = {
        "kind": plan.kind,
        "output_dir": str(run_dir / plan.name),
        "seed": 0,
        "launcher": {"name": "local", "command": "python", "num_processes": 1},
        "data": {"path": "task:arithmetic", "split": "train", "limit": 4096, "mix": {}},
    }
    if plan.data:
        config["data"]["path"] = str(run_dir / plan.data[0])
    if plan.start:
        config["init_from"] = str(run_dir / plan.start)
    if plan.kind == "grpo":
        trainer.update(learning_rate=2e-4, num_generations=16, beta=0.0, temperature=1.0)
        if plan.name != "r1_zero":
            trainer.update(beta=0.001)
        config["rewards"] = dict(REWARDS) if "zero" in plan.name else {**REWARDS, **LANGUAGE}
    if plan.kind == "sample":
        config["sampling"] = {"temperature": 1.0, "top_p": 1.0, "num_samples": 8}
        config["keep"] = {"accuracy": 1.0, "format": 1.0, "language": 0.95}
        return config
    return {**config, "trainer": trainer}


def _stage(
    run_dir: Path, plan: Plan, config: dict[str, Any], number: int, rng: random.Random
) -> None:
    folder = run_dir / plan.name
    folder.mkdir()
    metrics: dict[str, Any] = {"parameters": plan.parameters}
    if plan.kind == "sample":
        rejected = {"accuracy": 3012, "format": 211, "language": 1800}
        metrics = {"kept": rng.randint(90, 5000), "sampled": 10752, "rejected": rejected}
        (folder / "dataset").mkdir()
        rows = [{**row, **_scored(plan, row, 1.0, rng)} for row in _problems(rng)[:40]]
        _jsonl(folder / "dataset" / "rows.jsonl", rows)
    else:
        rows = _grpo_history(plan, rng) if plan.kind == "grpo" else _sft_history(plan, rng)
        _jsonl(folder / "metrics.jsonl", rows)
    if plan.kind == "grpo":
        _completions(folder / "completions", plan, rng)
    slots = {"init_from": plan.start, "data.path": next(iter(plan.data), None)}
    inputs = {slot: _arrow(run_dir, name) for slot, name in slots.items() if name}
    _manifest(folder, plan.name, plan.kind, config, metrics, inputs, plan.seconds, number, rng)


def _manifest(
    folder: Path,
    name: str,
    stage_kind: str,
    config: dict[str, Any],
    metrics: dict[str, Any],
    inputs: dict[str, Any],
    seconds: float,
    number: int,
    rng: random.Random,
) -> None:
    kinds = {"sample": "dataset", "eval": "evaluation"}
    startup = rng.uniform(5, 7)
    training = 0.0 if stage_kind in kinds else seconds * (0.6 if stage_kind == "grpo" else 0.97)
    timings = {
        "wall_s": seconds + startup,
        "cpu_s": seconds,
        "setup_s": startup,
        "tokens_per_second": rng.uniform(20e3, 60e3),
        "peak_rss_bytes": rng.uniform(0.7e9, 1.3e9),
    }
    if stage_kind in kinds:
        timings["sampling_s" if stage_kind == "sample" else "evaluation_s"] = seconds
    else:
        timings |= {"train_s": training, "generate_s": seconds - training, "save_s": 0.2}
    manifest = {
        "format": 1,
        "status": "complete",
        "name": name,
        "stage_kind": stage_kind,
        "kind": kinds.get(stage_kind, "model"),
        "fingerprint": _fingerprint(name),
        "inputs": inputs,
        "config": config,
        "recipe": "tiny_r1",
        "code": {"version": "0.1.0", "sources": _fingerprint("code")},
        "versions": {"torch": "2.13.0+cpu", "transformers": "5.17.0", "trl": "1.16.0"},
        "machine": {"processor": "A Processor 9000", "threads": 1, "gpus": []},
        "metrics": metrics,
        "timings": timings,
        "files": {},
        "created": f"2026-11-22T07:{number:02d}:00+00:00",
        "attempts": 2 if name == "reasoning_grpo" else 1,
    }
    _json(folder / "manifest.json", manifest)


def _sft_history(plan: Plan, rng: random.Random) -> list[dict[str, Any]]:
    every = max(1, plan.steps // 100)
    rows = []
    for step in range(every, plan.steps + 1, every):
        done = step / plan.steps
        loss = 0.05 + 3.2 * math.exp(-6 * done) + rng.gauss(0, 0.02)
        rows.append(
            {
                "step": step,
                "loss": loss,
                "learning_rate": 3e-3 * 0.5 * (1 + math.cos(math.pi * done)),
                "grad_norm": 0.4 + math.exp(-3 * done) + rng.random() * 0.2,
                "mean_token_accuracy": 1 - min(0.9, loss / 4),
                "num_tokens": step * 4200,
                "timing": {"tokens_per_second": rng.gauss(46e3, 2e3)},
            }
        )
    return rows


def _grpo_history(plan: Plan, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, plan.steps + 1):
        done = 1 - math.exp(-4 * step / plan.steps)
        accuracy = plan.accuracy[1] * done + rng.gauss(0, 0.03)
        form = plan.format * (0.2 + 0.8 * done)
        row = {
            "step": step,
            "loss": rng.gauss(0, 0.01),
            "learning_rate": 2e-4,
            "grad_norm": 0.3 + rng.random() * 0.2,
            "reward": accuracy + 0.2 * form,
            "reward_std": 0.4 - 0.2 * done,
            "rewards/accuracy/mean": accuracy,
            "rewards/accuracy/std": 0.4,
            "rewards/format/mean": form,
            "rewards/format/std": 0.1,
            "frac_reward_zero_std": min(1.0, max(0.0, 0.2 + 0.4 * done + rng.gauss(0, 0.05))),
            "completions/mean_length": 13 + (plan.length - 13) * done + rng.gauss(0, 1),
            "completions/min_length": 4.0,
            "completions/max_length": 128.0,
            "completions/clipped_ratio": max(0.0, 0.1 * (1 - done) + rng.gauss(0, 0.01)),
            "entropy": 0.6 - 0.45 * done + rng.gauss(0, 0.01),
            "num_tokens": step * 12_000,
            "timing": {"step_time": 0.7 + rng.random() * 0.1},
        }
        if plan.name != "r1_zero":
            row["kl"] = 0.002 * step * done
            row["rewards/language/mean"] = 0.5 + (plan.language - 0.5) * done
        rows.append(row)
    return rows


def _problems(rng: random.Random) -> list[dict[str, str]]:
    rows = []
    for task in OPERATIONS:
        for _ in range(12):
            a, b = rng.randint(2, 999), rng.randint(2, 30)
            sign, value = {
                "add": ("+", str(a + b)),
                "sub": ("-", str(a - b)),
                "mul": ("*", str(a * b)),
                "div": ("/", f"{a // b}r{a % b}"),
            }[task]
            language = rng.choice(("en", "zh"))
            ask = "compute " if language == "en" else "计算"
            rows.append(_row(f"{ask}{a}{sign}{b}\n", value, "reasoning", task, language))
    for task in GENERAL:
        for _ in range(6):
            number = str(rng.randint(100, 99999))
            value = {"copy": number, "reverse": number[::-1], "sort": "".join(sorted(number))}
            answer = value.get(task, "六百一十六")
            rows.append(_row(f"{task} {number}\n", answer, "general", task, "en"))
    return rows


def _row(prompt: str, answer: str, domain: str, task: str, language: str) -> dict[str, str]:
    row_id = f"{prompt.strip()}|{language}"
    return {
        **{"id": row_id, "prompt": prompt, "answer": answer},
        **{"domain": domain, "task": task, "language": language},
    }


def _completion(plan: Plan, row: dict[str, str], right: bool, rng: random.Random) -> str:
    answer = row["answer"] if right else str(rng.randint(0, 999))
    if row["domain"] == "general":
        return f"<answer>{answer}</answer>"
    if rng.random() > plan.format:
        return f"{answer} <answer>"
    mixed = rng.random() > plan.language
    think = []
    for place in range(rng.randint(2, max(3, int(plan.length / 12)))):
        a, b, c = (rng.randint(0, 9) for _ in range(3))
        english = (row["language"] == "en") != (mixed and rng.random() < 0.5)
        name = ("ones", "tens", "hundreds", "again", "next")[place % 5]
        zh = ("个位", "十位", "百位", "再来", "接着")[place % 5]
        think.append(
            f"{name} {a}+{b}+{c}={a + b + c} carry {(a + b + c) // 10}"
            if english
            else f"{zh}{a}+{b}+{c}={a + b + c}进{(a + b + c) // 10}"
        )
    return "<think>" + "\n".join(think) + f"</think><answer>{answer}</answer>"


def _scored(plan: Plan, row: dict[str, str], chance: float, rng: random.Random) -> dict[str, Any]:
    right = rng.random() < chance
    completion = _completion(plan, row, right, rng)
    reasoning = row["domain"] == "reasoning"
    rewards = {
        "accuracy": float(right) if reasoning else None,
        "format": float("</answer>" in completion),
        "language": round(min(1.0, rng.gauss(plan.language, 0.1)), 3) if reasoning else None,
        "general": None if reasoning else float(right),
    }
    return {"completion": completion, "length": len(completion) // 3, "rewards": rewards}


def _evaluation(
    run_dir: Path,
    plan: Plan,
    problems: list[dict[str, str]],
    number: int,
    rng: random.Random,
    per_task: int,
) -> None:
    folder = run_dir / f"{plan.name}_eval"
    folder.mkdir()
    decodings: dict[str, Any] = {}
    samples = []
    for name, temperature, mean in (
        ("greedy", 0.0, plan.accuracy[0]),
        ("t1", 1.0, plan.accuracy[1]),
    ):
        mean = min(1.0, max(0.0, mean + rng.gauss(0, 0.008)))
        shift = {"add": 0.5, "sub": 0.4, "mul": 0.0, "div": -1.0}
        tasks = {}
        for task in OPERATIONS:
            chance = mean + shift[task] * mean * (1 - mean)
            tasks[task] = _metrics(plan, chance, per_task, "accuracy")
        for task in GENERAL:
            tasks[task] = _metrics(plan, plan.general, per_task // 4, "general")
        domains = {
            "reasoning": _metrics(plan, mean, per_task * 4, "accuracy"),
            "general": _metrics(plan, plan.general, per_task, "general"),
        }
        decodings[name] = {
            "temperature": temperature,
            "overall": domains["reasoning"],
            "tasks": tasks,
            "domains": domains,
        }
        for row in problems:
            chance = plan.general if row["domain"] == "general" else mean
            samples.append({**row, "decoding": name, **_scored(plan, row, chance, rng)})
    _json(folder / "evaluation.json", {"model": plan.name, "decodings": decodings})
    _jsonl(folder / "samples.jsonl", samples)
    inputs = {"init_from": _arrow(run_dir, plan.name)}
    config = {"kind": "eval", "init_from": str(run_dir / plan.name)}
    _manifest(folder, folder.name, "eval", config, {}, inputs, 7.0, number, rng)


def _metrics(plan: Plan, mean: float, n: int, metric: str) -> dict[str, Any]:
    length = {"mean": plan.length, "low": plan.length - 0.4, "high": plan.length + 0.4, "n": n}
    return {
        metric: _estimate(mean, n),
        "format": _estimate(plan.format, n),
        "language": _estimate(plan.language, n),
        "length": length,
        "truncated": _estimate(0.002, n),
    }


def _estimate(mean: float, n: int) -> dict[str, float]:
    mean = min(1.0, max(0.0, mean))
    low, high = wilson(mean * n, n)
    return {"mean": mean, "low": low, "high": high, "n": n}


def _completions(folder: Path, plan: Plan, rng: random.Random) -> None:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    problems = _problems(rng)[:48]
    for step in (1, plan.steps // 2, plan.steps):
        rows = []
        for row in problems:
            scored = _scored(plan, row, plan.accuracy[1] * step / plan.steps, rng)
            rewards = {k: scored["rewards"][k] for k in ("accuracy", "format")}
            rows.append(
                {
                    **{"step": step, "prompt": row["prompt"], "completion": scored["completion"]},
                    **rewards,
                    **{"answer": row["answer"], "advantage": rng.gauss(0, 1)},
                }
            )
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, folder / f"completions_{step:05d}.parquet")


def _arrow(run_dir: Path, name: str) -> dict[str, Any]:
    return {"path": str(run_dir / name), "fingerprint": _fingerprint(name), "stage": name}


def _fingerprint(name: str) -> str:
    return f"{abs(random.Random(name).getrandbits(256)):064x}"


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
