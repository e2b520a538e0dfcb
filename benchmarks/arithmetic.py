"""RL on arithmetic within 1000: runs a recipe for several seeds, then writes what came of it.

    python benchmarks/arithmetic.py                              arithmetic_r1, seeds 0 1 2
    python benchmarks/arithmetic.py --recipe arithmetic_r1_zero
    python benchmarks/arithmetic.py --recipe arithmetic_r1_cpu --at-once 2
    python benchmarks/arithmetic.py --mini --out /tmp/mini       the same on a CPU, in a minute
    python benchmarks/arithmetic.py --no-run                     the tables of what is there
    python benchmarks/arithmetic.py --at-once 2                  seeds side by side on one GPU or 2
    python benchmarks/arithmetic.py model=tiny model.size=m      overrides; here the dense control

Every stage is an artifact under `--runs`: carry that folder to another machine, give the same
command, and it goes on. Writes `--out`.md and `--out`.png from these artifacts alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from arithmetic_bounds import error_bound, errors_of
from arithmetic_costs import Cost, busy_minutes, cost_of, on_a_gpu
from arithmetic_plots import write_curves

from r1pipe.available import visible_gpus
from r1pipe.data.sources import load_rows
from r1pipe.report.collect import collect
from r1pipe.report.records import Decoding, RunRecord
from r1pipe.schema import Source

ROOT = Path(__file__).parent.parent
OPERATIONS = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}
DECODINGS = {"greedy": "greedy", "t1": "T=1"}
MINI = (
    "model.size=nano",
    "launcher.cpu_threads=1",
    "rollout.batch_size=64",
    "data.limit=256",
    "stages.base.data.limit=2048",
    "stages.base.data.options.block=256",
    "stages.base.trainer.per_device_train_batch_size=64",
    "stages.r1_zero.trainer.per_device_train_batch_size=16",
    "stages.r1_zero.trainer.steps_per_generation=2",
    "stages.r1_zero.trainer.max_completion_length=32",
    "stages.r1_zero.trainer.max_steps=4",
    "evaluation.data.mix.reasoning.options.per_task=8",
    "evaluation.data.mix.beyond.options.per_task=4",
    "evaluation.data.mix.general.options.per_task=4",
    "evaluation.decodings.greedy.max_tokens=32",
    "evaluation.decodings.t1.max_tokens=32",
)
"""Overrides of every recipe for a CPU, whatever the model; nothing can be learnt in them."""
PLACES = ("seed", "name", "output_root", "jobs")
"""Overrides that say which run it is and where it lies, not what is trained."""
CHAINS = ("arithmetic_r1", "arithmetic_r1_cpu")
MINI_CHAIN = (
    *(
        f"stages.{name}.{key}"
        for name in ("cold_start_data", "rejection_sampling")
        for key in (
            "data.limit=64",
            "sampling.max_tokens=32",
            "keep={accuracy: null, format: null, language: null}",
        )
    ),
    *(
        f"stages.{name}.trainer.{key}"
        for name in ("cold_start_sft", "rejection_sft")
        for key in ("max_steps=3", "per_device_train_batch_size=16")
    ),
    *(
        f"stages.{name}.trainer.{key}"
        for name in ("reasoning_grpo", "all_domain_grpo")
        for key in (
            "max_steps=4",
            "steps_per_generation=2",
            "per_device_train_batch_size=16",
            "max_completion_length=32",
        )
    ),
    "stages.rejection_sft.data.mix.general.limit=32",
    "stages.all_domain_grpo.data.mix.reasoning.limit=48",
    "stages.all_domain_grpo.data.mix.general.limit=16",
)
"""Overrides of `CHAINS` beside those of `MINI`."""


def main() -> int:
    """Run, tabulate; returns the exit code of the first run that failed."""
    asked = arguments()
    if not asked.no_run:
        with ThreadPoolExecutor(asked.at_once) as pool:
            codes = list(pool.map(lambda seed: run(asked, seed), asked.seeds))
        if any(codes):
            return next(filter(None, codes))
    folders = [asked.runs / f"seed_{seed}" for seed in asked.seeds]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        sys.exit(f"no run is there: {', '.join(missing)}")
    runs = [collect(folder) for folder in folders]
    write_curves(runs, asked.out.with_suffix(".png"))
    text = page(runs, asked)
    asked.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def run(asked: argparse.Namespace, seed: int) -> int:
    """Run one seed, or what is left of it; returns its exit code."""
    command = run_command(asked, seed)
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment(asked, seed)).returncode


def environment(asked: argparse.Namespace, seed: int) -> dict[str, str]:
    """Return the environment of one seed's run: seeds side by side take the GPUs in turns."""
    gpus = visible_gpus() or 0
    if asked.at_once == 1 or gpus < 2:
        return dict(os.environ)
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    return {**os.environ, "CUDA_VISIBLE_DEVICES": named[asked.seeds.index(seed) % gpus].strip()}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what was asked for, with `runs` and `out` filled in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="arithmetic_r1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=1, help="seeds side by side")
    parser.add_argument("--runs", type=Path, help="folder of the runs (runs/RECIPE)")
    parser.add_argument("--out", type=Path, help="page and picture (docs/RECIPE)")
    parser.add_argument("--mini", action="store_true", help="a few steps of a tiny model")
    parser.add_argument("--no-run", action="store_true", help="only tabulate")
    asked, asked.overrides = parser.parse_known_args(given)
    asked.runs = (asked.runs or ROOT / "runs" / asked.recipe).resolve()
    asked.out = (asked.out or ROOT / "docs" / f"{asked.recipe}_results").resolve()
    if asked.mini:
        chain = MINI_CHAIN if asked.recipe in CHAINS else ()
        asked.overrides = [*MINI, *chain, *asked.overrides]
    return asked


def run_command(asked: argparse.Namespace, seed: int) -> list[str]:
    """Return the command line of one seed's run."""
    recipe = f"recipes/{asked.recipe}.yaml"
    place = [f"seed={seed}", f"name=seed_{seed}", f"output_root={asked.runs}"]
    return [sys.executable, "-m", "r1pipe", recipe, *place, *asked.overrides]


def page(runs: Sequence[RunRecord], asked: argparse.Namespace) -> str:
    """Return the results as Markdown."""
    mini = ["--mini"] if asked.mini else []
    given = [o for o in asked.overrides if o not in (*MINI, *MINI_CHAIN)]
    seeds = ["--seeds", *map(str, asked.seeds)] if asked.seeds != [0, 1, 2] else []
    recipe = ["--recipe", asked.recipe] if asked.recipe != "arithmetic_r1" else []
    command = " ".join(["python benchmarks/arithmetic.py", *recipe, *seeds, *mini, *given])
    parts = [
        f"# recipes/{asked.recipe}.yaml, {counted(len(runs), 'seed')}",
        f"Written by the command below from the artifacts of the runs; nothing is typed in.\n\n"
        f"    {command}",
        test_set(runs[0]),
        claims(runs),
        together(runs),
    ]
    for seed, run in zip(asked.seeds, runs, strict=True):
        parts.append(f"## Seed {seed}\n\n{machine(run)}")
        parts += [errors_table(run, name) for name in DECODINGS]
        parts += [cost_table(run), first_failures(run)]
    parts.append(
        "## Over training\n\nTraining prompts at T=1: share of wrong answers and tokens of a "
        f"completion, per operation, a faint line a seed.\n\n![]({asked.out.stem}.png)"
    )
    return "\n\n".join(parts) + "\n"


def test_set(run: RunRecord) -> str:
    """Return a sentence on how many problems are asked, and how many of them are distinct."""
    record = next((s.evaluation_stage for s in run.models if s.evaluation_stage), None)
    if record is None:
        return "Nothing was evaluated."
    lines = []
    for name, source in record.config.get("data", {}).get("mix", {}).items():
        rows = load_rows(Source(**source), 0)
        distinct = len({row["id"].split("|")[0] for row in rows})
        asked = f"{len(rows):,} prompts, {distinct:,} distinct problems"
        counts = {t: sum(row["task"] == t for row in rows) for t in {r["task"] for r in rows}}
        shown = ", ".join(f"{task} {count:,}" for task, count in sorted(counts.items()))
        lines.append(f"* `{name}`: {asked} ({shown})")
    return (
        "Held-out problems, never trained on; a problem asked in both languages is one problem. "
        "Errors in per cent; in brackets the one-sided 95 % upper bound (Clopper and Pearson).\n\n"
        + "\n".join(lines)
    )


def machine(run: RunRecord) -> str:
    """Return what the run ran with, as its artifacts say."""
    first = run.models[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    size = f"{first.parameters:,} parameters" if first.parameters else "unknown size"
    chosen = first.config.get("size")
    built = f"{first.config.get('architecture')} {chosen or ''}".strip()
    machines = dict.fromkeys(stage.machine for stage in run.stages if stage.machine)
    ran_on = "".join(f"{name}. " for name in machines)
    given = [f"`{o}`" for o in run.overrides if o.partition("=")[0] not in PLACES]
    return (
        f"{ran_on}Model: {built}, {size} with what trains it. {versions}. "
        f"Overrides: {', '.join(given) or 'none'}"
    )


def together(runs: Sequence[RunRecord]) -> str:
    """Return how long all runs took, and whether they ran side by side."""
    if not on_a_gpu(runs[0]):
        total = sum(cost_of(stage, cpu=True).seconds for run in runs for stage in run.every_stage)
        return f"All runs: {total / 60:.1f} CPU-minutes."
    apart = sum(busy_minutes(run.every_stage) for run in runs)
    whole = busy_minutes([stage for run in runs for stage in run.every_stage])
    if whole > 0.98 * apart:
        return f"All runs: {whole:.1f} GPU-minutes."
    return f"All runs: {apart:.1f} minutes of a GPU, side by side in {whole:.1f} of the clock."


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Shown:
    """Errors of some problems: count, of how many."""

    wrong: int
    asked: int

    @property
    def share(self) -> float:
        return self.wrong / self.asked if self.asked else 0.0

    @property
    def bound(self) -> float:
        return error_bound(self.wrong, self.asked)

    def __str__(self) -> str:
        return f"{100 * self.share:.2f} (≤ {100 * self.bound:.2f})"


def measured(decoding: Decoding | None, task: str | None) -> Shown | None:
    """Return the errors on one task, or on all reasoning problems; None where there are none."""
    if decoding is None:
        return None
    estimate = decoding.accuracy if task is None else decoding.tasks.get(task, {}).get("accuracy")
    return None if estimate is None else Shown(*errors_of(estimate))


def errors_table(run: RunRecord, decoding: str) -> str:
    """Return a table of errors per stage and operation."""
    head = ["stage", "from", "all", *OPERATIONS.values(), "out of range", "length", "format"]
    rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for stage in run.models:
        found = stage.decoding(decoding)
        if found is None:
            continue
        cells = [f"`{stage.name}`", f"`{stage.start}`" if stage.start else "random"]
        cells += [str(measured(found, task) or "–") for task in (None, *OPERATIONS)]
        far = found.domains.get("out_of_range", {}).get("accuracy")
        cells.append(f"{100 * (1 - far.mean):.1f}" if far else "–")
        scope = found.scope("reasoning")
        cells.append(f"{scope['length'].mean:.1f}" if "length" in scope else "–")
        cells.append(f"{100 * scope['format'].mean:.1f}" if "format" in scope else "–")
        rows.append(cells)
    return f"Errors, {DECODINGS[decoding]}:\n\n" + table(rows)


def cost_table(run: RunRecord) -> str:
    """Return what each stage cost: minutes, tokens trained and sampled."""
    head = ["stage", "steps", "minutes", "trained, M tokens", "sampled, M tokens", "sampled/s"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    total = Cost(0.0, 0, 0, 0.0)
    for stage in run.every_stage:
        cost = cost_of(stage, cpu=not on_a_gpu(run))
        total += cost
        rows.append([f"`{stage.name}`", str(stage.steps or "–"), *cost.cells()])
    rows.append(["sum of all", "", *total.cells()])
    return f"{_minutes_told(run, total)}\n\n" + table(rows)


def _minutes_told(run: RunRecord, total: Cost) -> str:
    """Return the sentence that says what is counted as minutes."""
    if not on_a_gpu(run):
        return f"CPU-minutes (of all threads, of a stage's last attempt): {total.seconds / 60:.1f}."
    return (
        f"GPU-minutes: {busy_minutes(run.every_stage):.1f} from the first stage's start to the "
        f"last one's end, {busy_minutes(run.stages):.1f} of them with a stage of the chain at "
        "work; stages side by side share the GPU, so the sum below is more."
    )


def first_failures(run: RunRecord, count: int = 10) -> str:
    """Return the first wrong greedy answers of the last model, in the order of the test set."""
    final = run.final
    if final is None:
        return ""
    wrong = [s for s in final.wrong if s.decoding == "greedy" and s.task in OPERATIONS]
    rows = [["problem", "answer", "written"], ["---", "---", "---"]]
    for sample in sorted(wrong, key=lambda s: list(OPERATIONS).index(s.task))[:count]:
        question = sample.prompt.strip().splitlines()[-1]
        rows.append([f"`{question}`", sample.answer, f"`{sample.completion[-160:]}`"])
    if len(rows) == 2:
        return f"`{final.name}` has no wrong greedy answer within 1000."
    return f"First wrong greedy answers of `{final.name}`:\n\n" + table(rows)


def claims(runs: Sequence[RunRecord]) -> str:
    """Return what was asked of the chain beside what each seed reached."""
    rows = [["claim", "wanted", *[run.name for run in runs], "reached"]]
    rows.append(["---", "---", *["---:"] * len(runs), "---"])
    for text, wanted, holds, show in _claims():
        values = [show(run) for run in runs]
        if all(value is None for value in values):
            continue
        good = all(value is not None and holds(value) for value in values)
        cells = ["–" if value is None else f"{value:.2f}" for value in values]
        rows.append([text, wanted, *cells, "yes" if good else "**no**"])
    return "## What was asked\n\n" + table(rows)


def _claims() -> Iterator[tuple]:
    """Yield (text, wanted, whether a value holds, how a run shows it)."""

    def error(name: str | None, task: str | None, bound: bool = False):
        def show(run: RunRecord) -> float | None:
            stage = run.final if name is None else run.stage(name)
            found = measured(stage.decoding("greedy") if stage else None, task)
            return None if found is None else 100 * (found.bound if bound else found.share)

        return show

    def ratio(task: str | None):
        def show(run: RunRecord) -> float | None:
            after = run.stage("all_domain_grpo")
            before = run.stage(after.start) if after else None
            pair = [measured(s.decoding("greedy") if s else None, task) for s in (before, after)]
            if pair[0] is None or pair[1] is None:
                return None
            # Without an error after it, at least as many times as if there were one.
            return pair[0].wrong / max(pair[1].wrong, 1)

        return show

    yield "base: error, greedy, %", "> 90", lambda v: v > 90, error("base", None)
    yield "R1-Zero: error, greedy, %", "< 5", lambda v: v < 5, error("r1_zero", None)
    yield "last model: error, greedy, bound, %", "< 0.5", lambda v: v < 0.5, error(None, None, True)
    for task, sign in OPERATIONS.items():
        text = f"last model: error on {sign}, greedy, bound, %"
        yield text, "< 1", lambda v: v < 1, error(None, task, True)
    yield "last RL: errors before / after, greedy", "≥ 5", lambda v: v >= 5, ratio(None)
    yield "the same on ÷", "≥ 5", lambda v: v >= 5, ratio("div")
    minutes = "GPU-minutes, evaluations included"
    yield minutes, "≤ 15", lambda v: v <= 15, _gpu_minutes
    fastest = "thousand tokens written a second, last RL stage"
    yield fastest, "≥ 300", lambda v: v >= 300, _writing_speed


def _gpu_minutes(run: RunRecord) -> float | None:
    return busy_minutes(run.every_stage) if on_a_gpu(run) else None


def _writing_speed(run: RunRecord) -> float | None:
    if not on_a_gpu(run):
        return None
    trained = [stage for stage in run.stages if stage.kind == "grpo"]
    speed = cost_of(trained[-1]).sampled_per_second if trained else 0.0
    return speed / 1000 if speed else None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
