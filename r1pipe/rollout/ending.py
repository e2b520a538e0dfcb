"""How completions end: who is told, how long each may become, and what stops all of them."""

from __future__ import annotations

from collections.abc import Callable

OnRows = Callable[[list[tuple[int, list[int]]]], None]
"""Called with (number of the prompt, the completion's ids) of completions that have just ended."""
Stop = Callable[[], bool]
"""Asked now and then while completions are written. True stops all: those that have not ended are
returned as far as they are, for a later call to continue."""
