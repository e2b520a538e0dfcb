"""A GRPO step of ours beside stock TRL's: same model, rows, tokens and versions, in turns.

    python benchmarks/grpo_step.py step                         # one GPU: 0.5 B, 512 x 512 tokens
    python benchmarks/grpo_step.py step --model 1.5b --rows 256 --tokens 1024 --per-device 16
    python benchmarks/grpo_step.py step --lengths mixed         # completions of unlike length
    python benchmarks/grpo_step.py memory                       # 1.5 B, 4096 tokens: largest batch
    python benchmarks/grpo_step.py step --device cpu            # the tiny recipe against `generate`
    python benchmarks/grpo_step.py curve                        # both learn, on a CPU
    python benchmarks/grpo_step.py step --device cpu --tiny     # the GPU's rows, as a dry run

Models have real shapes and random weights, and a tokenizer of their vocabulary's size: nothing is
downloaded. Each side is a process of its own with its own vLLM beside its trainer; they share the
GPU and pass a baton, so that only one of them works at a time, and a busy machine slows all alike.
Stock is TRL's GRPOTrainer as documented, with the same algorithm, precision and rewards; ours is
the stage as a recipe runs it. `raw` is `LLM.generate` alone, without log-probabilities and text.
Fixed lengths forbid the end token; `mixed` makes so many tokens an end that a mean completion has
half of the longest one's length. On a CPU seconds are the process's own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_step_settings import ROOT, SHAPES, build_model, recipe_setting, shape_setting

SIDES_FILE = Path(__file__).with_name("grpo_step_sides.py")
PHASES = ("generate", "sync", "check", "reward", "score", "update", "other")


def main() -> int:
    """Measure what is asked for; tables go to standard output, all figures to a file."""
    asked = arguments()
    with tempfile.TemporaryDirectory(dir=asked.scratch) as name:
        found = COMMANDS[asked.command](asked, Path(name))
    report = {"asked": vars(asked), **found}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"all figures: {asked.json}")
    return 0


def arguments() -> argparse.Namespace:
    """Return what is asked for, with the defaults of the command and the device."""
    parser = argparse.ArgumentParser(description="A GRPO step of ours beside stock TRL's.")
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda; for curve cpu")
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--model", choices=list(SHAPES), help="0.5b; for memory 1.5b")
    parser.add_argument("--rows", type=int, help="completions of a step (512)")
    parser.add_argument("--tokens", type=int, help="of a completion (512; for memory 4096)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the longest prompt")
    parser.add_argument("--lengths", choices=["fixed", "mixed"], default="fixed")
    parser.add_argument("--sides", nargs="+", choices=["stock", "ours", "raw"])
    parser.add_argument("--rounds", type=int, help="measured steps of each side (3)")
    parser.add_argument("--per-device", type=int, help="rows of a pass in stock TRL (64)")
    parser.add_argument(
        "--checkpointing", choices=["on", "off"], default="on", help="of gradients, in stock TRL"
    )
    parser.add_argument("--ours", nargs="*", default=[], help="settings of ours: trainer.x=y ...")
    parser.add_argument("--stock", nargs="*", default=[], help="settings of TRL's config: x=y ...")
    parser.add_argument("--share", type=float, help="of the GPU's memory for each engine")
    parser.add_argument("--beta", type=float, default=0.0, help="KL: above 0 with a reference")
    parser.add_argument("--least", type=int, help="rows at which memory begins (8)")
    parser.add_argument("--most", type=int, default=1024, help="rows at which memory stops")
    parser.add_argument("--seeds", type=int, default=3, help="of curve")
    parser.add_argument("--steps", type=int, default=40, help="of curve")
    parser.add_argument("--base", type=Path, help="model of curve, and of step on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--scratch", type=Path, help="folder for models, a few GB")
    parser.add_argument("--json", type=Path, help="default: runs/benchmarks/grpo_COMMAND.json")
    asked = parser.parse_args()
    small, largest = asked.tiny, asked.command == "memory"
    asked.device = asked.device or ("cpu" if asked.command == "curve" else "cuda")
    asked.recipe = asked.device == "cpu" and not small
    asked.model = asked.model or ("tiny" if small else "1.5b" if largest else "0.5b")
    if not asked.recipe:
        asked.rows = asked.rows or (16 if small else 512)
        asked.per_device = min(asked.rows, asked.per_device or (8 if small else 64))
    asked.tokens = asked.tokens or (16 if small else 4096 if largest else 512)
    asked.rounds = asked.rounds or (2 if small else 3)
    asked.least = asked.least or (2 if small else 8)
    asked.most = min(asked.most, 8) if small else asked.most
    asked.share = asked.share or (0.3 if largest else 0.2)
    asked.json = asked.json or ROOT / "runs" / "benchmarks" / f"grpo_{asked.command}.json"
    return asked


@dataclass
class Worker:
    """One side's process."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def hear(self, event: str) -> dict[str, Any]:
        """Return its next answer of that kind; the benchmark ends with its log where it died."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            found = json.loads(line)
            if found.pop("event") == event:
                return found
            print(f"  {self.name}: {found}", file=sys.stderr, flush=True)
        tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:]
        raise SystemExit("\n".join([*tail, f"{self.name} ended early; its last lines are above"]))

    def ask(self, command: str, event: str) -> dict[str, Any]:
        self.tell(command)
        return self.hear(event)


def start(setting: dict[str, Any], folder: Path) -> Worker:
    """Start a side, which imports and then waits."""
    name = setting["side"]
    path, log = folder / f"{name}.json", folder / f"{name}.log"
    path.write_text(json.dumps(setting), encoding="utf-8")
    places = [str(ROOT), str(ROOT / "kernels"), *sys.path[1:]]  # what this process can import
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if setting["device"] == "cpu":
        environment |= {"OMP_NUM_THREADS": str(setting["threads"]), "ACCELERATE_USE_CPU": "true"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SIDES_FILE), str(path)],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1},
        stderr=log.open("w"),
        env=environment,
    )
    return Worker(name, process, log)


@contextmanager
def workers(settings: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Worker]]:
    """Start the sides; none of them is left when the block ends."""
    found = {setting["side"]: start(setting, folder) for setting in settings}
    try:
        yield found
    finally:
        for worker in found.values():
            worker.process.kill()
            worker.process.wait()


def measure_steps(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take one optimizer step after the other, the sides in turns."""
    names = asked.sides or (["stock", "ours"] if asked.recipe else ["stock", "ours", "raw"])
    if asked.recipe:
        settings = [recipe_setting(asked, name, folder) for name in names]
    else:
        model = build_model(asked, folder / "model")
        settings = [shape_setting(asked, name, folder, model) for name in names]
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with workers(settings, folder) as sides:
        for side in sides.values():  # one after the other: engines measure what memory is free
            side.hear("loaded")
            side.ask("steps", "ready")
            told(f"{side.name} is ready")
        for turn in range(asked.rounds + 1):  # the first compiles and allocates
            for name, side in sides.items():
                found = side.ask("step", "step")
                told(f"{name}, step {turn}: {found['seconds']:.2f} s {found['phases']}")
                if turn:
                    steps[name].append(found)
    figures = {name: medians(found, asked.device) for name, found in steps.items()}
    print_steps(asked, figures)
    return {"figures": figures, "steps": steps}


def medians(steps: list[dict[str, Any]], device: str) -> dict[str, float]:
    """Return the medians of a side's steps: seconds by phase, tokens a second of writing."""
    clock = "cpu_seconds" if device == "cpu" else "seconds"
    found = {"step": statistics.median(step[clock] for step in steps)}
    found["wall"] = statistics.median(step["seconds"] for step in steps)
    for phase in PHASES:
        found[phase] = statistics.median(step["phases"].get(phase, 0.0) for step in steps)
    found["tokens"] = statistics.median(step["tokens"] for step in steps)
    rates = [step["tokens"] / step["phases"]["generate"] for step in steps]
    found["tokens_per_second"] = statistics.median(rates)
    found["peak_gib"] = max(step.get("peak_gib", 0.0) for step in steps)
    return {name: round(value, 4) for name, value in found.items()}


def print_steps(asked: argparse.Namespace, figures: dict[str, dict[str, float]]) -> None:
    """Print the sides' medians and what the ratios between them are."""
    what = "tiny recipe" if asked.recipe else f"{asked.model}, {asked.rows} x {asked.tokens} tokens"
    lengths = "own" if asked.recipe else asked.lengths
    print(f"\nGRPO step, {what}, {lengths} lengths, {asked.device} (medians, seconds)")
    if asked.device == "cpu":
        print("steps in seconds of the process, phases in seconds of the clock")
    columns = [*PHASES]
    head = "".join(f"{name:>10}" for name in ["step", *columns])
    print(f"{'':6}{head}{'tokens':>10}{'tokens/s':>10}{'peak GiB':>10}")
    for name, found in figures.items():
        row = "".join(f"{found[each]:10.3f}" for each in ["step", *columns])
        rate = f"{found['tokens']:10,.0f}{found['tokens_per_second']:10,.0f}"
        print(f"{name:6}{row}{rate}{found['peak_gib']:10.1f}")
    if {"stock", "ours"} <= figures.keys():
        print(f"stock's step over ours: {figures['stock']['step'] / figures['ours']['step']:.2f}")
    if {"raw", "ours"} <= figures.keys():
        rates = [figures[name]["tokens_per_second"] for name in ("ours", "raw")]
        print(f"our tokens a second of writing over raw vLLM's: {rates[0] / rates[1]:.2f}")
    if "ours" in figures:
        share = figures["ours"]["sync"] / figures["ours"]["wall"]
        print(f"weight sync, share of our step: {share:.1%}")


def measure_memory(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Find each side's largest batch of one device, by doubling."""
    model = build_model(asked, folder / "model")
    found: dict[str, Any] = {}
    for name in asked.sides or ["stock", "ours"]:
        setting = {**shape_setting(asked, name, folder, model), "shared": False}
        with workers([setting], folder) as sides:
            sides[name].hear("loaded")
            found[name] = sides[name].ask("memory", "memory")["tried"]
    print(f"\nlargest batch of one device, {asked.model}, completions of {asked.tokens} tokens")
    print(f"(doubled until memory ran out or {asked.most} rows; {asked.share:.0%} of the GPU kept")
    print(
        f" free as an engine's; gradient checkpointing {asked.checkpointing} in stock, off in ours)"
    )
    for name, tried in found.items():
        for row in tried:
            fits = (
                f"{row['seconds']:.1f} s, {row.get('peak_gib', 0):.1f} GiB" if row["fits"] else "-"
            )
            print(f"{name:6}{row['rows']:6d} rows  {fits}")
    if {"stock", "ours"} <= found.keys():
        most = {
            name: max((r["rows"] for r in found[name] if r["fits"]), default=0) for name in found
        }
        print(f"ours over stock's: {most['ours'] / max(most['stock'], 1):.1f}")
    return {"tried": found}


def measure_curves(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train both sides from one base on the same seeds, and compare their rewards."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for seed in range(asked.seeds):
        for name in asked.sides or ["stock", "ours"]:
            setting = recipe_setting(asked, name, folder)
            setting["stage"] = {**setting["stage"], "seed": seed}
            setting["stage"]["trainer"] = {
                **setting["stage"]["trainer"],
                **{"max_steps": asked.steps, "logging_steps": 1},
            }
            with workers([setting], folder) as sides:
                sides[name].hear("loaded")
                found = sides[name].ask("curve", "curve")
            curves.setdefault(name, []).append(found)
            told(f"{name}, seed {seed}: {found['seconds']:.0f} s")
    print(f"\nmean reward, {asked.seeds} seeds (± standard error)")
    print(f"{'steps':>12}" + "".join(f"{name:>20}" for name in curves))
    edges = [asked.steps * part // 8 for part in range(9)]
    table = []
    for first, last in itertools.pairwise(edges):
        cells = {name: spread_of(found, first, last) for name, found in curves.items()}
        table.append({"first": first, "last": last, **cells})
        shown = "".join(f"{mean:12.3f} ± {error:.3f}" for mean, error in cells.values())
        print(f"{f'{first}..{last - 1}':>12}{shown}")
    if {"stock", "ours"} <= curves.keys():
        whole = {name: spread_of(found, 0, asked.steps) for name, found in curves.items()}
        apart = whole["ours"][0] - whole["stock"][0]
        error = math.hypot(whole["ours"][1], whole["stock"][1])
        print(f"ours minus stock over all steps: {apart:+.4f} ± {error:.4f}")
    return {"curves": curves, "table": table}


def spread_of(curves: list[dict[str, Any]], first: int, last: int) -> tuple[float, float]:
    """Return the mean over seeds of the mean reward of some steps, and its standard error."""
    means = [statistics.fmean(each["rewards"][first:last]) for each in curves]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    return statistics.fmean(means), error


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


COMMANDS = {"step": measure_steps, "memory": measure_memory, "curve": measure_curves}

if __name__ == "__main__":
    sys.exit(main())
