"""What a decoding loop hands back of each completion, and the tap that records routers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from r1pipe.rollout.weights import base_of

# Shape legend: B rows, U distinct prompts, P longest prompt, L layers with experts, K experts per
# token.

ROUTES_DTYPE = torch.int16


@dataclass
class Written:
    """One completion."""

    ids: list[int] = field(default_factory=list)
    logprobs: Tensor | None = None
    """float32, one per token of `ids`, on the CPU."""
    routes: Tensor | None = None
    """int16 (tokens, L, K), on the CPU: of the prompt and the completion but for its last token,
    which no forward pass has read."""
    whole: bool = True
    """False where a `Stop` cut it off."""


class RouteTap:
    """Records which experts every token was given, for a batch whose rows come and go."""

    def __init__(self, model: Any, active: bool) -> None:
        self.routers: list[Any] = []
        if not active:
            return
        from r1pipe.models.deepseek.experts import routers_of

        self.routers = routers_of(base_of(model))
        if not self.routers:
            name = type(base_of(model)).__name__
            raise ValueError(f"{name} has no routers whose choice could be recorded")
        self._read: list[Tensor] = []  # prompts' routes (tokens, L, K), by distinct prompt
        self._of = torch.empty(0, dtype=torch.long)  # each live row's prompt
        self._steps: list[Tensor] = []  # [B, L, K] of every step, rows as they are now

    @contextmanager
    def prompts(self, index: Tensor, lengths: Tensor) -> Iterator[None]:
        """Record a pass over left-padded prompts [U, P]; row b continues prompt `index[b]`."""
        if not self.routers:
            yield
            return
        with self._recorded() as choices:
            yield
        routes = _stacked(choices).unflatten(0, (len(lengths), -1)).cpu()  # [U, P, L, K]
        self._read = [row[len(row) - n :] for row, n in zip(routes, lengths.tolist(), strict=True)]
        self._of, self._steps = index.cpu(), []

    @contextmanager
    def step(self, own: Any) -> Iterator[None]:
        """Record one decoding step, of the modules or of our `own` step."""
        if not self.routers:
            yield
        elif own is not None:
            yield
            self._steps.append(own.routes().to(ROUTES_DTYPE))
        else:
            with self._recorded() as choices:
                yield
            self._steps.append(_stacked(choices))

    def keep(self, live: Tensor) -> None:
        """Follow the rows: new row i is what row `live[i]` was."""
        if self.routers:
            self._of = self._of[live.cpu()]
            self._steps = [torch.stack(self._steps, dim=1)[live]] if self._steps else []
            self._steps = list(self._steps[0].unbind(1)) if self._steps else []

    def routes_of(self, rows: Tensor, lengths: list[int]) -> list[Tensor]:
        """Return the routes (tokens, L, K) of some rows whose completions are that long."""
        if not self.routers:
            return []
        prompts = [self._read[number] for number in self._of[rows.cpu()].tolist()]
        if not self._steps:
            return prompts
        later = torch.stack(self._steps, dim=1)[rows].cpu()
        return [
            torch.cat([prompt, steps[: n - 1]])
            for prompt, steps, n in zip(prompts, later, lengths, strict=True)
        ]

    def _recorded(self) -> Any:
        from r1pipe.models.deepseek.experts import recorded

        return recorded(self.routers)


def _stacked(choices: list[Any]) -> Tensor:
    return torch.stack([c.experts_TK for c in choices], dim=1).to(ROUTES_DTYPE)
