"""A reward with spread even on an untrained model, registered as a user would."""

from __future__ import annotations

from typing import Any

from r1pipe.registry import register_reward


@register_reward("variety")
def variety(completions: list[Any], **columns: Any) -> list[float | None]:
    """Return the share of distinct characters in each completion."""
    return [len(set(str(text))) / (len(str(text)) or 1) for text in completions]
