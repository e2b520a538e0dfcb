"""A generation server beside a TRL trainer: the same part as an engine in its process has."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from r1pipe.artifact import digest
from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.engine import SampledTokens
from r1pipe.rollout.remote.client import WeightsLost
from r1pipe.rollout.remote.engine import FAILED, FINE, LOST, MOST_REPEATS, RemoteEngine
from r1pipe.schema import Load, Rollout, Sampling
from r1pipe.serving.protocol import Group
from r1pipe.stages.colocated import (
    ColocatedVllm,
    gather_whole,
    more_sampling,
    require_correction,
)
from r1pipe.stages.rollouts import decoding_dtype
from r1pipe.stages.telemetry import SYNC

WIDTH = ("float32", "bfloat16", "float16", "fp8")


class BesideServer(ColocatedVllm):
    """TRL's `rollout_func` and its `vllm_generation`, with the engine behind a server.

    The main process opens the server and sends the weights, every rank its own prompts; the server
    writes those of all ranks together. When the engine loses its weights, all ranks send them again
    and repeat what they asked, with the same seed.
    """

    def __init__(self, trainer: Any, rollout: Rollout, reference: str, load: Load) -> None:
        """`reference` is the model that the trainer started from."""
        self.rollout, self.trainer = rollout, trainer
        if rollout.logprobs == "rescore" and trainer.top_p < 1:
            what = "reading completions once more does not show what top-p left out"
            raise UserError(Problem("rollout.logprobs", what, "set it to `engine`"))
        self._ranks = trainer.accelerator.num_processes
        self._checked, self._counted = -1, (-1, 0)
        engine = RemoteEngine(rollout, reference, load)
        engine.owner = f"{socket.gethostname()}: {os.path.abspath(trainer.args.output_dir)}"
        engine.agree, engine.renew = self._worst, self.sync_weights
        self.engine = engine  # pyright: ignore[reportIncompatibleVariableOverride]
        opened = self._opened()
        if rollout.logprobs == "engine" and opened["logprobs"] != "engine":
            what = f"the server was started with `{opened['logprobs']}`: it has none of samples"
            raise UserError(Problem("rollout.logprobs", what, "start it with `engine`"))
        if opened["dtype"] == "fp8":
            require_correction(trainer, rollout)
        engine.end_ids = sorted(trainer.eos_token_ids)
        engine.extra = more_sampling(trainer)
        self.dtype = _narrower(decoding_dtype(trainer, rollout), opened["dtype"])
        # The loops banish padding where the trainer knows nothing of a ban; vLLM is told not to.
        pad = trainer._tokenizer.pad_token_id
        engine.banned = None if opened["engine"] == "vllm" or pad in engine.end_ids else pad
        self._held = True

    def _measure_raw(self, prompt_ids: list[list[int]], sampling: Sampling) -> None:
        """Nothing: the engine is in another process, and others may be asking it."""

    def sync_weights(self) -> None:
        """Give the engine the trainer's weights; every rank has to call this."""
        with self.trainer.clock.phase(SYNC):
            for _ in range(MOST_REPEATS):
                if self._held:
                    self._held = False  # opened a moment ago
                else:
                    self._opened()
                if self._sent():
                    return
        raise StageFailed("the server was started again whenever it was sent weights")

    def close(self) -> None:
        self.engine.close()

    def _opened(self) -> dict[str, Any]:
        """Take the server for all ranks; returns what it says of itself."""
        engine, problems = self.engine, None
        if self.trainer.accelerator.is_main_process:
            try:
                engine.open()
            except (UserError, StageFailed) as error:
                problems = error
        if self._worst(FINE if problems is None else FAILED) == FAILED:
            raise problems or StageFailed("the main process could not use the generation server")
        told = broadcast_object_list([engine.opened])[0]
        engine.join(told, engine.version)
        return told

    def _sent(self) -> bool:
        """Send the weights; returns whether the engine has them. Parts of them, where the model is
        in shards, come from all ranks."""
        trainer, engine = self.trainer, self.engine
        model = trainer.accelerator.unwrap_model(trainer.model)
        tensors = checkpoint_tensors(model, gather_whole(trainer))
        version = f"step {trainer.state.global_step} {os.urandom(4).hex()}"
        state, problem = FINE, None
        if trainer.accelerator.is_main_process:
            try:
                engine.load(tensors, version)
            except WeightsLost:
                state = LOST
            except (UserError, StageFailed) as error:
                state, problem = FAILED, error
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            for _ in tensors:
                pass
        worst = self._worst(state)
        if worst == FAILED:
            raise problem or StageFailed("the main process could not send the weights")
        engine.version = broadcast_object_list([version])[0]
        return worst == FINE

    def _write(self, prompt_ids: list[list[int]], sampling: Sampling, **more: Any) -> SampledTokens:
        step = self.trainer.state.global_step
        count = self._counted[1] + 1 if self._counted[0] == step else 0
        self._counted = (step, count)
        # A function of the step alone: a stage that goes on from a checkpoint draws the same.
        seed = int(digest([self.trainer.args.seed, step, count])[:8], 16)
        if self._ranks > 1:
            rank = self.trainer.accelerator.process_index
            self.engine.group = Group(f"{step}.{count}", rank, self._ranks)
        told = self._told(range(len(prompt_ids))) | more
        wanted = self.rollout.logprobs == "engine"
        try:
            return self.engine.write(prompt_ids, sampling, seed=seed, logprobs=wanted, **told)
        finally:
            self.engine.group = None

    def _worst(self, state: int) -> int:
        """Return the worst state of all ranks."""
        if self._ranks == 1:
            return state
        accelerator = self.trainer.accelerator
        states = accelerator.gather(torch.tensor([state], device=accelerator.device))
        return int(states.max())


def _narrower(one: str, other: str) -> str:
    """Return the type, of the trainer's and the engine's, that decides how far they agree."""
    return max(one, other, key=lambda name: WIDTH.index(name) if name in WIDTH else len(WIDTH))
