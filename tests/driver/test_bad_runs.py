"""What a newcomer gets wrong, through the command line and through the stages themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from r1pipe import registry
from r1pipe.__main__ import main
from r1pipe.artifact import ERROR_FILE
from r1pipe.errors import StageFailed, UserError
from r1pipe.models.tiny import build_tiny_model, build_tiny_tokenizer
from r1pipe.stages import grpo, sft
from r1pipe.worker import main as work
from tests.stages import tiny

TINY = "recipes/tiny_r1.yaml"
GRPO = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 4}
QUICK = {"max_steps": 3, "save_steps": 1, "beta": 0.0, **GRPO}


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return code, text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def outlive_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker dies with its driver; the process of the tests need not."""
    monkeypatch.setattr("r1pipe.worker.die_with_parent", lambda: None)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call with the text of a plugin: it is loaded as if the process had just started."""

    def load(text: str, name: str = "mine.py") -> None:
        (tmp_path / "mine.py").write_text(text)
        place = str(tmp_path / name) if name.endswith(".py") else name
        monkeypatch.setenv(registry.PLUGIN_VARIABLE, place)
        monkeypatch.setattr(registry, "_plugins_loaded", False)
        monkeypatch.setattr(registry.REWARDS, "_known", dict(registry.REWARDS._known))

    return load


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"not: [yaml", ["mine.yaml:", "not YAML"]),
        (b"", ["mine.yaml", "is empty", "recipes copy"]),
        (b"just text", ["not a mapping"]),
        (b"\xff\xfe\x00", ["not UTF-8"]),
        (b"name: x\nstages: {}\n", ["nothing of conf/base.yaml", "output_root"]),
        (b"defaults: [base, _self_]\nname: x\n_target_: os.system\n", ["`_target_`", "unknown"]),
        (b"defaults: [base, _self_]\nhydra: {run: {dir: x}}\n", ["configure Hydra", "`hydra`"]),
        (b"defaults: [base, {override /hydra/launcher: x}, _self_]\n", ["configure Hydra"]),
        (b"defaults: [base, {stage@stages.a: gropo}, _self_]\n", ["did you mean `grpo`?"]),
    ],
)
def test_a_broken_recipe(
    text: bytes, words: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_bytes(text)
    code, shown = ask(capsys, str(recipe), "dry_run=true")
    assert code == 2 and all(word in shown for word in words), shown


def test_a_recipe_cannot_run_code_through_a_sweep(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text("defaults: [base, {more: bad}, _self_]\n")
    (tmp_path / "more").mkdir()
    spell = f"hydra: {{callbacks: {{a: {{_target_: os.mkdir, path: {tmp_path / 'pwned'}}}}}}}\n"
    (tmp_path / "more" / "bad.yaml").write_text(f"# @package _global_\n{spell}")
    code, text = ask(capsys, str(recipe), "-m", "seed=1,2", "dry_run=true")
    assert code == 2 and "bad.yaml" in text
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("", "lost.py", ["no such plugin file"]),
        ("", "no_such_module_here", ["ModuleNotFoundError", "no_such_module_here"]),
        ("def x(:\n", "mine.py", ["mine.py:1"]),
        ("\n1 / 0\n", "mine.py", ["mine.py:2", "ZeroDivisionError"]),
    ],
)
def test_a_plugin_that_cannot_be_loaded(
    text: str, name: str, words: list[str], plugins: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins(text, name)
    code, shown = ask(capsys, "stage=grpo", "dry_run=true")
    assert code == 2 and all(word in shown for word in ["R1PIPE_PLUGINS", *words]), shown


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("no_config", ["no config.json"]),
        ("no_weights", ["no weights"]),
        ("pickle", ["only .bin weights", "safetensors"]),
        ("no_tokenizer", ["no tokenizer", "model.load.tokenizer"]),
    ],
)
def test_a_folder_that_is_no_model(
    mistake: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"config.json", "model.safetensors", "tokenizer.json"}
    lost = {"no_config": "config.json", "no_tokenizer": "tokenizer.json"}
    names -= {lost.get(mistake, "model.safetensors")}
    names |= {"pytorch_model.bin"} if mistake == "pickle" else set()
    for name in names:
        (tmp_path / name).write_text("{}")
    code, shown = ask(capsys, "stage=sft", "model=hf", f"model.path={tmp_path}", "dry_run=true")
    assert code == 2 and all(word in shown for word in words), shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PAR1 garbage", ["not a readable Parquet file"]),
        (None, ["no column `prompt`", "question"]),
    ],
)
def test_a_parquet_file_is_looked_into(
    content: bytes | None, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    if content is None:
        pyarrow.parquet.write_table(pyarrow.table({"question": ["1+1"]}), path)
    else:
        path.write_bytes(content)
    code, shown = ask(capsys, "stage=grpo", f"data.path={path}", "dry_run=true")
    assert code == 2 and all(word in shown for word in words), shown


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["launcher=slurm"], ["`launcher`", "sbatch"]),
        (["launcher=zero3"], ["`launcher`", "a GPU each", "launcher=local"]),
        (["tracker=wandb", "rollout=vllm_colocate"], ["`wandb`", "`vllm`", "2 problems"]),
        (["model.load.fused=true"], ["`model.load.fused`", "triton", "fused=null"]),
    ],
)
def test_what_this_machine_has_not_is_said_before_anything_starts(
    overrides: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("r1pipe.available.find_spec", lambda name: None)
    monkeypatch.setattr("r1pipe.available.visible_gpus", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, shown = ask(capsys, "stage=grpo", f"output_root={tmp_path}", *overrides)
    assert code == 2 and all(word in shown for word in words), shown
    assert not (tmp_path / "single").exists()


def test_fused_layers_are_asked_for_where_a_gpu_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r1pipe.available.find_spec", lambda name: name)
    monkeypatch.setattr("r1pipe.available.visible_gpus", lambda: 0)
    asked = ["stage=grpo", f"output_root={tmp_path}", "model.load.fused=true"]
    code, shown = ask(capsys, *asked)
    assert code == 2 and "there is none here" in shown and "fused=null" in shown


def test_a_file_where_the_results_should_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("")
    code, shown = ask(capsys, "stage=grpo", f"output_root={tmp_path}/runs/deep", "dry_run=true")
    assert code == 2 and "is not a folder" in shown


def test_an_unwritable_place_for_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = ask(capsys, "stage=grpo", "output_root=/proc/nowhere")
    assert code == 2 and "cannot be written to" in shown


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["seed=1,x", "'name=run_${seed}'"], ["`seed`", "integer"]),
        (["seed=1,2"], ["an earlier job of this sweep", "run_${seed}"]),
    ],
)
def test_a_sweep_reports_as_a_run_does(
    argv: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    argv = [argument.strip("'") for argument in argv]
    code, shown = ask(capsys, "stage=grpo", "-m", *argv, "dry_run=true")
    assert code == 2 and all(word in shown for word in words), shown


def test_a_sweep_runs_every_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert main(["stage=grpo", "-m", "seed=1,2", "name=run_${seed}", "dry_run=true"]) == 0
    shown = capsys.readouterr().out
    assert "runs/run_1/grpo" in shown and "runs/run_2/grpo" in shown


def test_an_unforeseen_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of the blue")

    monkeypatch.setattr("r1pipe.cli.make_plan", broken)
    code, shown = ask(capsys, TINY, "dry_run=true")
    assert code == 1 and "out of the blue" in shown and "R1PIPE_TRACEBACK" in shown


# Stages: what only a loaded model, tokenizer and data can show.


def use(monkeypatch: pytest.MonkeyPatch, module: Any, rows: Any, rewards: Any = None) -> None:
    monkeypatch.setattr(module, "load_data", lambda *_, **__: rows)
    if rewards is not None:
        monkeypatch.setattr(module, "build_rewards", lambda *_: (rewards, [1.0] * len(rewards)))


def test_a_reward_that_never_changes_is_refused(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(completions: list[str], **columns: Any) -> list[float]:
        return [0.5] * len(completions)

    use(monkeypatch, grpo, tiny.rows(16), [same])
    with pytest.raises(UserError, match=r"the reward is 0\.5 on gold answers"):
        grpo.run(tiny.context(tmp_path / "run", tiny.grpo_stage(model, **QUICK)))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("engine", ["compact", "transformers"])
def test_an_exploding_learning_rate_stops_before_the_next_update(
    engine: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, grpo, tiny.rows(16), [tiny.digits])
    stage = tiny.grpo_stage(model, engine, **{**QUICK, "learning_rate": 1e30, "max_steps": 6})
    context = tiny.context(tmp_path / "run", stage)
    with pytest.raises((StageFailed, RuntimeError)) as failed:
        grpo.run(context)
    if engine == "compact":
        assert "step 2:" in str(failed.value) and "not finite" in str(failed.value)
    assert [path.name for path in context.checkpoints.iterdir()] == ["checkpoint-1"]


def test_completions_as_long_as_the_context_leave_no_room(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, grpo, tiny.rows(16), [tiny.digits])
    stage = tiny.grpo_stage(model, **{**QUICK, "max_completion_length": 200})
    with pytest.raises(UserError, match="take the whole context and 72 tokens more"):
        grpo.run(tiny.context(tmp_path / "run", stage))


def test_rows_without_a_token_of_their_completion_are_refused_or_dropped(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny.rows(8).to_list()
    rows[2]["prompt"] = "12345678901234567890+1="
    from datasets import Dataset

    use(monkeypatch, sft, Dataset.from_list(rows))
    options = {"max_length": 12, "max_steps": 1, "per_device_train_batch_size": 4}
    stage = tiny.sft_stage(model, **options)
    with pytest.raises(UserError, match=r"1 of 8 rows .* \(first: row 3, "):
        sft.run(tiny.context(tmp_path / "run", stage))
    drop = stage.model_copy(update={"data": stage.data.model_copy(update={"overlong": "drop"})})
    outcome = sft.run(tiny.context(tmp_path / "drop", drop))
    assert outcome.metrics["rows_cut"] == 0


def test_rows_that_lose_their_end_are_counted(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny.rows(8).map(lambda row: {"completion": row["completion"] * 20})
    use(monkeypatch, sft, rows)
    options = {"max_length": 12, "max_steps": 1, "per_device_train_batch_size": 4}
    outcome = sft.run(tiny.context(tmp_path / "run", tiny.sft_stage(model, **options)))
    assert outcome.metrics["rows_cut"] == 8


def test_an_unknown_size_of_the_tiny_model_is_the_users_mistake(tmp_path: Path) -> None:
    stage = _stage_file(tmp_path, "pretrain", "stage.size=huge")
    assert work(stage) == 2
    assert "huge" in json.loads((stage / ERROR_FILE).read_text())["message"]


def test_a_recipe_that_denies_what_the_chat_template_opens_is_refused(tmp_path: Path) -> None:
    build_tiny_model("nano", 0).save_pretrained(tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(tmp_path / "model")
    template = tmp_path / "think.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}<think>")
    stage = _stage_file(
        tmp_path,
        "grpo",
        "model=hf",
        f"model.path={tmp_path / 'model'}",
        f"model.load.chat_template={template}",
        "data.chat=true",
        "data.limit=32",
        "stage.trainer.max_completion_length=8",
        "+reward.format.prefilled=false",
    )
    assert work(stage) == 2
    message = json.loads((stage / ERROR_FILE).read_text())["message"]
    assert "rewards.format.prefilled" in message and "the prompt opens it" in message


def test_an_own_reward_trains_adapters_on_own_columns(
    model: str, tmp_path: Path, plugins: Any
) -> None:
    plugins(
        "from r1pipe.registry import register_reward\n"
        "@register_reward('brevity')\n"
        "def brevity(completions, **columns):\n"
        "    return [1.0 / (1 + len(text)) for text in completions]\n"
    )
    found = tiny.rows(16).to_list()
    rows = [{"q": row["prompt"], "a": row["answer"], "language": "en"} for row in found]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = _stage_file(
        tmp_path,
        "grpo",
        "model=hf",
        f"model.path={model}",
        "model.lora={r: 2, alpha: 4, dropout: 0.0, target_modules: all-linear}",
        f"data.path={data}",
        "data.columns={prompt: q, answer: a}",
        "reward.brevity.weight=1.0",
        # This tokenizer has no tags, which the shipped rewards read.
        *(f"reward.{name}=null" for name in ("accuracy", "format", "language")),
        "stage.trainer.sync_ref_model=false",
        *(f"stage.trainer.{name}={value}" for name, value in QUICK.items()),
    )
    assert work(stage) == 0
    assert (stage / "model" / "model.safetensors").is_file()
    assert "rewards/brevity/mean" in (stage / "metrics.jsonl").read_text()


def _stage_file(root: Path, kind: str, *overrides: str) -> Path:
    """Prepare what the driver would for one stage, and return the folder it works in."""
    from r1pipe.compose import compose_recipe
    from r1pipe.pipeline import prepare
    from r1pipe.plan import make_plan
    from r1pipe.validate import validate

    asked = [f"stage={kind}", f"output_root={root / 'runs'}", *overrides]
    plan = make_plan(validate(*compose_recipe("config", asked)))
    return prepare(plan, plan.stages[kind])
