"""Models: loading any causal language model, building small ones and DeepSeek-V3's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1pipe.models.loading import load_causal_lm, load_tokenizer

__all__ = ["load_causal_lm", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    """Import torch and transformers when a loader is asked for, not before."""
    if name in __all__:
        from r1pipe.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
