"""From arguments to a run: compose, validate, plan, then print the plan or carry it out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.compose import (
    SINGLE,
    check_recipe_file,
    check_shadowing,
    check_sweep_files,
    compose_recipe,
    forced,
    register_resolvers,
)
from r1pipe.echoes import as_written, causes
from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.plan import Plan, make_plan
from r1pipe.recipes import conf_dir, recipes_dir
from r1pipe.schema import Run
from r1pipe.validate import validate


@dataclass(frozen=True)
class Request:
    """What the command line names."""

    config_name: str
    config_dir: Path | None
    overrides: list[str]
    show: str | None = None


def run_command(arguments: list[str], hydra_flags: tuple[str, ...]) -> int:
    """Run what the arguments ask for; returns the exit code."""
    if any(argument in hydra_flags for argument in arguments):
        return run_with_hydra(arguments)
    request = parse(arguments)
    composed, unresolved = compose_recipe(
        request.config_name, request.overrides, request.config_dir
    )
    try:
        if request.show is not None:
            return show(composed, unresolved)
        run = validate(composed, unresolved)
        return execute(run, composed, request.config_name, request.overrides)
    except UserError as error:
        if request.config_name != SINGLE:
            raise
        kind = list(composed["stages"])[-1]
        raise UserError(as_written(error.problems, kind)) from error


def show(composed: dict[str, Any], unresolved: list[Problem]) -> int:
    """Print the composed config as YAML."""
    from omegaconf import OmegaConf

    if unresolved:
        raise UserError(causes(unresolved))
    print(OmegaConf.to_yaml(OmegaConf.create(composed)), end="")
    return 0


def execute(run: Run, composed: dict[str, Any], recipe: str, overrides: list[str]) -> int:
    """Plan a validated run, then print the plan or carry it out; or describe its model."""
    if run.describe:
        from r1pipe.describing import describe_run

        print(describe_run(run))
        return 0
    plan = make_plan(run)
    if run.dry_run:
        print(plan_table(plan))
        return 0
    from r1pipe.available import missing_here
    from r1pipe.pipeline import run_pipeline

    if problems := missing_here(plan):
        raise UserError(problems)
    code = run_pipeline(plan, Path(recipe).stem, composed, overrides)
    if run.report and (code == 0 or any(plan.run_dir.glob("*/manifest.json"))):
        from r1pipe.report import print_gains, write_report

        print_gains(plan.run_dir)
        print(f"report: {write_report(plan.run_dir)}")
    return code


def parse(arguments: list[str]) -> Request:
    """Split arguments into the recipe, Hydra's few flags and overrides."""
    name, folder, show = SINGLE, None, None
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, _, inline = argument.partition("=")
        if flag in ("-cd", "--config-dir"):
            folder = Path(inline or _value_of(flag, rest))
        elif flag in ("-cn", "--config-name"):
            name = inline or _value_of(flag, rest)
        elif flag in ("-c", "--cfg"):
            show = inline or next(rest, "job")
            if show != "job":
                raise UserError(Problem(flag, f"shows `job`, not `{show}`", "`--cfg job`"))
        elif argument == "--resolve":
            continue
        elif argument.startswith("-"):
            raise UserError(Problem(argument, "unknown option", "see `r1pipe --help`"))
        elif "=" not in argument and not argument.startswith("~"):
            path = find_recipe(argument)
            name, folder = path.stem, path.parent
        else:
            overrides.append(argument)
    asked = any(override.lower() == "describe=true" for override in overrides)
    if name == SINGLE and asked and not _names_stage(overrides):
        overrides.append("stage=eval")  # a model is described without a stage
    if folder is not None and not folder.is_dir():
        raise UserError(Problem("--config-dir", f"no such directory: `{folder}`"))
    return Request(name, folder, overrides, show)


def _names_stage(overrides: list[str]) -> bool:
    return any(override.startswith("stage=") for override in overrides)


def _value_of(flag: str, rest: Iterator[str]) -> str:
    value = next(rest, "")
    if not value:
        raise UserError(Problem(flag, "needs a value", "see `r1pipe --help`"))
    return value


def find_recipe(word: str) -> Path:
    """Return the recipe file a word names: a path, or the name of a shipped recipe."""
    if Path(word).is_file():
        if Path(word).suffix != ".yaml":
            raise UserError(Problem(word, "a recipe is a file whose name ends in .yaml"))
        return Path(word)
    shipped = recipes_dir() / f"{Path(word).stem}.yaml"
    if Path(word).name == word and shipped.is_file():
        return shipped
    known = {path.stem for path in recipes_dir().glob("*.yaml")}
    folder = Path(word).parent
    known |= {str(path) for path in folder.glob("*.yaml")} if folder.name else set()
    raise UserError(Problem(word, "there is no such recipe", did_you_mean(word, known)))


def run_with_hydra(arguments: list[str]) -> int:
    """Hand over to Hydra's own command line: sweeps, --info, shell completion."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    register_resolvers()
    home: Path | None = None
    request_path = next((a for a in arguments if a.endswith((".yaml", ".yml"))), None)
    conf, name = conf_dir().resolve(), SINGLE
    argv = [argument for argument in arguments if argument != request_path]
    # Hydra's parser takes no flag between two overrides.
    flags = [argument for argument in argv if argument.startswith("-")]
    own = [argument for argument in argv if argument.startswith("hydra")]
    values = [argument for argument in argv if argument not in (*flags, *own)]
    argv = [*flags, *own, *forced(values, Path(request_path or conf).parent)]
    if request_path is not None:
        path = find_recipe(request_path)
        name, home = path.stem, path.parent
        check_recipe_file(path.parent, name)
        if path.parent.resolve() != recipes_dir().resolve():
            check_sweep_files(path.parent)
        check_shadowing(name, path.parent.resolve(), conf)
        argv = ["--config-dir", str(path.parent.resolve()), *argv]
    codes: list[int] = []
    problems: list[Problem] = []
    places: set[tuple[str, str]] = set()

    @hydra.main(config_path=str(conf), config_name=name, version_base="1.3")
    def job(config: Any) -> float:
        try:
            # Composed anew, as a single run is: what `loss` names has its values then.
            task = list(HydraConfig.get().overrides.task)
            composed, unresolved = compose_recipe(name, task, home)
            run = validate(composed, unresolved)
            if (place := (run.output_root, run.name)) in places:
                what = "an earlier job of this sweep has written there"
                hint = "give each job its own: `'name=run_${seed}'`"
                raise UserError(Problem(f"name={run.name}", what, hint))
            places.add(place)
            codes.append(execute(run, composed, name, []))
        except UserError as error:  # Hydra would print its traceback
            problems.extend(error.problems)
            codes.append(error.exit_code)
        return float(codes[-1])

    sys.argv = ["r1pipe", *argv]
    job()
    if problems:
        raise UserError(problems)
    return max(codes, default=0)


def plan_table(plan: Plan) -> str:
    """Return the plan as text: stage, kind, inputs -> output, launcher, steps, skip or run."""
    rows = [("stage", "kind", "inputs", "output", "launcher", "steps", "action")]
    for planned in plan.stages.values():
        stage = planned.stage
        inputs = ", ".join(arrow.producer or arrow.reference for arrow in planned.inputs)
        action = f"{planned.action} ({planned.why})" if planned.why else planned.action
        output = str(planned.output)
        rows.append(
            (planned.name, stage.kind, inputs, output, stage.launcher.name, steps(stage), action)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def steps(stage: Any) -> str:
    """Return how long a stage is: optimizer steps, epochs, or completions."""
    trainer = getattr(stage, "trainer", None)
    if trainer is not None:
        limit = trainer.get("max_steps", -1)
        return str(limit) if limit > 0 else f"{trainer.get('num_train_epochs', 3):g} epochs"
    rows = stage.data.limit
    samplings = [stage.sampling] if stage.kind == "sample" else list(stage.decodings.values())
    each = sum(sampling.num_samples for sampling in samplings)
    return f"{rows} x {each}" if rows else f"all x {each}"
