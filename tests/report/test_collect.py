"""Runs are read as they are: finished, half finished, damaged, or written by another recipe."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from r1pipe.report.collect import collect
from tests.report.fake_run import CHAIN, write_fake_run

SHORT = CHAIN[:1] + CHAIN[2:5]  # base, r1_zero, cold_start_data, cold_start_sft


def test_stages_stand_in_chain_order_with_roots_beside_their_first_reader(full_run: Path) -> None:
    names = [stage.name for stage in collect(full_run).stages]
    assert names[:3] == ["base", "r1_zero", "cold_start_data"]
    assert names.index("student_base") > names.index("all_domain_grpo")
    assert names.index("student_base") < names.index("distill")
    assert not any(name.endswith("_eval") for name in names)


def test_arrows_say_what_they_carry(full_run: Path) -> None:
    run = collect(full_run)
    rejection = run.stage("rejection_sft")
    sampling = run.stage("rejection_sampling")
    assert rejection is not None and sampling is not None
    assert {(i.stage, i.edge) for i in rejection.inputs} == {
        ("base", "weights"),
        ("rejection_sampling", "data"),
    }
    assert [(i.stage, i.edge) for i in sampling.inputs] == [("reasoning_grpo", "teacher")]
    assert run.final is not None and run.final.name == "all_domain_grpo"
    assert run.root(run.final).name == "base"


def test_wall_clock_figures_are_found_under_timing(full_run: Path) -> None:
    base = collect(full_run).stage("base")
    assert base is not None and base.history[0]["tokens_per_second"] > 0


def test_a_run_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        collect(tmp_path / "nowhere")


def test_an_empty_folder_is_a_run_without_stages(tmp_path: Path) -> None:
    assert collect(tmp_path).stages == []


def test_a_stage_in_progress_is_read_from_partial(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=SHORT)
    partial = run_dir / ".partial" / "cold_start_sft"
    shutil.rmtree(run_dir / "cold_start_sft_eval")
    partial.parent.mkdir()
    shutil.move(run_dir / "cold_start_sft", partial)
    manifest = json.loads((partial / "manifest.json").read_text())
    (partial / "manifest.json").unlink()
    stage = {"name": "cold_start_sft", "fingerprint": "f", "stage": manifest["config"]}
    (partial / "stage.json").write_text(json.dumps(stage))
    (partial / "progress.json").write_text('{"phase": "train", "done": 3, "total": 20}')
    with (partial / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 21, "lo')  # cut off by a kill
    record = collect(run_dir).stage("cold_start_sft")
    assert record is not None
    assert (record.status, record.kind, record.steps) == ("unfinished", "sft", 20)
    assert record.progress["done"] == 3
    assert {i.stage for i in record.inputs} == {"base", "cold_start_data"}


def test_a_failed_stage_tells_why(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=SHORT[:1])
    partial = run_dir / ".partial" / "base"
    partial.mkdir(parents=True)
    shutil.rmtree(run_dir / "base")
    (partial / "error.json").write_text('{"message": "loss is NaN at step 7", "exit_code": 1}')
    record = collect(run_dir).stage("base")
    assert record is not None and (record.status, record.error) == (
        "failed",
        "loss is NaN at step 7",
    )


def test_missing_and_damaged_files_leave_gaps_not_errors(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=SHORT)
    shutil.rmtree(run_dir / "r1_zero")
    (run_dir / "base" / "manifest.json").write_text('{"status": "comp')
    (run_dir / "base_eval" / "evaluation.json").write_bytes(b"\xff\xfe\x00")
    (run_dir / "base_eval" / "samples.jsonl").write_text('[1]\nnull\n{"id": 3, "rewards": 4}\n')
    (run_dir / "resolved.yaml").write_text("stages: [")
    run = collect(run_dir)
    statuses = {stage.name: stage.status for stage in run.stages}
    assert statuses["base"] == "damaged"
    assert statuses["r1_zero"] == "not run"
    assert statuses["cold_start_sft"] == "complete"


def test_what_another_version_of_the_recipe_left_is_not_shown(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=SHORT)
    recipe = json.loads((run_dir / "recipe.json").read_text())
    del recipe["stages"]["r1_zero"]
    (run_dir / "recipe.json").write_text(json.dumps(recipe))
    assert collect(run_dir).stage("r1_zero") is None


def test_parameters_are_counted_from_the_weights(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=SHORT[:1])
    manifest = run_dir / "base" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["metrics"] = {}
    manifest.write_text(json.dumps(content))
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 4]}, "b": {"shape": [5]}}).encode()
    (run_dir / "base" / "model").mkdir()
    weights = run_dir / "base" / "model" / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header)
    base = collect(run_dir).stage("base")
    assert base is not None and base.parameters == 17


@pytest.mark.parametrize(
    ("noted", "machine", "gpus"),
    [
        ({"processor": "P", "threads": 2, "gpus": []}, "P, 2 threads", 0),
        ({"processor": "P", "threads": 9, "gpus": ["H"]}, "H", 1),
        ({"processor": "P", "threads": 9, "gpus": ["H", "A", "H"]}, "2 × H, A", 3),
        ({"processor": "P", "gpus": None}, None, None),
        (["P"], None, None),
        (None, None, None),
    ],
)
def test_a_stage_says_what_it_ran_on(
    noted: object, machine: str | None, gpus: int | None, tmp_path: Path
) -> None:
    path = write_fake_run(tmp_path, chain=SHORT) / "base" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "machine": noted}))
    record = collect(tmp_path).stage("base")
    assert record is not None and (record.machine, record.gpus) == (machine, gpus)
