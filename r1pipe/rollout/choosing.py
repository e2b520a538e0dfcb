"""The next token of every row: greedy, or sampled with temperature and nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r1pipe.errors import StageFailed

# Shape legend: B rows, V vocabulary.

BELOW_ONE = 1 - 1e-12  # keeps a draw below the last cumulative probability, whatever the rounding


@dataclass(frozen=True)
class Choosing:
    """How tokens are chosen; `banned` is never drawn."""

    temperature: float
    """0 is greedy."""
    top_p: float
    ends: tuple[int, ...]
    """Tokens that end a completion."""
    banned: int | None
    logprobs: bool = False
    """Whether `choose` also returns log-probabilities."""

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return from logits [B, V], which it may change, per row [B]:

        the token; a number that is finite unless the model is ruined; and, when asked for, the
        token's log-probability as a scoring pass gives it: of the logits over the temperature (1
        when greedy), the banned token and the nucleus not taken into account.
        """
        logits = logits.float()
        if self.temperature not in (0, 1):
            logits = logits / self.temperature
        normaliser = logits.logsumexp(dim=-1) if self.logprobs else None
        if self.banned is not None:
            logits[:, self.banned] = -torch.inf
        witness, chosen = self._draw(logits)
        if normaliser is None:
            return chosen, witness, None
        return chosen, witness, logits.gather(1, chosen[:, None]).squeeze(1) - normaliser

    def _draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.temperature == 0:
            best, chosen = logits.max(dim=-1)
            return best, chosen
        if self.top_p < 1:
            logits = nucleus(logits, self.top_p)
        # One uniform number per row against the cumulative probabilities, summed in float64: an
        # eighth of torch.multinomial's time. `right` skips tokens of probability zero.
        sums = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        total = sums[:, -1:]
        drawn = torch.rand(total.shape, dtype=torch.float64, device=logits.device)
        chosen = torch.searchsorted(sums, drawn * total * BELOW_ONE, right=True).squeeze(1)
        # What is not a number lies beyond the last token, where a GPU would stop for good.
        return total.squeeze(1), chosen.clamp_(max=logits.shape[1] - 1)

    def is_end(self, chosen: Tensor) -> Tensor:
        """Return for tokens of any shape whether each ends a completion."""
        found = chosen == self.ends[0]
        for end in self.ends[1:]:
            found = found | (chosen == end)
        return found


def require_finite(witness: Tensor) -> None:
    """Raise StageFailed for what `choose` returned of a ruined model."""
    if not torch.isfinite(witness).all():
        raise StageFailed("the model's probabilities for the next token are not finite")


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Mask all but the smallest set of tokens whose probability reaches `top_p` (logits [B, V])."""
    ordered, places = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1).sub_(ordered.softmax(dim=-1))
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, places, ordered)
