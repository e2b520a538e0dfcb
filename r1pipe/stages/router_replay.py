"""Routing replay in GRPO: the experts a batch was written or scored with are used in its updates.

Shapes: B rows, P padded prompt, C padded completion, L layers with experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.models.deepseek.replay import (
    aligned_routes,
    backbone_of,
    record_routes,
    replay_routes,
    routed_layers,
    routes_of_engine,
)
from r1pipe.schema import Rollout
from r1pipe.stages.length_split import ROUTES


def require_routers(model: Any, where: str, replay: str, rollout: Rollout) -> None:
    """Raise UserError when `replay` asks for what this model or engine cannot give."""
    if replay == "none":
        return
    if routed_layers(model) == 0:
        what = f"received {replay!r}: {type(model).__name__} has no routers to replay"
        hint = "leave it at `none`; only models of DeepSeek-V3's kind choose among experts here"
        raise UserError(Problem(where, what, hint))
    if replay != "rollout":
        return
    if rollout.vllm_mode == "server":
        what = "received 'rollout': a generation server brings no routes back"
        raise UserError(Problem(where, what, "use `rollout.vllm_mode=colocate`, or `policy`"))
    if rollout.engine == "vllm" and not torch.cuda.is_available():
        what = "received 'rollout': vLLM reports the experts it used on a GPU only"
        raise UserError(Problem(where, what, "use `rollout=compact`, or `policy`"))


class RouterReplay(GRPOTrainer):
    """Mix in before GRPOTrainer and set `router_replay`.

    `policy` (R2) records in TRL's pass for the old policy's log-probabilities and replays in every
    update on that batch. TRL leaves the pass out where a batch serves one optimizer step only: each
    row is then forwarded once, by the old policy itself, and there is nothing to replay.
    `rollout` (R3) replays what the engine used while writing, in that pass and the updates. Either
    way the reference model follows the same routes, so that the KL term compares weights.
    """

    model: Any
    args: Any
    router_replay: Literal["none", "policy", "rollout"] = "none"
    written_routes: Sequence[Any] | None = None
    """What a writer leaves here under `rollout`: of each completion, in order, the routes of its
    prompt and tokens but the last, as a tensor (tokens, L, K) or as vLLM's `routed_experts`."""
    _sequences: list[Tensor] | None = None
    _routes: Tensor | None = None
    """Routes of the rows that are about to be forwarded."""
    _old_pass_due = False

    def _generate(self, prompts: list[Any]) -> Any:
        if self.router_replay != "rollout":
            written = super()._generate(prompts)
            self._old_pass_due = self._has_old_pass()
            return written
        self.written_routes = None
        if self.rollout_func is None and not self.use_vllm:
            with record_routes(self.model) as recorder:
                written = super()._generate(prompts)
            self.written_routes = recorder.sequences()
        else:
            written = super()._generate(prompts)
        self._sequences = self._checked(self.written_routes, written[0], written[1])
        self._old_pass_due = self._has_old_pass()
        return written

    def _reuse_routes(self, sequences: Sequence[Any]) -> None:
        """Take what was recorded while the batch at hand was written, in place of `_generate`."""
        self._sequences = list(sequences) if self.router_replay == "rollout" else None
        self._old_pass_due = self._has_old_pass()

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._routes, self._sequences, self._old_pass_due = None, None, False
        try:
            output = super()._generate_and_score_completions(inputs)
            mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
            routes = self._known_routes(mask)
        finally:
            self._routes, self._sequences, self._old_pass_due = None, None, False
        return output if routes is None else {**output, ROUTES: routes}

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self._routes = inputs.get(ROUTES)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._routes = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> Any:
        score = super()._get_per_token_logps_and_entropies
        # Where it runs, the old policy's pass is the first after the writing, in which an engine
        # may have had passes of its own.
        old, self._old_pass_due = self._old_pass_due, False
        given = (model, input_ids, attention_mask, logits_to_keep)
        if old and self.router_replay == "policy":
            with record_routes(model) as recorder:
                scored = score(*given, batch_size, **options)
            self._routes = recorder.take()
            return scored
        routes = self._known_routes(attention_mask)
        if routes is None:
            return score(*given, batch_size, **options)
        parts, counts = [], torch.zeros(2)
        step = batch_size or len(input_ids)
        for start in range(0, len(input_ids), step):
            rows = slice(start, start + step)
            with replay_routes(model, routes[rows]) as flips:
                parts.append(
                    score(model, input_ids[rows], attention_mask[rows], logits_to_keep, **options)
                )
            counts += torch.tensor([flips.flipped, flips.replayed])
        if self.model.training and (old or torch.is_grad_enabled()):
            self._log_flips(counts, "routes/flipped_share" + ("_rollout" if old else ""))
        logps, entropies, aux = zip(*parts, strict=True)
        return (
            torch.cat(logps),
            None if entropies[0] is None else torch.cat(entropies),
            None if aux[0] is None else torch.stack(aux).mean(),
        )

    def _checked(
        self, routes: Sequence[Any] | None, prompts: Any, completions: Any
    ) -> list[Tensor]:
        """Return the routes as tensors; StageFailed unless every token but the last has one."""
        config = backbone_of(self.model).config  # pyright: ignore[reportOptionalMemberAccess]
        if routes is None or len(routes) != len(completions):
            raise StageFailed("the engine recorded no routes, which `router_replay: rollout` needs")
        found = []
        for given, prompt, completion in zip(routes, prompts, completions, strict=True):
            one = given if isinstance(given, Tensor) else routes_of_engine(given, config)
            expected = len(prompt) + len(completion) - 1
            if len(one) < expected:
                raise StageFailed(
                    f"the engine recorded the routes of {len(one)} of {expected} tokens; "
                    "`router_replay: rollout` needs all of them"
                )
            found.append(one)
        return found

    def _has_old_pass(self) -> bool:
        """Whether TRL scores this batch with the old policy before the updates, by its own rule."""
        every = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    def _known_routes(self, mask: Tensor) -> Tensor | None:
        """Return the routes of the present rows (B, P+C, L, K), laid out when first asked for."""
        if self._routes is None and self._sequences is not None:
            top_k = self._sequences[0].shape[-1]
            self._routes = aligned_routes(self._sequences, mask, routed_layers(self.model), top_k)
        return self._routes

    def _log_flips(self, counts: Tensor, name: str) -> None:
        """Log which share of (token, layer) pairs the routers would have sent to other experts.

        `routes/flipped_share` is of the updates, `routes/flipped_share_rollout` of the old policy's
        pass, where engine and trainer have the same weights.
        """
        totals = self.accelerator.reduce(counts.to(self.accelerator.device), reduction="sum")
        self._metrics["train"][name].append(float(totals[0] / totals[1].clamp(min=1)))
