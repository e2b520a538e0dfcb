"""Lets rewards be computed while a GRPO trainer's completions are still being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from trl.data_utils import is_conversational
from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.rewards.ahead import Ahead, Batch, RewardAhead
from r1pipe.rewards.combining import Reward
from r1pipe.rollout.ending import OnRows


def working_ahead(rewards: Sequence[Reward], overlap: bool | None) -> list[Reward]:
    """Return the rewards, those that can work ahead so that they do; False changes none."""
    if overlap is False:
        return list(rewards)
    return [
        RewardAhead(reward, always=overlap is True)
        if getattr(reward, "looks_at", None) is not None
        else reward
        for reward in rewards
    ]


class RewardsAhead(GRPOTrainer):
    """Mix in before a TRL trainer and set `ahead`: rewards start when completions end.

    An engine tells of those through `on_rows`; what it has not told of by its end is rewarded
    while the old policy and the reference score the batch. The values are the same as without.
    """

    model: Any
    ahead: Ahead | None = None
    expected: Sequence[Any] | None = None
    """The rows of the data set that the next prompts to `_generate` are of."""
    _begun: Batch | None = None

    @property
    def on_rows(self) -> OnRows | None:
        """Whom an engine tells of completions that have ended; None while nobody asks."""
        return None if self._begun is None or self.ahead is None else self.ahead.add

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.expected = inputs
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.expected = self._begun = None
            if self.ahead is not None:
                self.ahead.drop()

    def _generate(self, prompts: list[Any]) -> Any:
        rows, ahead, self.expected, self._begun = self.expected, self.ahead, None, None
        if ahead is not None and rows is not None and len(rows) == len(prompts) > 0:
            self._begun = ahead.begin(rows, prompts, self._reader(prompts), self.state)
        try:
            output = super()._generate(prompts)
        except BaseException:
            if ahead is not None:
                ahead.drop()
            raise
        if self._begun is not None and ahead is not None:
            ahead.add_known(output[1], output[3])
        return output

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        batch, self._begun = self._begun, None
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        clock = getattr(self, "clock", None)
        if batch is not None and clock is not None:
            clock.hid(max(0.0, batch.worked - batch.waited))
        return rewards

    def _reader(self, prompts: list[Any]) -> Any:
        """Return what makes completions of ids as TRL does, for `Batch`."""
        tokenizer, processing = self._tokenizer, self.processing_class
        decode: Any = getattr(processing, "batch_decode")  # noqa: B009
        parsed = any(
            getattr(tokenizer, name, None) is not None
            for name in ("response_template", "response_schema")
        )
        talks = is_conversational({"prompt": prompts[0]})

        def read(rows: list[int], ids: list[list[int]]) -> list[Any] | None:
            if talks and parsed:  # may need the tools that a prompt was given
                return None
            texts = decode(ids, skip_special_tokens=True)
            return [[{"role": "assistant", "content": t}] for t in texts] if talks else texts

        return read
