"""Bad requests: every problem at once, with the key, what was expected and a hint; exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.__main__ import main

TINY = "recipes/tiny_r1.yaml"


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nmae=x", ["`nmae`", "unknown key", "did you mean `name`?"]),
        ("stages.r1_zero.trainer.lerning_rate=1", ["lerning_rate", "`learning_rate`"]),
        ("stages.r1_zero.data.limt=3", ["stages.r1_zero.data.limt", "did you mean `limit`?"]),
        ("stages.r1_zero.trainer.beta=much", ["trainer.beta", "expected", "float", "`much`"]),
        ("jobs=two", ["`jobs`", "integer", "`two`"]),
        ("seed=1.5", ["`seed`", "integer"]),
        ("stages.r1_zero.rewards.acuracy={weight:1}", ["acuracy", "did you mean `accuracy`?"]),
        ("stages.r1_zero.rewards.accuracy.wieght=1", ["wieght"]),
        ("stages.r1_zero.init_from=${stages.bse.output_dir}", ["bse", "did you mean `base`?"]),
        ("stages.r1_zero.init_from=${stages.r1_zero_eval.output_dir}", ["not in the recipe"]),
        (
            "stages.r1_zero.init_from=${stages.distill_data.output_dir}",
            ["needs a model", "dataset"],
        ),
        ("stages.rejection_sft.data.mix.general.path=task:genral", ["did you mean `general`?"]),
        ("stages.base.architecture=tiny_qwen", ["did you mean `tiny_qwen3`?"]),
        ("stages.base.data.path=lost/rows.jsonl", ["no such file", "lost/rows.jsonl"]),
        ("launcher=zero33", ["there is no `zero33`", "did you mean `zero3`?"]),
        ("only=[r1_zer]", ["there is no stage `r1_zer`", "did you mean `r1_zero`?"]),
        ("from_stage=nowhere", ["from_stage", "nowhere"]),
        ("stages.r1_zero.kind=gropo", ["`gropo` is not a kind of stage", "did you mean `grpo`?"]),
        ("stages.r1_zero.trainer.output_dir=x", ["r1pipe sets this field"]),
        ("stages.cold_start_data.keep.langage=1.0", ["langage", "did you mean `language`?"]),
        ("stages.r1_zero.data.template=hello", ["has no `{prompt}`"]),
        ("tracker.name=mlflow", ["tracker.name", "wandb"]),
        (
            "reward.accuracy.methd=exact",
            ["`reward.accuracy.methd`", "did you mean `method`?", "1 problem\n"],
        ),
        ("model.load.dtyp=float32", ["`model.load.dtyp`", "did you mean `dtype`?", "1 problem\n"]),
        (
            "evaluation.decodings.greedy.temp=1",
            ["`evaluation.decodings.greedy.temp`", "1 problem\n"],
        ),
        ("evaluation.kind=grpo", ["`evaluation.kind`", "'eval'", "1 problem\n"]),
        (
            "evaluation.rewards.acuracy.weight=1",
            ["`evaluation.rewards.acuracy`", "`accuracy`?", "1 problem\n"],
        ),
        ("stages.cold_start_data.few_shot.path=task:trces", ["did you mean `traces`?"]),
        ("stages.r1_zero.data.options.weigths.add=1", ["did you mean `weights`?"]),
        ("stages.r1_zero.data.split=trian", ["'train' or 'test'", "'trian'"]),
        ("stages.r1_zer.trainer.max_steps=1", ["no such stage", "did you mean `r1_zero`?"]),
        ("stages.r1_zero=3", ["`stages.r1_zero`", "expected a mapping"]),
        ("stages=3", ["`stages`", "expected a mapping"]),
        ("stages.r1_zero.init_from=''", ["names no model"]),
        ("stages.r1_zero.output_dir=elsewhere", ["output_root/name/stage"]),
        ("stages.r1_zero.trainer.num_generations=7", ["7 completions a prompt", "256"]),
        ("stages.r1_zero.trainer.max_steps=0", ["1 step or more"]),
        ("stages.r1_zero.trainer.learning_rate=nan", ["a finite number"]),
        ("stages.r1_zero.trainer.lr_scheduler_type=cosin", ["cosine", "`cosin`"]),
        ("stages.r1_zero.trainer.loss_type=gspo", ["dr_grpo", "`gspo`"]),
        (
            "stages.r1_zero.lora={r:4,alpha:8,dropout:0.0,target_modules:a}",
            ["sync_ref_model=false"],
        ),
        ("stages.cold_start_data.rollout={vllm_mode:server}", ["server_url", "r1pipe serve"]),
        (
            "stages.r1_zero.rollout={vllm_mode:server,server_url:localhost:80}",
            ["`http://host:port`", "localhost:80"],
        ),
        ("data=null", ["`data=null`", "cannot be null"]),
        ("seed=-1", ["`seed`", "greater than or equal to 0"]),
        ("name=a/b", ["`name`", "without `/`"]),
        ("name='${oc.env:NO_SUCH_VARIABLE}'", ["`name`", "NO_SUCH_VARIABLE", "1 problem\n"]),
        ("name=a,b", ["`name=a,b`", "-m"]),
        ("hydra.searchpath=[file:///]", ["Hydra's own settings"]),
        ("only=[]", ["`only`", "names no stage"]),
    ],
)
def test_one_mistake_is_named(
    override: str, words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = ask(capsys, TINY, override, f"output_root={tmp_path}", "dry_run=true")
    assert code == 2
    missing = [word for word in words if word not in text]
    assert not missing, text
    assert "Traceback" not in text


def test_all_mistakes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(
        capsys,
        TINY,
        "nmae=x",
        "jobs=0",
        "stages.r1_zero.trainer.lerning_rate=1",
        "stages.cold_start_sft.data.limt=3",
        "dry_run=true",
    )
    assert code == 2
    assert all(word in text for word in ("nmae", "`jobs`", "lerning_rate", "limt", "4 problems"))


def test_cycle_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(
        capsys,
        TINY,
        "stages.cold_start_sft.init_from=${stages.reasoning_grpo.output_dir}",
        "dry_run=true",
    )
    assert code == 2
    assert "in a circle" in text and "cold_start_sft" in text and "reasoning_grpo" in text


def test_value_that_refers_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(capsys, TINY, "name=${name}", "dry_run=true")
    assert code == 2 and "`name`" in text and "Traceback" not in text


@pytest.mark.parametrize("word", ["tiny_r2", "recipes/tiny_r2.yaml", "tiny-r1"])
def test_unknown_recipe_lists_what_is_there(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(capsys, word, "dry_run=true")
    assert code == 2 and "tiny_r1" in text


def test_no_stage_given(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(capsys, "name=x")
    assert code == 2 and "stage=grpo" in text


def test_unknown_stage(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(capsys, "stage=gpro")
    assert code == 2 and "did you mean `grpo`?" in text


def test_garbled_override(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ask(capsys, TINY, "a=[1,", "b={", "dry_run=true")
    assert code == 2 and "2 problems" in text and "not an override" in text


def test_bad_rows_are_named_by_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'{"prompt": "a", "answer": "1"}\n{"prompt": "b", "ans')
    code, text = ask(capsys, "stage=grpo", f"data.path={rows}", "dry_run=true")
    assert code == 2 and f"{rows}:2" in text and "1 problem\n" in text


def test_data_without_the_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "1"}\n')
    code, text = ask(capsys, "stage=grpo", f"data.path={rows}", "dry_run=true")
    assert code == 2 and "prompt" in text and "question" in text
    code, _ = ask(
        capsys,
        "stage=grpo",
        f"data.path={rows}",
        "data.columns.prompt=question",
        "dry_run=true",
        f"output_root={tmp_path}",
    )
    assert code == 0
