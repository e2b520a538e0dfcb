"""Draws curves and accuracies with matplotlib, as small SVGs that follow the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.report.compare import (
    OPERATION_SIGNS,
    decoding_title,
    decodings,
    gains,
    reasoning_tasks,
    task_title,
)
from r1pipe.report.records import Estimate, RunRecord, StageRecord
from r1pipe.report.svg import INK, MUTED, PAPER, RC, SERIES, Picture, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = 9
"""Points of the running mean drawn over long, noisy curves."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its label and the values by step (None where not logged)."""

    label: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """A small picture: title with unit, its lines, and whether it is a share of one (0..100 %)."""

    title: str
    curves: list[Curve]
    share: bool = False


def panels(stage: StageRecord) -> list[Panel]:
    """Return what a stage logged as panels, in reading order; panels without data are left out."""
    history = stage.history
    components = sorted(
        {
            key.split("/")[1]
            for row in history
            for key in row
            if key.startswith("rewards/") and key.endswith("/mean")
        }
    )
    single: list[tuple[str, str, dict[str, Any]]] = [
        ("reward", "reward, weighted sum", {}),
        ("completions/mean_length", "completion length, tokens", {}),
        ("completions/clipped_ratio", "cut off at the limit, % of completions", {"share": True}),
        ("frac_reward_zero_std", "groups without spread, %", {"share": True}),
        ("sampling/generated_per_used", "completions written for one trained on", {}),
        ("sampling/dropped_groups", "groups without spread, dropped a batch", {}),
        ("sampling/filled_groups", "groups without spread in a batch all the same", {}),
        ("sampling/replayed_groups", "groups taken again, a batch", {}),
        ("sampling/rounds", "rounds of writing a batch", {}),
        ("entropy", "entropy, nats a token", {}),
        ("kl", "KL to the reference, nats a token", {}),
        ("loss", "loss", {}),
        ("mean_token_accuracy", "tokens predicted, %", {"share": True}),
        ("mtp_loss", "loss of multi-token prediction, before its weight", {}),
        ("balance_loss", "balance loss of the experts, weighted", {}),
        ("experts/max_violation", "load of the busiest expert over the mean", {}),
        ("learning_rate", "learning rate", {}),
        ("grad_norm", "gradient norm", {}),
        ("rollout/logp_diff_mean", "engine against trainer, mean |Δ log p|, nats", {}),
        ("mismatch/kl_k3", "KL of the engine to the trainer, nats a token", {}),
        ("mismatch/ess", "effective sample size of the importance weights, share", {}),
        ("tokens_per_second", "tokens a second", {}),
        ("generated_tokens_per_second", "tokens written a second of writing", {}),
        ("share_of_raw_speed", "that speed over the engine's alone", {}),
    ]
    found = []
    for key, title, options in single:
        curve = _curve(history, key)
        if key == "tokens_per_second" and curve is None:
            curve = _speed(history)
        if key == "experts/max_violation" and curve is not None:
            worst = _curve(history, f"{key}_worst_layer", "worst layer")
            found.append(Panel(title, [replace(curve, label="mean"), *filter(None, [worst])]))
        elif curve is not None:
            found.append(Panel(title, [curve], **options))
        if key == "sampling/rounds":
            found += _resting(history)
        if key == "reward" and components:
            curves = [_curve(history, f"rewards/{c}/mean", c) for c in components]
            found.append(Panel("reward by component, mean", [c for c in curves if c]))
            found += _by_task(history, components)
    if phases := _phases(history):
        found.append(Panel("where a step's seconds go", phases))
    return found


PHASES = {
    "writing": ("generate_time",),
    "update": ("update_time",),
    "scoring": ("score_time",),
    "rewards": ("reward_time",),
    "weights to the engine": ("sync_time", "check_time"),
    "other": ("other_time",),
}


def _phases(history: list[dict[str, Any]]) -> list[Curve]:
    """Return the seconds of a step by phase, phases that are never there left out."""
    steps = [row for row in history if isinstance(row.get("generate_time"), (int, float))]
    curves = []
    for label, keys in PHASES.items():
        values = [sum(float(row.get(key) or 0.0) for key in keys) for row in steps]
        if any(values):
            curves.append(Curve(label, [row["step"] for row in steps], values))
    return curves


def _resting(history: list[dict[str, Any]]) -> list[Panel]:
    """Return the shares of prompts that the difficulty filter leaves out, by why."""
    reasons = {"solved": "difficulty/resting_solved", "unsolved": "difficulty/resting_unsolved"}
    curves = [_curve(history, key, label) for label, key in reasons.items()]
    drawn = [curve for curve in curves if curve]
    return [Panel("prompts that rest, %", drawn, share=True)] if drawn else []


def _by_task(history: list[dict[str, Any]], components: Sequence[str]) -> list[Panel]:
    """Return the panels of one measure for every task: whether the answer is right, and length."""
    keys = {key for row in history for key in row if key.startswith("tasks/")}
    tasks = sorted({key.split("/")[1] for key in keys}, key=_task_order)
    wanted = [("accuracy", "answers right by task, %", True)] if "accuracy" in components else []
    wanted.append(("length", "completion length by task, tokens", False))
    found = []
    for measure, title, share in wanted:
        curves = [_curve(history, f"tasks/{t}/{measure}", task_title(t)) for t in tasks]
        drawn = [curve for curve in curves if curve]
        if 1 < len(drawn) <= len(SERIES):
            found.append(Panel(title, drawn, share=share))
    return found


def _task_order(task: str) -> tuple[int, str]:
    known = list(OPERATION_SIGNS)
    return (known.index(task) if task in known else len(known), task)


def _curve(history: list[dict[str, Any]], key: str, label: str = "") -> Curve | None:
    found = [
        (row["step"], float(row[key]))
        for row in history
        if isinstance(row.get("step"), int) and isinstance(row.get(key), (int, float))
    ]
    if not found:
        return None
    return Curve(label, [step for step, _ in found], [value for _, value in found])


def _speed(history: list[dict[str, Any]]) -> Curve | None:
    """Tokens per second from the token counter and the seconds per step."""
    steps, values = [], []
    for before, row in pairwise(history):
        tokens = (row.get("num_tokens") or 0) - (before.get("num_tokens") or 0)
        seconds = (row.get("step_time") or 0) * (row.get("step", 0) - before.get("step", 0))
        if tokens > 0 and seconds > 0:
            steps.append(row["step"])
            values.append(tokens / seconds)
    return Curve("", steps, values) if steps else None


def running_mean(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Return the centred mean over `window` values, over fewer at both ends."""
    half = window // 2
    means = []
    for index in range(len(values)):
        near = values[max(0, index - half) : index + half + 1]
        means.append(sum(near) / len(near))
    return means


def draw_panels(stage: StageRecord) -> list[Picture]:
    """Return one small picture per panel of a stage."""
    return [_draw_panel(stage, panel) for panel in panels(stage)]


def _draw_panel(stage: StageRecord, panel: Panel) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.14, 0.85, 0.72))
        factor = 100.0 if panel.share else 1.0
        for curve, colour in zip(panel.curves, SERIES, strict=False):
            values = [factor * value for value in curve.values]
            noisy = len(values) >= 3 * WINDOW
            if noisy:
                axes.plot(curve.steps, values, color=colour, linewidth=0.7, alpha=0.35)
            shown = running_mean(values) if noisy else values
            marker = "o" if len(values) < 3 else None
            label = curve.label or None
            axes.plot(
                curve.steps, shown, color=colour, linewidth=1.5, label=label, marker=marker, ms=3
            )
        axes.set_title(panel.title)
        axes.locator_params(axis="both", nbins=4)
        axes.margins(x=0.01)
        _plain_numbers(axes)
        if panel.share:
            axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        elif len(panel.curves) == 1 and len(set(panel.curves[0].values)) == 1:
            value = panel.curves[0].values[0]
            axes.set_ylim(0, 2 * value) if value > 0 else None
        if len(panel.curves) > 1:
            _label_ends(axes, panel, factor)
        axes.annotate("step", (1, 0), (0, -17), "axes fraction", "offset points", ha="right",
                      fontsize=7, color=MUTED)  # fmt: skip

    first, last = panel.curves[0].values[0], panel.curves[0].values[-1]
    what = f"{panel.title} of {stage.name}"
    alt = f"{what}: from {first:.3g} to {last:.3g} over {len(panel.curves[0].steps)} logged steps"
    if len(panel.curves) > 1:
        ends = ", ".join(f"{c.label} {c.values[-1]:.3g}" for c in panel.curves)
        alt = f"{what}; at the end {ends}"
    return Picture(to_svg(draw, 3.1, 1.75, alt), alt)


def _label_ends(axes: Axes, panel: Panel, factor: float) -> None:
    """Write each line's name at its end, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.11
    ends = sorted(
        (factor * running_mean(c.values)[-1], c.label, colour)
        for c, colour in zip(panel.curves, SERIES, strict=False)
    )
    places: list[float] = []
    for value, _, _ in ends:
        places.append(max(value, places[-1] + gap) if places else value)
    over = max(0.0, places[-1] - high) if places else 0.0
    axes.set_position((0.13, 0.14, 0.64, 0.72))
    for (_, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label, (1, place - over), (4, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=7, color=colour, annotation_clip=False,
        )  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    def show(value: float, _: int) -> str:
        if value and abs(value) < 1e-3:
            return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e−")
        if abs(value) >= 10_000:
            return f"{value / 1000:g}k"
        return f"{value:g}".replace("-", "−")

    axes.yaxis.set_major_formatter(FuncFormatter(show))


def accuracy_rows(run: RunRecord, task: str | None) -> list[tuple[str, dict[str, Estimate]]]:
    """Return (stage, decoding -> accuracy) per measured model, of all problems or one task."""
    table: dict[str, dict[str, Estimate]] = {}
    for name in decodings(run):
        for row in gains(run, name):
            value = row.accuracy if task is None else row.operations.get(task)
            if value is not None:
                table.setdefault(row.stage.name, {})[name] = value
    return list(table.items())


def draw_accuracy(run: RunRecord, task: str | None, width: float, labels: bool = True) -> Picture:
    """Draw accuracy of every model with its interval; an arrow from where its training began."""
    rows = accuracy_rows(run, task)
    title = "all operations" if task is None else f"{task_title(task)}  {task}"

    def draw(figure: Figure) -> None:
        draw_accuracy_axes(figure, run, rows, title if task else None, labels)

    parts = [
        f"{name} "
        + ", ".join(f"{100 * v.mean:.1f} % {decoding_title(d)}" for d, v in values.items())
        for name, values in rows
    ]
    alt = f"accuracy per stage, {title}: " + "; ".join(parts)
    return Picture(to_svg(draw, width, 0.62 + 0.34 * len(rows), alt), alt)


def draw_accuracy_axes(
    figure: Figure,
    run: RunRecord,
    rows: list[tuple[str, dict[str, Estimate]]],
    title: str | None,
    labels: bool,
) -> None:
    """Draw the accuracy picture into a figure; stages from top to bottom in chain order."""
    width, height = figure.get_size_inches()
    left = 1.28 / width
    top = (0.3 if title or labels else 0.1) / height
    axes = figure.add_axes((left, 0.3 / height, 0.945 - left, 1 - 0.3 / height - top))
    names = decodings(run)
    place = {stage: -number for number, (stage, _) in enumerate(rows)}
    values = dict(rows)
    last = names[-1]
    for stage, scores in rows:
        record = run.stage(stage)
        start = values.get(record.start or "") if record else None
        if start and last in start and last in scores:
            _arrow(axes, 100 * start[last].mean, 100 * scores[last].mean, place[stage])
        for number, name in enumerate(names):
            if name in scores:
                _dot(axes, scores[name], place[stage] + 0.17 - 0.34 * number, number)
    axes.set_yticks(list(place.values()), list(place), color=INK)
    axes.set_xlim(-1.5, 101.5)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    if title:
        axes.set_title(title, fontsize=10)
    if labels:
        _legend(axes, names, width)


def _dot(axes: Axes, value: Estimate, y: float, number: int) -> None:
    axes.errorbar(
        100 * value.mean,
        y,
        xerr=[[100 * (value.mean - value.low)], [100 * (value.high - value.mean)]],
        fmt="os^D"[number % 4],
        color=SERIES[number % len(SERIES)],
        markersize=4.2,
        elinewidth=1.3,
        capsize=2,
        capthick=1,
        zorder=3,
    )


def _arrow(axes: Axes, start: float, end: float, y: float) -> None:
    """From the T=1 accuracy of the stage it was trained from to its own."""
    axes.plot([start, start], [y - 0.34, y], color=MUTED, linewidth=1, zorder=1)
    axes.annotate(
        "", (end, y - 0.17), (start, y - 0.17), zorder=1,
        arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 1, "alpha": 0.55,
                    "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip


def _legend(axes: Axes, names: list[str], width: float) -> None:
    at, offset = "axes fraction", "offset points"
    for number, name in enumerate(names):
        text = f"{'●■▲◆'[number % 4]} {decoding_title(name)}"
        colour = SERIES[number % len(SERIES)]
        axes.annotate(text, (0, 1), (58 * number, 6), at, offset, fontsize=8, color=colour)
    if width > 5:  # the caption says it too
        text = "│─ from where its training began"
        axes.annotate(text, (1, 1), (0, 6), at, offset, fontsize=8, color=MUTED, ha="right")


def draw_operations(run: RunRecord, width: float = 3.9) -> list[Picture]:
    """Return the accuracy picture of each reasoning task."""
    return [draw_accuracy(run, task, width, labels=False) for task in reasoning_tasks(run)]


def write_png(run: RunRecord, path: Path) -> Path | None:
    """Write the accuracy picture on white, 2x pixels; None when nothing was evaluated."""
    rows = accuracy_rows(run, None)
    if not rows:
        return None
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.6, 0.62 + 0.34 * len(rows)))
        FigureCanvasAgg(figure)
        draw_accuracy_axes(figure, run, rows, None, True)
        aside = path.with_name(path.name + ".tmp")
        figure.savefig(aside, format="png", dpi=200, facecolor=PAPER)
    return aside.replace(path)
