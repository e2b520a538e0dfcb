"""Where the seconds of a training step go: writing, new weights, rewards, scoring, the update."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer

GENERATE, SYNC, CHECK, REWARD, SCORE, UPDATE, OTHER = (
    "generate",
    "sync",
    "check",
    "reward",
    "score",
    "update",
    "other",
)
PHASES = {
    GENERATE: "completions, whatever engine writes them, and their text",
    SYNC: "the trainer's weights on their way to the engine",
    CHECK: "the engine's log-probabilities against the trainer's",
    REWARD: "the reward functions",
    SCORE: "log-probabilities of the old policy and of the reference",
    UPDATE: "forward, backward, optimizer",
    OTHER: "data, logging, checkpoints, waiting",
}


HIDDEN = "hidden_reward"
"""Seconds of rewards behind other phases: what they took less what was waited for them."""


class PhaseClock:
    """Wall-clock seconds by phase; a phase inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.tokens = 0
        """Completion tokens written by this process."""
        self.hidden = 0.0
        """Seconds of rewards while something else went on; part of no phase."""
        self.raw_speed: float | None = None
        """Tokens a second that the engine writes alone, where that was measured."""
        self._since: dict[str, float] = defaultdict(float)
        self._tokens_since = 0
        self._hidden_since = 0.0
        self._phase = OTHER
        self._mark = time.perf_counter()

    def switch(self, phase: str) -> str:
        """Let `phase` run from now on; returns the one that ran until now."""
        if torch.cuda.is_available():  # what was started is part of the phase that started it
            torch.cuda.synchronize()
        now, before = time.perf_counter(), self._phase
        self.totals[before] += now - self._mark
        self._since[before] += now - self._mark
        self._mark, self._phase = now, phase
        return before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def hid(self, seconds: float) -> None:
        self.hidden += seconds
        self._hidden_since += seconds

    def wrote(self, tokens: int) -> None:
        self.tokens += tokens
        self._tokens_since += tokens

    def flush(self, steps: int) -> dict[str, float]:
        """Return the seconds of a step since the last call, by phase, and the writing speed."""
        self.switch(self._phase)
        seconds, tokens = dict(self._since), self._tokens_since
        seconds[HIDDEN] = self._hidden_since
        self._since.clear()
        self._tokens_since, self._hidden_since = 0, 0.0
        named = (*PHASES, HIDDEN)
        found = {f"{name}_time": seconds.get(name, 0.0) / max(steps, 1) for name in named}
        found = {name: round(value, 6) for name, value in found.items() if value}
        if tokens and seconds.get(GENERATE):
            rate = tokens / seconds[GENERATE]
            found["generated_tokens_per_second"] = round(rate, 1)
            if self.raw_speed:
                found["raw_tokens_per_second"] = round(self.raw_speed, 1)
                found["share_of_raw_speed"] = round(rate / self.raw_speed, 4)
        return found


class SecondsByPhase(Trainer):
    """Mix in before a TRL trainer that writes completions: its log gets the seconds of a step."""

    model: Any
    _clock: PhaseClock | None = None
    _steps_logged = 0

    @property
    def clock(self) -> PhaseClock:
        if self._clock is None:
            self._clock = PhaseClock()
        return self._clock

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.clock.switch(UPDATE)  # and so it stays until the step is over
        return super().training_step(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.switch(OTHER)
        return super()._maybe_log_save_evaluate(*args, **kwargs)

    def _generate(self, prompts: list[Any]) -> Any:
        with self.clock.phase(GENERATE):
            written = super()._generate(prompts)  # pyright: ignore[reportAttributeAccessIssue]
        self.clock.wrote(sum(map(len, written[1])))
        return written

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.phase(REWARD):
            return super()._calculate_rewards(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.phase(SCORE):
            return super()._generate_and_score_completions(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" not in logs and self.model.training:
            steps = self.state.global_step - self._steps_logged
            self._steps_logged = self.state.global_step
            logs = {**logs, **self.clock.flush(steps)}
        super().log(logs, start_time)


def seconds_apart(trainer: Any) -> dict[str, float]:
    """Return {phase_s: seconds} of a whole run, for what is not the update itself."""
    clock = getattr(trainer, "_clock", None)
    if clock is None:
        return {}
    apart = (GENERATE, SYNC, CHECK, REWARD, SCORE)
    found = {f"{name}_s": round(clock.totals[name], 3) for name in apart if clock.totals[name]}
    return found | ({f"{HIDDEN}_s": round(clock.hidden, 3)} if clock.hidden else {})
