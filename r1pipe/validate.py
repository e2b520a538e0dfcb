"""Every config error at once, before anything heavy is imported or anything is written."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from r1pipe.architecture_fields import architecture_problems
from r1pipe.compose import RECIPE_HINT
from r1pipe.echoes import causes, without_echoes
from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.launch import preset_path
from r1pipe.registry import REWARDS, TASKS
from r1pipe.sampling_fields import pass_rate_problems, sampling_problems
from r1pipe.schema import (
    EVAL_SUFFIX,
    MODEL_KINDS,
    RewardTerm,
    Run,
    Stage,
    StageBase,
)
from r1pipe.serving.protocol import Address
from r1pipe.trainer_fields import (
    OWNED_BY_R1PIPE,
    expected_type,
    expected_value,
    trainer_fields,
)

STAGE_HINT = "every stage starts from `- stage@stages.NAME: KIND` in the defaults list"
MAPPING_ERRORS = ("dict_type", "mapping_type", "model_type", "model_attributes_type")

STAGE_TYPES: dict[str, type[BaseModel]] = {
    typing.get_args(member.model_fields["kind"].annotation)[0]: member
    for member in typing.get_args(typing.get_args(Stage)[0])
}


def validate(config: dict[str, Any], unresolved: Sequence[Problem] = ()) -> Run:
    """Return the typed run of a composed config; raises UserError with every problem.

    `unresolved` are the values composition could not fill in; they are reported with the rest.
    """
    config = with_evaluations(config)
    problems: list[Problem] = []
    run: Run | None = None
    try:
        run = Run.model_validate(config)
    except ValidationError as error:
        problems += _schema_problems(error, config)
    if isinstance(rewards := config.get("reward"), dict):
        problems += _reward_problems("reward", rewards)
    if isinstance(model := config.get("model"), dict) and model.get("architecture") is not None:
        problems += architecture_problems("model", model)
    if isinstance(template := config.get("evaluation"), dict):
        problems += _stage_problems("evaluation", template)
    stages = config.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            problems += _stage_problems(f"stages.{name}", stage)
    if not stages:
        problems.append(Problem("stages", "the recipe has no stages", STAGE_HINT))
    if run is not None:
        problems += _choice_problems(run)
        problems += _place_problems(run)
    known = {problem.where for problem in unresolved}
    problems = [p for p in problems if p.where not in known]
    if found := without_echoes([*causes(unresolved, bool(problems)), *problems]):
        raise UserError(found)
    assert run is not None
    return run


def with_evaluations(config: dict[str, Any]) -> dict[str, Any]:
    """Add `NAME_eval` after each model stage when the recipe says how to evaluate."""
    template, stages = config.get("evaluation"), config.get("stages")
    if not isinstance(template, dict) or not isinstance(stages, dict):
        return config
    if template.get("kind") != "eval":  # the schema says so, once
        return config
    expanded: dict[str, Any] = {}
    for name, stage in stages.items():
        expanded[name] = stage
        if isinstance(stage, dict) and stage.get("kind") in MODEL_KINDS:
            made = str(stage.get("output_dir"))
            arrow = {"init_from": made, "output_dir": made + EVAL_SUFFIX}
            expanded.setdefault(name + EVAL_SUFFIX, {**template, **arrow})
    return {**config, "stages": expanded}


def _schema_problems(error: ValidationError, config: dict[str, Any]) -> list[Problem]:
    items = error.errors(include_url=False)
    absent = [str(i["loc"][0]) for i in items if i["type"] == "missing" and len(i["loc"]) == 1]
    problems: dict[str, Problem] = {}
    if len(absent) > 1:
        what = f"nothing of conf/base.yaml is in it: {', '.join(absent)}"
        problems["recipe"] = Problem("recipe", what, RECIPE_HINT)
    for item in items:
        problem = _schema_problem(item, config)
        if not (item["type"] == "missing" and problem.where in problems.keys() | absent[1:]):
            problems.setdefault(problem.where, problem)
    if len(absent) > 1:
        problems.pop(absent[0], None)
    return list(problems.values())


def _schema_problem(item: Any, config: dict[str, Any]) -> Problem:
    loc = _without_types(item["loc"])
    key = ".".join(str(part) for part in loc)
    received, wrong = item.get("input"), item["type"]
    if wrong == "extra_forbidden":
        return Problem(key, "unknown key", did_you_mean(str(loc[-1]), _known(loc[:-1], config)))
    if wrong == "missing":
        of_stage = len(loc) == 3 and loc[0] == "stages"
        return Problem(key, "a value is required", STAGE_HINT if of_stage else f"add `{key}=...`")
    if wrong in ("union_tag_invalid", "union_tag_not_found"):
        kind = received.get("kind") if isinstance(received, dict) else received
        if kind is None:
            others = [name for name in config["stages"] if name != loc[-1]]
            return Problem(key, "there is no such stage", did_you_mean(str(loc[-1]), others))
        hint = did_you_mean(str(kind), STAGE_TYPES)
        return Problem(f"{key}.kind", f"`{kind}` is not a kind of stage", hint)
    if key.endswith(".architecture") and received is None:
        what = "the run's model is one that is loaded, with no architecture to build"
        hint = "`model=tiny` and `model=tiny_mla_moe` are built; or leave this stage out"
        return Problem(key, what, hint)
    expected = "expected a mapping of keys" if wrong in MAPPING_ERRORS else item["msg"].lower()
    return Problem(key, f"{expected}, received {_shown(received)}")


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value)
    return f"`{text[:57] + '...' if len(text) > 60 else text}` ({type(value).__name__})"


def _without_types(loc: tuple[Any, ...]) -> list[Any]:
    """Return an error's path without what pydantic adds: the kind of stage, the type tried."""
    parts = list(loc)
    if len(parts) > 2 and parts[0] == "stages" and parts[2] in STAGE_TYPES:
        del parts[2]
    if len(parts) > 1 and str(parts[-1]) in ("str", "int", "list[str]"):
        del parts[-1]
    return parts


def _known(loc: list[Any], config: dict[str, Any]) -> set[str]:
    """Return the field names the schema has at `loc`."""
    model: Any = Run
    for depth, part in enumerate(loc):
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        elif typing.get_origin(model) is dict:
            model = typing.get_args(model)[1]
        model = _one_model(model)
        if depth == 1 and loc[0] == "stages":
            stage = config.get("stages", {}).get(part, {})
            model = STAGE_TYPES.get(stage.get("kind"))
    if isinstance(model, type) and issubclass(model, BaseModel):
        return set(model.model_fields)
    return set()


def _one_model(annotation: Any) -> Any:
    """Return the model (or mapping) inside `X | None`; a stage union is left as it is."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def _stage_problems(key: str, stage: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    kind = stage.get("kind")
    trainer = stage.get("trainer")
    if kind in MODEL_KINDS and isinstance(trainer, dict):
        problems += _trainer_problems(f"{key}.trainer", str(kind), trainer)
    if isinstance(rewards := stage.get("rewards"), dict):
        problems += _reward_problems(f"{key}.rewards", rewards)
        keep = stage.get("keep")
        for name, least in keep.items() if isinstance(keep, dict) else ():
            if rewards.get(name) is None and least is not None:
                hint = did_you_mean(str(name), [n for n, term in rewards.items() if term])
                what = "not among this stage's rewards"
                problems.append(Problem(f"{key}.keep.{name}", what, hint))
    if kind == "grpo" and isinstance(trainer, dict):
        if stage.get("lora") is not None and trainer.get("sync_ref_model"):
            what = "with LoRA the reference is the model without adapters, which never changes"
            hint = f"set `{key}.trainer.sync_ref_model=false`"
            problems.append(Problem(f"{key}.trainer.sync_ref_model", what, hint))
        problems += _group_problems(f"{key}.trainer", trainer, stage.get("launcher"))
        if isinstance(rewards, dict) and not any(rewards.values()):
            hint = "`reward=NAME`, a file of conf/reward/"
            problems.append(Problem(f"{key}.rewards", "there is no reward to train on", hint))
        problems += sampling_problems(key, stage)
    if kind == "sample":
        problems += pass_rate_problems(key, stage)
    rollout = stage.get("rollout")
    rollout = rollout if isinstance(rollout, dict) else {}
    if rollout.get("vllm_mode") == "server":
        problems += _server_problems(f"{key}.rollout.server_url", rollout.get("server_url"))
    if kind == "pretrain" and stage.get("architecture") is not None:
        problems += architecture_problems(key, stage)
    if isinstance(data := stage.get("data"), dict):
        problems += _data_problems(f"{key}.data", data)
    if isinstance(few_shot := stage.get("few_shot"), dict):
        source = {**few_shot, "split": "train", "limit": 1}
        problems += _task_problems(f"{key}.few_shot", source)
    return problems


def _server_problems(key: str, url: Any) -> list[Problem]:
    hint = "the URL that `r1pipe serve` prints"
    if url is None:
        return [Problem(key, "no generation server is named", hint)]
    try:
        Address.read(str(url))
    except ValueError as error:
        return [Problem(key, f"{error}, received {_shown(url)}", hint)]
    return []


def _group_problems(key: str, trainer: dict[str, Any], launcher: Any) -> list[Problem]:
    """Return whether the completions of one generation fall into whole groups."""
    launcher = launcher if isinstance(launcher, dict) else {}
    size, made_of = trainer.get("generation_batch_size"), "generation_batch_size"
    if size is None:
        ranks = [launcher.get(name, 1) for name in ("num_processes", "num_machines")]
        steps = trainer.get("steps_per_generation") or trainer.get("gradient_accumulation_steps", 1)
        factors = [trainer.get("per_device_train_batch_size", 8), steps, *ranks]
        if not all(isinstance(factor, int) for factor in factors):
            return []
        size = math.prod(factors)
        made_of = "per_device_train_batch_size x steps_per_generation x processes"
    groups = trainer.get("num_generations", 8)
    if not isinstance(groups, int) or groups < 2 or size < 1 or size % groups == 0:
        return []
    what = f"{groups} completions a prompt do not divide the {size} of one generation ({made_of})"
    hint = f"a multiple of {groups} for the batch, or a divisor of {size} here"
    return [Problem(f"{key}.num_generations", what, hint)]


def _trainer_problems(key: str, kind: str, trainer: dict[str, Any]) -> list[Problem]:
    problems = []
    fields = trainer_fields(kind)
    for name, value in trainer.items():
        if name in OWNED_BY_R1PIPE:
            what = f"r1pipe sets this field; use {OWNED_BY_R1PIPE[name]}"
            problems.append(Problem(f"{key}.{name}", what))
        elif name not in fields:
            hint = did_you_mean(str(name), fields)
            what = "the installed TRL has no such field for this kind of stage"
            problems.append(Problem(f"{key}.{name}", what, hint))
        elif expected := expected_type(fields[name], value):
            what = f"expected {expected}, received {_shown(value)}"
            problems.append(Problem(f"{key}.{name}", what))
        elif expected := expected_value(kind, name, value):
            problems.append(Problem(f"{key}.{name}", f"expected {expected}; received `{value}`"))
    return problems


def _reward_problems(key: str, rewards: dict[str, Any]) -> list[Problem]:
    from r1pipe.rewards import check_reward_terms

    known = REWARDS.names()
    unknown = [name for name in rewards if name not in known]
    problems = [
        Problem(f"{key}.{name}", "no reward is registered by this name", did_you_mean(name, known))
        for name in unknown
    ]
    typed: dict[str, RewardTerm | None] = {}
    for name, term in rewards.items():
        if name not in unknown:
            # A term that is not even a mapping with a weight was reported by the schema.
            with contextlib.suppress(ValidationError):
                typed[name] = None if term is None else RewardTerm.model_validate(term)
    found = check_reward_terms(typed)
    return problems + [Problem(f"{key}.{p.where}", p.what, p.hint) for p in found]


def _data_problems(key: str, data: dict[str, Any]) -> list[Problem]:
    problems = []
    path, mix = data.get("path"), data.get("mix") or {}
    if path is None and not mix:
        problems.append(Problem(f"{key}.path", "no data given", f"set `{key}.path=...`"))
    if path is not None and mix:
        what = "given beside `mix`; a stage reads one or the other"
        problems.append(Problem(f"{key}.path", what, f"set `{key}.path=null`"))
    template = data.get("template")
    if isinstance(template, str) and "{prompt}" not in template:
        problems.append(Problem(f"{key}.template", "has no `{prompt}` in it"))
    if data.get("system_prompt") and data.get("chat") is False:
        problems.append(Problem(f"{key}.system_prompt", "needs `chat: true`"))
    sources = {key: data} | {f"{key}.mix.{n}": s for n, s in mix.items() if isinstance(s, dict)}
    for where, source in sources.items():
        if source.get("path") == "":
            problems.append(Problem(f"{where}.path", "no data given", f"set `{where}.path=...`"))
        problems += _task_problems(where, source)
    return problems


def _task_problems(where: str, source: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with a generated task: its name, and what its first row says."""
    reference = source.get("path")
    if not isinstance(reference, str) or not reference.startswith("task:"):
        return []
    name = reference.removeprefix("task:")
    if name not in TASKS.names():
        hint = did_you_mean(name, TASKS.names())
        return [Problem(f"{where}.path", f"no task `{name}` is registered", hint)]
    options = source.get("options") or {}
    if not TASKS.shipped(name) or not isinstance(options, dict):
        return []
    task = TASKS.get(name)
    declared = inspect.signature(task).parameters
    known = list(declared)[3:]
    unknown = [option for option in options if option not in known]
    if unknown:
        what = f"task `{name}` has no such option"
        return [Problem(f"{where}.options.{o}", what, did_you_mean(o, known)) for o in unknown]
    for option, value in options.items():
        if isinstance(declared[option].default, bool) and not isinstance(value, bool):
            what = f"input should be true or false, received {_shown(value)}"
            return [Problem(f"{where}.options.{option}", what)]
    asked = [source.get("split", "train"), source.get("limit"), options]
    wrong = _first_row_error(name, json.dumps(asked, default=str))
    return [Problem(where, f"task `{name}`: {wrong}")] if wrong else []


@functools.cache
def _first_row_error(name: str, asked: str) -> str | None:
    """Return what a shipped task says against its split, limit and options, as JSON."""
    split, limit, options = json.loads(asked)
    try:
        next(iter(TASKS.get(name)(split, 0, limit, **options)), None)
    except (ValueError, TypeError, KeyError) as error:
        return str(error)
    return None


def _choice_problems(run: Run) -> list[Problem]:
    """Problems of the run as a whole: names that must be stages."""
    chosen = [run.only] if isinstance(run.only, str) else list(run.only or [])
    if run.only == []:
        return [Problem("only", "names no stage", did_you_mean("", run.stages))]
    problems = [
        Problem("only", f"there is no stage `{name}`", did_you_mean(name, run.stages))
        for name in chosen
        if name not in run.stages
    ]
    for key in ("from_stage", "until"):
        name = getattr(run, key)
        if name is not None and name not in run.stages:
            hint = did_you_mean(name, run.stages)
            problems.append(Problem(key, f"there is no stage `{name}`", hint))
    for name, stage in run.stages.items():
        problems += _launcher_problems(f"stages.{name}", stage)
    return problems


def _launcher_problems(key: str, stage: StageBase) -> list[Problem]:
    launcher = stage.launcher
    problems = []
    if launcher.command in ("accelerate", "slurm"):
        if launcher.preset is None:
            what = f"the {launcher.command} launcher needs a preset"
            hint = "for example `launcher.preset=zero3`"
            problems.append(Problem(f"{key}.launcher.preset", what, hint))
        else:
            try:
                preset_path(launcher)
            except UserError as error:
                problems += error.problems
    return problems


def _place_problems(run: Run) -> list[Problem]:
    """Return what is wrong with where the results are to go."""
    problems = []
    if Path(run.name).name != run.name or run.name in ("", ".."):
        what = f"`{run.name}` must be one folder name, without `/`"
        problems.append(Problem("name", what, "the folder above it is `output_root`"))
    root = Path(run.output_root)
    if not run.output_root.strip():
        problems.append(Problem("output_root", "names no folder", "for example `output_root=runs`"))
    elif run.output_root.startswith("~"):
        what = "`~` is not expanded by every shell, and not here"
        problems.append(Problem("output_root", what, "write the whole path"))
    else:
        place = next((p for p in (root, *root.absolute().parents) if p.exists()), root)
        if not place.is_dir():
            problems.append(Problem("output_root", f"`{place}` is not a folder"))
        elif not os.access(place, os.W_OK | os.X_OK):
            problems.append(Problem("output_root", f"`{place}` cannot be written to"))
    for name, stage in run.stages.items():
        if not problems and Path(stage.output_dir) != root / run.name / name:
            what = f"a stage's results go to output_root/name/stage: `{root / run.name / name}`"
            problems.append(Problem(f"stages.{name}.output_dir", what, "change those instead"))
    return problems
