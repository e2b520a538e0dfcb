"""Loss presets: `loss: NAME` of a stage stands for the values of conf/stage/loss/NAME.yaml."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from r1pipe.errors import Problem, UserError, did_you_mean

GROUP = "stage/loss"
KEY = "loss"


def preset_overrides(
    config: DictConfig, choices: dict[str, Any], given: Collection[str], places: Sequence[Path]
) -> list[str]:
    """Return the Hydra overrides that put the presets a composed config names into its stages.

    `choices` are the options Hydra chose (`{stage/loss@stages.r1_zero: grpo}`), `given` the keys
    that overrides set, `places` the folders with config groups. A preset counts where its name
    stands: in a recipe, the trainer keys of the recipe beat it; on the command line it beats them,
    and is beaten by trainer keys there. Raises UserError for a name without a preset.
    """
    found: list[str] = []
    problems: list[Problem] = []
    for choice, chosen in choices.items():
        group, _, package = choice.partition("@")
        if group != GROUP or not package:
            continue
        name = OmegaConf.select(config, f"{package}.{KEY}", throw_on_missing=False)
        key = f"{package}.{KEY}"
        if not isinstance(name, str) or (name == chosen and key not in given):
            continue  # the schema says what is wrong with another type
        paths = [path for place in places if (path := place / GROUP / f"{name}.yaml").is_file()]
        if not paths:
            known = {path.stem for place in places for path in (place / GROUP).glob("*.yaml")}
            where = f"stages.{_kind(config)}.{KEY}" if package == "stage" else key
            problems.append(Problem(where, f"there is no loss `{name}`", did_you_mean(name, known)))
        elif key in given:
            found += _as_overrides(package, yaml.safe_load(paths[0].read_text(encoding="utf-8")))
        else:
            found.append(f"{choice}={name}")
    if problems:
        raise UserError(problems)
    return found


def _kind(config: DictConfig) -> str:
    return str(OmegaConf.select(config, "stage.kind"))


def _as_overrides(prefix: str, values: dict[str, Any]) -> list[str]:
    found = []
    for name, value in values.items():
        if name == "defaults":
            continue
        if isinstance(value, dict):
            found += _as_overrides(f"{prefix}.{name}", value)
        else:
            text = "null" if value is None else str(value)
            found.append(f"++{prefix}.{name}={text.lower() if isinstance(value, bool) else text}")
    return found
