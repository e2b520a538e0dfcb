"""What a recipe says of the model to build, checked against its configuration class, unimported."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from r1pipe.errors import Problem, did_you_mean
from r1pipe.models.consistency import FROM_TOKENIZER, inconsistent
from r1pipe.registry import ARCHITECTURES
from r1pipe.trainer_fields import class_source, expected_type

DEEPSEEK = "deepseek_v3"
_CLASSES = (
    ("transformers", "models/deepseek_v3/configuration_deepseek_v3.py", "DeepseekV3Config"),
    ("r1pipe", "models/deepseek/configuration.py", "DeepseekConfig"),
)
ALSO_READ = {"rope_theta": "float | int", "rope_scaling": "dict", "num_mtp_layers": "int"}
"""Names of public config.json files that transformers turns into fields."""


def architecture_problems(key: str, node: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with `architecture`, `size`, `config` and `sizes` under `key`.

    Only what is known without importing the model is judged; the worker judges the rest.
    """
    name, config, sizes = node.get("architecture"), node.get("config"), node.get("sizes")
    if name not in ARCHITECTURES.names():
        hint = did_you_mean(str(name), ARCHITECTURES.names())
        return [Problem(f"{key}.architecture", "not a registered model builder", hint)]
    config = config if isinstance(config, dict) else {}
    sizes = sizes if isinstance(sizes, dict) else {}
    problems = _size_problems(key, node.get("size"), sizes)
    if name != DEEPSEEK:
        if ARCHITECTURES.shipped(str(name)) and (config or sizes):
            what = f"the architecture `{name}` has no fields, only sizes of its own"
            problems.append(Problem(f"{key}.config", what, f"`model.architecture={DEEPSEEK}` has"))
        return problems
    problems += _field_problems(f"{key}.config", config)
    for size, changes in sizes.items():
        if isinstance(changes, dict):
            problems += _field_problems(f"{key}.sizes.{size}", changes)
    if problems:
        return problems
    for size, changes in (sizes or {None: {}}).items():
        for problem in inconsistent(with_defaults({**config, **(changes or {})})):
            place = f"sizes.{size}" if problem.where in (changes or {}) else "config"
            problems.append(Problem(f"{key}.{place}.{problem.where}", problem.what, problem.hint))
    return list(dict.fromkeys(problems))


def with_defaults(config: Mapping[str, Any]) -> SimpleNamespace:
    """Return a configuration as attributes: `config` over the class's defaults."""
    given = {name: value for name, value in config.items() if name not in FROM_TOKENIZER or value}
    return SimpleNamespace(**{**{n: value for n, (_, value) in deepseek_fields().items()}, **given})


@functools.cache
def deepseek_fields() -> dict[str, tuple[str, Any]]:
    """Return {field: (annotation, default)} of the configuration, the parent's first."""
    found: dict[str, tuple[str, Any]] = {name: (kind, None) for name, kind in ALSO_READ.items()}
    for package, file, class_name in _CLASSES:
        for node in class_source(package, file, class_name).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                default = None
                with contextlib.suppress(ValueError):
                    default = ast.literal_eval(node.value) if node.value else None
                found[node.target.id] = (ast.unparse(node.annotation), default)
    return found


def _size_problems(key: str, size: Any, sizes: Mapping[str, Any]) -> list[Problem]:
    if not sizes or size in sizes:
        return []
    hint = did_you_mean(str(size), sizes)
    return [Problem(f"{key}.size", f"`{size}` is not among the model's sizes", hint)]


def _field_problems(key: str, given: Mapping[str, Any]) -> list[Problem]:
    known = deepseek_fields()
    problems = []
    for name, value in given.items():
        if name not in known:
            what = f"a model of architecture `{DEEPSEEK}` has no such field"
            problems.append(Problem(f"{key}.{name}", what, did_you_mean(str(name), known)))
        elif name in FROM_TOKENIZER and value is None:
            continue
        elif expected := expected_type(known[name][0], value):
            shown = "null" if value is None else f"`{value}` ({type(value).__name__})"
            problems.append(Problem(f"{key}.{name}", f"expected {expected}, received {shown}"))
    return problems
