"""Names a recipe may use: rewards, tasks, model builders. A recipe never names a Python object."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from r1pipe.errors import Problem, UserError, did_you_mean

PLUGIN_GROUP = "r1pipe.plugins"
PLUGIN_VARIABLE = "R1PIPE_PLUGINS"


class Registry:
    """A name -> object table; what ships with r1pipe is imported when it is asked for."""

    def __init__(self, what: str, builtin: dict[str, str]) -> None:
        self._what = what
        self._lazy = dict(builtin)
        self._known: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorate a function or class to make it available to recipes under `name`."""

        def add(thing: Any) -> Any:
            if name in self._lazy or self._known.get(name, thing) is not thing:
                raise ValueError(f"the {self._what} `{name}` is already registered")
            self._known[name] = thing
            return thing

        return add

    def shipped(self, name: str) -> bool:
        """Whether `name` came with r1pipe and not from a plugin."""
        return name in self._lazy

    def names(self) -> list[str]:
        load_plugins()
        return sorted({*self._lazy, *self._known})

    def get(self, name: str) -> Any:
        """Return what is registered as `name`; raises UserError with the closest name."""
        load_plugins()
        if name not in self._known and name in self._lazy:
            module, attribute = self._lazy[name].split(":")
            self._known[name] = getattr(importlib.import_module(module), attribute)
        if name not in self._known:
            hint = did_you_mean(name, self.names())
            raise UserError(Problem(name, f"no {self._what} is registered by this name", hint))
        return self._known[name]


REWARDS = Registry(
    "reward",
    {
        "accuracy": "r1pipe.rewards.accuracy:accuracy_reward",
        "format": "r1pipe.rewards.format:format_reward",
        "tag_count": "r1pipe.rewards.format:tag_count_reward",
        "language": "r1pipe.rewards.language:language_consistency_reward",
        "code": "r1pipe.rewards.code:code_reward",
        "sql": "r1pipe.rewards.sql:sql_reward",
        "choice": "r1pipe.rewards.choice:choice_reward",
        "maze_path": "r1pipe.rewards.maze:maze_path_reward",
        "geo_distance": "r1pipe.rewards.geography:geo_distance_reward",
        "general": "r1pipe.rewards.general:exact_answer_reward",
        "preference": "r1pipe.rewards.reward_model:RewardModel",
        "repetition": "r1pipe.rewards.repetition:repetition_penalty",
        "soft_overlong": "r1pipe.rewards.length:soft_overlong_penalty",
        "length": "r1pipe.rewards.length:length_reward",
        "weighted": "r1pipe.rewards.combining:weighted_terms",
    },
)
TASKS = Registry(
    "task",
    {
        "arithmetic": "r1pipe.data.arithmetic:rows",
        "beyond": "r1pipe.data.beyond:rows",
        "general": "r1pipe.data.general:rows",
        "traces": "r1pipe.data.traces:rows",
        "corpus": "r1pipe.data.corpus:rows",
    },
)
ARCHITECTURES = Registry(
    "architecture",
    {
        "tiny_qwen3": "r1pipe.models.tiny:tiny_qwen3",
        "deepseek_v3": "r1pipe.models.building:deepseek_v3",
    },
)


def register_reward(name: str, like: str | None = None) -> Callable[[Any], Any]:
    """Decorate a reward to make it available to recipes under `name`.

    `like` names a shipped reward that this one is checked as: `r1pipe check` then expects gold
    answers to earn 1 from it, and what fools that reward not to.
    """
    add = REWARDS.register(name)
    if like is not None:
        REWARDS.get(like)

    def register(thing: Any) -> Any:
        if like is not None:
            thing.like = like
        return add(thing)

    return register


register_task = TASKS.register
register_architecture = ARCHITECTURES.register

_plugins_loaded = False


def load_plugins() -> None:
    """Import installed entry points and the files or modules named in `R1PIPE_PLUGINS`, once.

    The variable (`:` between names) is set by the person who starts the run; a recipe cannot.
    """
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    problems = []
    for point in entry_points(group=PLUGIN_GROUP):
        problems += _loaded(f"plugin {point.name}", point.load)
    for name in filter(None, os.environ.get(PLUGIN_VARIABLE, "").split(":")):
        load = partial(_import_file if name.endswith(".py") else importlib.import_module, name)
        problems += _loaded(PLUGIN_VARIABLE, load)
    if problems:
        raise UserError(problems)


def _loaded(where: str, load: Callable[[], Any]) -> list[Problem]:
    """Return what went wrong in a plugin: its own line when it raised."""
    try:
        load()
    except UserError as error:
        return error.problems
    except SyntaxError as error:
        return [Problem(where, f"{error.filename}:{error.lineno}: {error.msg}")]
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
        line = f"{theirs[-1].filename}:{theirs[-1].lineno}: " if theirs else ""
        return [Problem(where, f"{line}{type(error).__name__}: {error}")]
    return []


def plugin_files() -> list[Path]:
    """Source files of the plugins named in the environment; they are part of a fingerprint."""
    named = filter(None, os.environ.get(PLUGIN_VARIABLE, "").split(":"))
    return [Path(name) for name in named if name.endswith(".py")]


def _import_file(name: str) -> None:
    path = Path(name)
    spec = importlib.util.spec_from_file_location(f"r1pipe_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        hint = "the names are separated by `:`, and relative to where the command is given"
        raise UserError(Problem(PLUGIN_VARIABLE, f"no such plugin file: {path}", hint))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
