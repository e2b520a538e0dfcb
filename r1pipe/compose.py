"""Recipe and overrides in, one resolved mapping out; every interpolation error at once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.links import opened
from r1pipe.loss_presets import preset_overrides
from r1pipe.recipes import conf_dir

SINGLE = "config"
"""Name of the primary config behind `python -m r1pipe stage=KIND`."""
RECIPE_HINT = "begin it with `defaults: [base, _self_]`, or edit `r1pipe recipes copy tiny_r1`"
STEERED = "a recipe may not configure Hydra itself, which can run code"
_SINGLE_KEY = re.compile(r"^stage(?=\.)")


def compose_recipe(
    config_name: str, overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """Compose `config_name` (from `config_dir`, else from conf/) with Hydra overrides.

    Returns plain dicts, every interpolation resolved, with all stages under `stages`, and what
    could not be resolved (None in its place). Raises UserError when nothing can be composed.
    """
    conf = conf_dir()
    home = (config_dir or conf).resolve()
    check_shadowing(config_name, home, conf)
    lines = forced(overrides, home)
    if home != conf.resolve():
        lines.append(f"hydra.searchpath=[file://{conf.resolve()}]")
    register_resolvers()
    GlobalHydra.instance().clear()
    check_recipe_file(home, config_name)
    with initialize_config_dir(str(home), version_base="1.3", job_name="r1pipe"):
        try:
            given = keys_of(overrides)
            lines = [*_opened(config_name, lines, given), *lines]
            config, choices = _composed(config_name, lines)
            if presets := preset_overrides(config, choices, given, (home, conf)):
                config, _ = _composed(config_name, [*presets, *lines])
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise UserError(_composition_problem(error, conf, home, overrides)) from error
    return finish(config)


def _composed(config_name: str, lines: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Return the composed config, and which option Hydra chose of each group."""
    config = compose(config_name, overrides=lines, return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        config.pop("hydra")
    return config, choices


def _opened(config_name: str, lines: list[str], given: set[str]) -> list[str]:
    """Return what has to come before `lines` where they reach into linked sections."""
    inner = {key for key in given if key.count(".") > 1}
    if not inner:
        return []
    outer = [line for line in lines if line.lstrip("+~").partition("=")[0] not in inner]
    config, _ = _composed(config_name, outer)
    return opened(config, sorted(inner))


def finish(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """Resolve a composed config and bring a single `stage` into `stages`."""
    problems: list[Problem] = []
    plain = _resolve(config, "", config, problems)
    plain.pop("hydra", None)
    if isinstance(stage := plain.pop("stage", None), dict):
        kind, base = str(stage.get("kind", "stage")), plain.get("stages")
        base = base if isinstance(base, dict) else {}
        needed = stage.get("init_from") == base.get("base", {}).get("output_dir")
        plain["stages"] = {**base, kind: stage} if needed else {kind: stage}
        problems = [p for p in problems if needed or not p.where.startswith("stages.base.")]
        problems = [replace(p, where=_SINGLE_KEY.sub(f"stages.{kind}", p.where)) for p in problems]
    return plain, problems


def forced(overrides: Sequence[str], home: Path) -> list[str]:
    """Return the overrides as Hydra has to get them: unknown keys are left to the schema."""
    groups = group_names(conf_dir()) | group_names(home)
    return [_as_forced(override, groups) for override in _parse(overrides)]


def check_recipe_file(home: Path, config_name: str) -> None:
    """Refuse a recipe that is not a YAML mapping, or that has Hydra itself run something.

    `_target_` is never followed here; `hydra:` would be, by Hydra's own sweeper and logging.
    """
    path = home / f"{config_name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        return
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte {error.start + 1})"
        raise UserError(Problem(str(path), what, "save it as UTF-8")) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        what = f"not YAML: {getattr(error, 'problem', None) or error}"
        hint = f"column {mark.column + 1}" if mark else None
        raise UserError(Problem(place, what, hint)) from None
    if not isinstance(content, dict):
        what = "is empty" if content is None else "is not a mapping of keys"
        raise UserError(Problem(str(path), what, RECIPE_HINT))
    if steered := _steers_hydra(content):
        hint = f"delete `{steered}`; options of a sweep go on the command line, behind -m"
        raise UserError(Problem(str(path), STEERED, hint))


def check_sweep_files(home: Path) -> None:
    """Refuse a folder of recipes in which any file is about Hydra itself; a sweep reads it."""
    problems = []
    if (home / "hydra").exists():
        problems.append(Problem(str(home / "hydra"), STEERED, "move it elsewhere"))
    for path in sorted(home.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "hydra" not in text:
            continue
        with contextlib.suppress(yaml.YAMLError):
            content = yaml.safe_load(text)
            packaged = re.search(r"@package\s+hydra\b", text)
            if packaged or (isinstance(content, dict) and _steers_hydra(content)):
                problems.append(Problem(str(path), STEERED, "delete that part of it"))
    if problems:
        raise UserError(problems)


def _steers_hydra(content: dict[Any, Any]) -> str | None:
    """Return the key or defaults entry of a recipe that is about Hydra itself, or None."""
    if "hydra" in content:
        return "hydra"
    defaults = content.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        for group in entry if isinstance(entry, dict) else [entry]:
            if re.search(r"(^|[\s/@])hydra($|[/.:@])", str(group)):
                return str(group)
    return None


def check_shadowing(config_name: str, home: Path, conf: Path) -> None:
    """Refuse a recipe whose name is one of conf/'s own primary files."""
    name = config_name.removesuffix(".yaml")
    if home != conf.resolve() and (conf / f"{name}.yaml").is_file():
        what = f"a recipe may not be called `{name}`: conf/{name}.yaml has that name"
        raise UserError(Problem(str(home / f"{name}.yaml"), what, "rename the recipe"))


def group_names(folder: Path) -> set[str]:
    """Return the config groups under `folder`: every directory that holds YAML files."""
    return {
        path.parent.relative_to(folder).as_posix()
        for path in folder.glob("*/**/*.yaml")
        if path.parent != folder
    }


def register_resolvers() -> None:
    """Make `${stage_dir:}` known: <output_root>/<name>/<name of the stage it stands in>."""
    OmegaConf.register_new_resolver("stage_dir", _stage_dir, replace=True)


def _stage_dir(*, _node_: Any, _root_: DictConfig) -> str:
    key = _node_._get_full_key("output_dir").removesuffix(".output_dir")
    stage = key.removeprefix("stages.")
    if key == "stage":
        stage = str(_root_.stage.kind)
    return f"{_root_.output_root}/{_root_.name}/{stage}"


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Return the keys that overrides set, without package and Hydra's signs."""
    return {str(override.key_or_group) for override in _parse(overrides)}


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            first = str(error).splitlines()[0]
            hint = "write `key=value`; quote values with spaces, commas or braces"
            problems.append(Problem(text, f"not an override: {first}", hint))
    if problems:
        raise UserError(problems)
    return parsed


def _as_forced(override: Override, groups: set[str]) -> str:
    """Return a value override as `++key=value`: the schema judges the key, not Hydra.

    Hydra would stop at the first unknown key and advise `+`, which hides a typo.
    """
    text = override.input_line or ""
    if str(override.key_or_group).startswith("hydra"):
        hint = "these belong to sweeps: -m, --multirun"
        raise UserError(Problem(text, "Hydra's own settings have no meaning here", hint))
    is_group = override.key_or_group in groups and not override.package
    is_group = is_group or override.package is not None
    if is_group or text.startswith(("+", "~")):
        return text
    return f"++{text}"


def _composition_problem(
    error: Exception, conf: Path, home: Path, overrides: Sequence[str] = ()
) -> Problem:
    text = str(error).strip()
    if "override must be a string or a list" in text:
        groups = group_names(conf)
        nulled = [o for o in overrides if o.partition("=")[0] in groups]
        hint = "name one of its files in conf/, or change single keys of it"
        return Problem(nulled[0] if nulled else "recipe", "a group of keys cannot be null", hint)
    missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if missing:
        group, _, option = missing[1].rpartition("/")
        known = {p.stem for f in (conf, home) for p in (f / group).glob("*.yaml")}
        if option in known:
            return Problem(group or option, text.splitlines()[0])
        return Problem(group or option, f"there is no `{option}`", did_you_mean(option, known))
    if "You must specify 'stage'" in text:
        known = ", ".join(sorted(path.stem for path in (conf / "stage").glob("*.yaml")))
        return Problem("stage", "which stage?", f"python -m r1pipe stage=grpo   (one of {known})")
    cannot = re.search(r"Cannot find primary config '([^']+)'", text)
    if cannot:
        known = {path.stem for path in home.glob("*.yaml")}
        return Problem(cannot[1], f"no such recipe in {home}", did_you_mean(cannot[1], known))
    first = text.splitlines()[0] if text else type(error).__name__
    named = [o for o in overrides if o.lstrip("+~").partition("=")[0] in first]
    if first.startswith("Ambiguous value"):
        first = "several values: a sweep, or text with a comma"
        hint = "a sweep needs -m; quote text: `'key=\"a,b\"'`"
        return Problem(named[0] if named else "recipe", first, hint)
    return Problem(named[0] if named else "recipe", first)


def _resolve(node: Any, key: str, root: DictConfig, problems: list[Problem]) -> Any:
    """Return `node` as plain Python, noting each missing value and broken arrow on the way."""
    if isinstance(node, DictConfig):
        items = {}
        for name in node:
            items[name] = _child(node, name, f"{key}.{name}".lstrip("."), root, problems)
        return items
    if isinstance(node, ListConfig):
        return [_child(node, i, f"{key}[{i}]", root, problems) for i in range(len(node))]
    return node


def _child(node: Any, name: Any, key: str, root: DictConfig, problems: list[Problem]) -> Any:
    try:
        value = node[name]
    except MissingMandatoryValue:
        problems.append(Problem(key, "a value is required", f"add `{key}=...`"))
        return None
    except (OmegaConfBaseException, RecursionError) as error:
        problems.append(_broken_arrow(node, name, key, root, error))
        return None
    return _resolve(value, key, root, problems)


def _broken_arrow(
    node: Any, name: Any, key: str, root: DictConfig, error: BaseException
) -> Problem:
    raw = OmegaConf.to_container(node, resolve=False)
    text = ""
    with contextlib.suppress(KeyError, IndexError, TypeError):
        text = str(raw[name])  # type: ignore[index]
    if isinstance(error, RecursionError) or "Recursive" in str(error):
        return Problem(key, f"`{text}` refers to itself")
    arrow = re.search(r"\$\{stages\.([^.}]+)", text)
    raw_stages = OmegaConf.to_container(root, resolve=False).get("stages")  # type: ignore[union-attr]
    stages = [str(stage) for stage in raw_stages] if isinstance(raw_stages, dict) else []
    if arrow and arrow[1] not in stages:
        what = f"`{text}` points to a stage that is not in the recipe"
        hint = did_you_mean(arrow[1], stages)
        if key == "model.path":
            hint = "name the model to start from: `model=hf model.path=...`, or add this stage"
        return Problem(key, what, hint)
    missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
    if missing and missing[1].startswith("stages.base"):
        return Problem(key, "there is no model to start from", "give `model.path=...`")
    return Problem(key, f"`{text}` cannot be resolved", str(error).splitlines()[0])
