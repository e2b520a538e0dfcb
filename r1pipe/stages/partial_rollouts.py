"""GRPO on completions that may take several steps to write: whole groups, their parts weighed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.errors import Problem, UserError
from r1pipe.rollout.engine import SampledTokens
from r1pipe.rollout.partial import OpenGroup, PartialRollouts
from r1pipe.schema import GrpoStage
from r1pipe.stages.prompt_stream import PromptStream
from r1pipe.stages.rollouts import uses_compact, written_by_compact
from r1pipe.stages.telemetry import GENERATE

_STATE_FILE = "partial_{rank}.json"


class PartialGroups(GRPOTrainer):
    """Mix in before a TRL trainer and call `begin_partial_rollouts`.

    The batch that TRL scores and trains on is then made of the groups that are whole; prompts come
    in the order of TRL's own sampler, those of `ahead` more groups at first. The log-probabilities
    of a completion are those its parts were drawn with, by as many policies, so that TRL's
    off-policy correction weighs each token against who wrote it.
    """

    model: Any
    train_dataset: Any
    max_completion_length: Any
    partial: PartialRollouts | None = None
    prompts: PromptStream
    _write: Any = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        if self.partial is None or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        groups = self._whole_groups(self.partial)
        rows = [row for group in groups for row in group.rows]
        prepared = {
            "prompt_ids": [group.prompt_ids for group in groups for _ in group.rows],
            "completion_ids": [row.ids for row in rows],
            "logprobs": [row.logprobs for row in rows],
        }
        own = self.rollout_func
        self.rollout_func = lambda prompts, trainer: dict(prepared)
        try:
            asked = [dict(self.train_dataset[group.index]) for group in groups for _ in group.rows]
            return super()._generate_and_score_completions(asked)
        finally:
            self.rollout_func = own

    def _whole_groups(self, partial: PartialRollouts) -> list[OpenGroup]:
        step, clock = self.state.global_step, getattr(self, "clock")  # noqa: B009
        with clock.phase(GENERATE):
            self._begin(partial, step)
            if self.use_vllm and step != self._last_loaded_step:
                self.vllm_generation.sync_weights()
                self._last_loaded_step = step
            groups = partial.take(step, self.max_completion_length, self._write)
        rows = [row for group in groups for row in group.rows]
        ages = [float(step - group.born) for group in groups]
        metrics = self._metrics["train"]
        metrics["partial/continued"].append(sum(row.parts > 1 for row in rows) / len(rows))
        metrics["partial/staleness"].append(sum(ages) / len(ages))
        metrics["partial/max_staleness"].append(max(ages))
        kept = sum(len(row.ids) for group in partial.open for row in group.rows)
        metrics["partial/open_tokens"].append(float(kept))
        return groups

    def _begin(self, partial: PartialRollouts, step: int) -> None:
        """Give this rank its share of the next prompts; all ranks have equal streams of them."""
        count, rank = partial.missing, self.accelerator.process_index
        total = count * self.accelerator.num_processes
        drawn = self.prompts.take(total, least=total)[rank * count : (rank + 1) * count]
        prompts = [self.train_dataset[index]["prompt"] for index in drawn]
        if not prompts:
            return
        prompt_ids, _, _ = self._tokenize_prompts(prompts)
        for index, ids in zip(drawn, prompt_ids, strict=True):
            partial.begin(index, list(ids), step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.partial is None:
            return
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        state = {
            "ranks": self.accelerator.num_processes,
            "prompts": self.prompts.state(),
            "open": self.partial.state(),
        }
        os.makedirs(folder, exist_ok=True)
        path = folder / _STATE_FILE.format(rank=self.accelerator.process_index)
        path.write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.partial is None or checkpoint is None:
            return
        path = Path(checkpoint) / _STATE_FILE.format(rank=self.accelerator.process_index)
        if not path.is_file():
            path = Path(checkpoint) / _STATE_FILE.format(rank=0)
        if not path.is_file():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self.prompts.restore(state["prompts"])
        if state["ranks"] == self.accelerator.num_processes:
            self.partial.restore(state["open"])


def begin_partial_rollouts(trainer: Any, stage: GrpoStage, name: str) -> None:
    """Let a trainer, its engine beside it, train on whole groups; does nothing unless asked to.

    Raises UserError with all that speaks against it.
    """
    asked = stage.partial_rollouts
    if asked is None or not asked.enabled:
        return
    if problems := _problems(trainer, stage, f"stages.{name}"):
        raise UserError(problems)
    args, rollout = trainer.args, stage.rollout
    rows = args.per_device_train_batch_size * args.steps_per_generation
    groups = rows // trainer.num_generations
    trainer.partial = PartialRollouts(
        groups, trainer.num_generations, asked.ahead, asked.max_staleness
    )
    trainer.prompts = PromptStream(len(trainer.train_dataset), args.seed, trainer.shuffle_dataset)
    if rollout.engine == "vllm":
        engine = trainer.vllm_generation
        trainer._write = lambda prompt_ids, limits, on_rows, stop: engine.write(
            prompt_ids, limits=limits, on_rows=on_rows, stop=stop
        )
        return

    def write(prompt_ids: Any, limits: Any, on_rows: Any, stop: Any) -> SampledTokens:
        more = {"limits": limits, "on_rows": on_rows, "stop": stop, "return_logprobs": True}
        written = written_by_compact(trainer, prompt_ids, rollout, **more)
        assert written.logprobs is not None
        parts = written.logprobs.split([len(ids) for ids in written.ids])
        values = [part.tolist() for part in parts]
        return SampledTokens(written.ids, values, unfinished=written.unfinished)

    trainer._write = write
    # The trainer's own weights write; but by the next step they are others.
    trainer.use_vllm, trainer.vllm_mode = True, "colocate"
    trainer.vllm_generation, trainer._last_loaded_step = _NothingToSend(), -1


class _NothingToSend:
    def sync_weights(self) -> None:
        pass


def _problems(trainer: Any, stage: GrpoStage, where: str) -> list[Problem]:
    """Return what only the trainer knows; `sampling_fields` judged the config."""
    found = []

    def say(key: str, what: str, hint: str) -> None:
        found.append(Problem(f"{where}.{key}", f"partial rollouts {what}", hint))

    rollout = stage.rollout
    if rollout.engine == "compact" and not uses_compact(rollout):
        say("rollout", "need an engine that can be stopped", "`rollout=vllm_colocate`")
    rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    if rows % trainer.num_generations:
        what = f"need whole groups on a rank, and it has {rows} completions of "
        what += f"{trainer.num_generations} to a group"
        say("trainer.per_device_train_batch_size", what, f"a multiple of {trainer.num_generations}")
    return found
