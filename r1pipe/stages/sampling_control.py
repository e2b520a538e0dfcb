"""The settings of dynamic sampling, and all that has to outlive a checkpoint of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.schema import DynamicSampling, GrpoStage
from r1pipe.stages.difficulty import Difficulty
from r1pipe.stages.group_replay import GroupReplay
from r1pipe.stages.prompt_stream import PromptStream

_STATE_FILE = "sampling_{rank}"


@dataclass
class Totals:
    """Groups of a whole run."""

    written: int = 0
    without_spread: int = 0
    replayed: int = 0
    filled: int = 0
    """In a batch although their rewards are all the same."""
    trained: int = 0


@dataclass
class SamplingControl:
    """The settings of a stage, and what its batches have been chosen from so far."""

    stream: PromptStream
    rounds: DynamicSampling | None
    difficulty: Difficulty | None
    replay: GroupReplay | None
    spread_of: int | None
    """Column of the reward whose spread counts; None: the sum of all."""
    judged_by: int | None
    """Column of the reward that says what is solved."""
    totals: Totals = field(default_factory=Totals)

    def outcome(self) -> dict[str, Any]:
        """Return what choosing cost over the whole run, for the artifact's metrics."""
        totals = asdict(self.totals)
        found: dict[str, Any] = {f"groups_{name}": count for name, count in totals.items()}
        found["generated_per_used"] = self.totals.written / max(1, self.totals.trained)
        return found

    def save(self, folder: Path, accelerator: Any) -> None:
        """Write this rank's part into a checkpoint's `folder`."""
        stem = folder / _STATE_FILE.format(rank=accelerator.process_index)
        tensors: dict[str, Tensor] = {}
        state = {
            "ranks": accelerator.num_processes,
            "stream": self.stream.state(),
            "difficulty": self.difficulty.state() if self.difficulty else None,
            "replay": self.replay.state(tensors) if self.replay else None,
            "totals": asdict(self.totals),
        }
        os.makedirs(folder, exist_ok=True)
        text = json.dumps(state, ensure_ascii=False)
        stem.with_suffix(".json").write_text(text, encoding="utf-8")
        save_file(tensors, stem.with_suffix(".safetensors"))

    def load(self, folder: Path, accelerator: Any, rows: Any) -> None:
        """Continue from a checkpoint's `folder`; every rank calls this.

        `rows` is the data set. Ranks that were not there take what the first one has. Kept groups
        lie across the ranks that wrote them: with another number of ranks they are forgotten.
        """
        stem = folder / _STATE_FILE.format(rank=accelerator.process_index)
        own: Any = None
        if stem.with_suffix(".json").is_file():
            own = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        every = gather_object([own])
        first = every[0]
        if first is None:
            return
        self.stream.restore(first["stream"])
        if self.difficulty is not None and first["difficulty"] is not None:
            self.difficulty.restore(first["difficulty"])
        self.totals = Totals(**first["totals"])
        ranks = accelerator.num_processes
        if self.replay is not None and all(one and one["ranks"] == ranks for one in every):
            tensors = load_file(stem.with_suffix(".safetensors"))
            self.replay.restore(own["replay"] or [], tensors, lambda index: dict(rows[index]))


def sampling_control(stage: GrpoStage, trainer: Any) -> SamplingControl | None:
    """Return what a stage asks for beyond one group for every prompt in turn, None for nothing."""
    rounds, filtered = stage.dynamic_sampling, stage.difficulty_filter
    rounds = rounds if rounds is not None and rounds.enabled else None
    filtered = filtered if filtered is not None and filtered.enabled else None
    if rounds is None and filtered is None:
        return None
    names = list(trainer.reward_func_names)
    count = len(trainer.train_dataset)
    prompts = trainer.args.generation_batch_size // trainer.num_generations
    difficulty = Difficulty(filtered, count, prompts) if filtered else None
    seed, shuffle = trainer.args.seed, trainer.shuffle_dataset
    if difficulty is None:
        stream = PromptStream(count, seed, shuffle)
    else:
        stream = PromptStream(count, seed, shuffle, difficulty.in_play, difficulty.begin_pass)
    kept = stage.group_replay
    return SamplingControl(
        stream=stream,
        rounds=rounds,
        difficulty=difficulty,
        replay=GroupReplay(kept) if kept is not None and kept.enabled else None,
        spread_of=_column("dynamic_sampling", rounds.reward, names) if rounds else None,
        judged_by=_column("difficulty_filter", filtered.reward, names) if filtered else None,
    )


def _column(section: str, reward: str | None, names: list[str]) -> int | None:
    if reward is None or reward in names:
        return None if reward is None else names.index(reward)
    what = f"`{reward}` is not among this stage's rewards"
    raise UserError(Problem(f"{section}.reward", what, did_you_mean(reward, names)))
