"""Lets an override change one value inside a section that is only a link to another.

`rollout: ${rollout}` in a stage is one string to Hydra: `stage.rollout.check_every=5` would put
a section of that one key in its place. So the link is first opened along the way, every key a link
to the same key of the target, which leaves all others what they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_LINK = re.compile(r"\$\{([A-Za-z_][\w]*(?:\.[\w]+)*)\}")
_PLAIN_KEY = re.compile(r"\w+")


def opened(config: DictConfig, keys: Iterable[str]) -> list[str]:
    """Return overrides (`++key=${target}`) that open every link which one of `keys` goes through.

    `config` is the composition without the overrides of those keys.
    """
    lines: dict[str, str] = {}
    for key in keys:
        place, node, target = "", config, None
        for part in key.split(".")[:-1]:
            place = f"{place}.{part}" if place else part
            if target is None:
                target = _target(node, part)
            else:
                target = _target(_at(config, target), part) or f"{target}.{part}"
            node = _at(config, target or place)
            if not isinstance(node, DictConfig):
                break
            if target is not None:
                lines |= {
                    f"{place}.{child}": f"++{place}.{child}=${{{target}.{child}}}"
                    for child in map(str, node)
                    if _PLAIN_KEY.fullmatch(child)
                }
    return list(lines.values())


def _target(node: Any, name: str) -> str | None:
    """Return what `name` in `node` links to, None where it is no link to a single key."""
    # A key that is not there is for the schema to name: asking a closed mapping for it raises.
    known = isinstance(node, DictConfig) and name in node
    if not known or not OmegaConf.is_interpolation(node, name):
        return None
    raw = OmegaConf.to_container(node, resolve=False)
    found = _LINK.fullmatch(str(raw[name])) if isinstance(raw, dict) else None
    return found[1] if found else None


def _at(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
