"""A stage killed anywhere and run again ends bit-identical to one that was never disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from r1pipe.schema import Auxiliary
from tests.stages import tiny
from tests.stages.children import KILLED, in_child, kill_at_training_step, results, train

GRPO = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "num_iterations": 2,
    "steps_per_generation": 4,
    "beta": 0.1,
    "sync_ref_model": True,
    "ref_model_sync_steps": 2,
    "ref_model_mixup_alpha": 0.5,
    "save_total_limit": 2,
}
SFT = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_length": 16}
DISTILL = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 6,
}
# name: (stage, trainer options, training steps [micro-batches] at which each attempt is killed)
CASES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "sft": ("sft", {**SFT, "max_steps": 10, "save_steps": 3}, [9, 10]),
    "sft, second epoch": ("sft", {**SFT, "num_train_epochs": 3, "save_steps": 5}, [15, 9]),
    "sft, saved between two logs": (
        "sft",
        {**SFT, "max_steps": 9, "save_steps": 2, "logging_steps": 3},
        [10],
    ),
    "sft, grouped by length": (
        "sft",
        {
            **SFT,
            "num_train_epochs": 3,
            "save_steps": 5,
            "train_sampling_strategy": "group_by_length",
        },
        [13],
    ),
    "sft, length windows": (
        "sft",
        {**SFT, "length_window": 2, "num_train_epochs": 3, "save_steps": 3},
        [17],
    ),
    "grpo, inside a window": ("grpo", {**GRPO, "max_steps": 18, "save_steps": 3}, [8, 7]),
    "grpo, saved between two logs": (
        "grpo",
        {**GRPO, "max_steps": 14, "save_steps": 5, "logging_steps": 4},
        [9],
    ),
    "grpo, second epoch": (
        "grpo",
        {**GRPO, "num_iterations": 1, "steps_per_generation": 2, "max_steps": 40, "save_steps": 7},
        [37],
    ),
    "grpo, compact loop": (
        "grpo",
        {**GRPO, "engine": "compact", "max_steps": 10, "save_steps": 3},
        [8],
    ),
    "distill": ("distill", {**DISTILL, "max_steps": 6, "save_steps": 2}, [7]),
    # The load of experts is counted over micro-batches, and logged over several steps.
    "sft, experts saved between two logs": (
        "sft of experts",
        {**SFT, "max_steps": 9, "save_steps": 2, "logging_steps": 3},
        [10],
    ),
    "grpo, experts inside a window": (
        "grpo of experts",
        {**GRPO, "engine": "compact", "max_steps": 10, "save_steps": 3},
        [8],
    ),
    "distill, experts": ("distill of experts", {**DISTILL, "max_steps": 6, "save_steps": 2}, [7]),
}
AUXILIARY = Auxiliary(bias_update_speed=0.125, mtp_loss_weight=0.3)


def stage(kind: str, models: dict[str, str], options: dict[str, Any]) -> Any:
    kind, _, of_what = kind.partition(" of ")
    student = models[of_what or "student"]
    if kind == "distill":
        teacher = models["teacher"] if not of_what else student
        made: Any = tiny.distill_stage(student, teacher, **options)
    else:
        make = {"sft": tiny.sft_stage, "grpo": tiny.grpo_stage}[kind]
        made = make(student, **options)
    return made.model_copy(update={"auxiliary": AUXILIARY}) if of_what else made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny.save_model(folder / name, seed)
        for seed, name in enumerate(["student", "teacher"])
    } | {"experts": tiny.save_mixture(folder / "experts")}


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_undisturbed(
    case: str, models: dict[str, str], tmp_path: Path
) -> None:
    kind, options, kills = CASES[case]
    config = stage(kind, models, options)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert in_child(lambda: train(tiny.context(undisturbed, config))) == 0

    def killed_at(number: int) -> None:
        kill_at_training_step(number)
        train(tiny.context(disturbed, config))

    for number in kills:
        assert in_child(lambda number=number: killed_at(number)) == KILLED
    assert list((disturbed / "checkpoints").glob("checkpoint-*"))
    assert in_child(lambda: train(tiny.context(disturbed, config))) == 0

    weights, rows, outcome = results(undisturbed)
    assert results(disturbed)[1] == rows
    assert results(disturbed)[0] == weights
    assert results(disturbed)[2] == outcome
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_resume_after_the_last_step_trains_no_further(
    models: dict[str, str], tmp_path: Path
) -> None:
    config = tiny.sft_stage(models["student"], **SFT, max_steps=3, save_steps=2)
    context = tiny.context(tmp_path / "run", config)
    assert in_child(lambda: train(context)) == 0
    first = results(context.workdir)
    assert in_child(lambda: train(context)) == 0
    assert results(context.workdir) == first


def test_completions_are_those_of_an_undisturbed_run(
    models: dict[str, str], tmp_path: Path
) -> None:
    import pandas

    config = tiny.grpo_stage(models["student"], **GRPO, max_steps=6, save_steps=2)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"

    def killed() -> None:
        kill_at_training_step(4)
        train(tiny.context(disturbed, config))

    assert in_child(lambda: train(tiny.context(undisturbed, config))) == 0
    assert in_child(killed) == KILLED
    assert in_child(lambda: train(tiny.context(disturbed, config))) == 0
    files = sorted(path.name for path in (undisturbed / "completions").iterdir())
    assert len(files) == 6
    for name in files:
        expected = pandas.read_parquet(undisturbed / "completions" / name)
        found = pandas.read_parquet(disturbed / "completions" / name)
        pandas.testing.assert_frame_equal(found, expected)
