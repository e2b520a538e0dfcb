"""Chooses what GRPO trains on: groups with spread, refilled from further prompts or from replay.

G completions a group, F reward functions, N groups in a batch, R rows of one rank in it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from r1pipe.stages.finished_groups import Behaviour, Group, Row, arrange, has_spread, rows_of_rank
from r1pipe.stages.length_split import ROUTES
from r1pipe.stages.sampling_control import SamplingControl
from r1pipe.stages.telemetry import SCORE

ONE_VALUE = {"min": min, "max": max}


class DynamicSampling(GRPOTrainer):
    """Mix in before the mixins that measure or record the writing, and set `sampling`.

    Every batch that TRL scores and trains on is then put together here, from groups that are
    finished and rewarded. All ranks decide alike, since they decide by gathered rewards and by
    equal copies of the state, and ask the engine equally often for equally many completions.
    `reward`, `rewards/*`, `tasks/*` and `frac_reward_zero_std` are of all that was written, chosen
    or not, so that runs with and without a choice compare.
    """

    model: Any
    args: Any
    clock: Any
    train_dataset: Any
    num_generations: int
    sampling: SamplingControl | None = None
    expected: Any = None
    _chosen: list[Row] | None = None
    """The rows that TRL is scoring, in place of what it would have written."""
    _chosen_rewards: Tensor
    _told: list[tuple[Any, Tensor]] | None = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        control = self.sampling
        if control is None or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        size = self.num_generations
        wanted = self.args.generation_batch_size // size
        lengths = {name: len(values) for name, values in self._metrics["train"].items()}
        self._told = []
        with self.clock.phase(SCORE):
            written, rounds = self._rounds(control, wanted)
            self._merge_metrics(lengths, rounds)
            self._tell_tasks()
            batch, figures = self._fill(control, written, wanted)
        ranks = self.accelerator.num_processes
        batch = arrange(batch, wanted * size // ranks, size, ranks)
        output = self._score(control, batch)
        if control.rounds is not None:
            figures["sampling/rounds"] = float(len(rounds))
        if control.difficulty is not None:
            figures |= control.difficulty.shares()
        self._note(control, written, figures)
        return output

    def _rounds(self, control: SamplingControl, wanted: int) -> tuple[list[Group], list[int]]:
        """Write groups until `wanted` have spread or the rounds are spent; returns them, and how
        many were written in each round."""
        options, found = control.rounds, list[Group]()
        size, ranks = self.num_generations, self.accelerator.num_processes
        unit = ranks // math.gcd(size, ranks)  # groups that fall into equal parts for all ranks
        first = wanted if options is None else math.ceil(wanted * options.oversampling)
        most = math.ceil(first / unit) * unit
        asked: set[int] = set()
        rounds: list[int] = []
        ask = most
        while True:
            drawn = control.stream.take(ask, asked, least=0 if rounds else wanted)
            drawn = drawn[: len(drawn) // unit * unit]
            if not drawn:  # no other prompt is left
                return found, rounds
            number = control.stream.number
            asked.update(drawn)
            groups = self._write(drawn)
            for group in groups:
                if control.difficulty is not None and control.judged_by is not None:
                    values = group.rewards[:, control.judged_by].tolist()
                    control.difficulty.visit(group.index, values, number)
            found += groups
            rounds.append(len(groups))
            missing = wanted - sum(self._spreads(control, group) for group in found)
            if options is None or missing <= 0 or len(rounds) == options.max_rounds:
                return found, rounds
            # As many as will do at the rate met so far, which is known the worse the less it is.
            rate = (wanted - missing + 1) / (len(found) + 1)
            ask = min(most, math.ceil(missing / rate / unit) * unit)

    def _spreads(self, control: SamplingControl, group: Group) -> bool:
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        weights = self.reward_weights.to(group.rewards)
        return has_spread(group.rewards, weights, control.spread_of, apart)

    def _write(self, drawn: list[int]) -> list[Group]:
        """Let the engine write a group on each drawn prompt, and reward it."""
        size, rank = self.num_generations, self.accelerator.process_index
        total = len(drawn) * size
        each = total // self.accelerator.num_processes
        own = range(rank * each, (rank + 1) * each)
        inputs = [dict(self.train_dataset[drawn[place // size]]) for place in own]
        prompts = [row["prompt"] for row in inputs]
        self.expected = inputs  # so that rewards may begin while others are still being written
        ids, completion_ids, mask, completions, logprobs, extra, _, _ = super()._generate(prompts)
        recorded: Any = getattr(self, "_sequences", None)
        for name, values in extra.items():  # as TRL gives them to the rewards
            for place, row in enumerate(inputs):
                if not isinstance(values, list) or place < len(values):
                    row[name] = values[place] if isinstance(values, list) else values
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        logged = self._take_logged(each)
        rows = [
            Row(
                inputs=inputs[place],
                prompt_ids=ids[place],
                completion_ids=completion_ids[place],
                completion=completions[place],
                logprobs=logprobs[place] if logprobs is not None else None,
                env_mask=mask[place] if mask is not None else None,
                routes=recorded[place].cpu() if recorded is not None else None,
                logged={name: values[place] for name, values in logged.items()},
            )
            for place in range(each)
        ]
        groups = []
        for number, index in enumerate(drawn):
            places = range(number * size, (number + 1) * size)
            homes: list[int] = [place // each for place in places]
            held = {
                place - number * size: rows[place - rank * each] for place in places if place in own
            }
            part = rewards[number * size : (number + 1) * size].float().cpu()
            groups.append(Group(index, self.state.global_step, part, homes, held))
        return groups

    def _take_logged(self, rows: int) -> dict[str, list[Any]]:
        """Return what the rewards logged of each row, kept back until rows are chosen."""
        logged = {n: list(v) for n, v in self._pending_extra_logs.items() if len(v) == rows}
        self._pending_extra_logs.clear()
        return logged

    def _fill(
        self, control: SamplingControl, written: list[Group], wanted: int
    ) -> tuple[list[Group], dict[str, float]]:
        """Return the batch of `wanted` groups, and the figures of how it came about."""
        good = [self._spreads(control, group) for group in written]
        dropped = len(written) - sum(good)
        if control.rounds is None:  # every prompt counts, as without a choice
            batch = written[:wanted]
            filled = dropped
        else:
            batch = [group for group, spreads in zip(written, good, strict=True) if spreads]
            batch = batch[:wanted]
            filled = 0
        step, replayed = self.state.global_step, list[Group]()
        if control.replay is not None and len(batch) < wanted:
            replayed = control.replay.take(wanted - len(batch), step)
            batch = [*batch, *replayed]
        if len(batch) < wanted:
            rest = [group for group, spreads in zip(written, good, strict=True) if not spreads]
            filled = wanted - len(batch)
            batch = [*batch, *rest[:filled]]
            if control.totals.filled == 0 and self.accelerator.is_main_process:
                self._say(filled, wanted, len(written))
        totals = control.totals
        totals.written += len(written)
        totals.without_spread += dropped
        totals.replayed += len(replayed)
        totals.filled += filled
        totals.trained += wanted
        figures: dict[str, float] = {}
        if control.rounds is not None:
            figures["sampling/dropped_groups"] = float(dropped)
            figures["sampling/generated_per_used"] = len(written) / wanted
            figures["sampling/filled_groups"] = float(filled)
        if control.replay is not None:
            figures["sampling/replayed_groups"] = float(len(replayed))
        if replayed:
            ages = [step - group.step for group in replayed]
            figures["sampling/replayed_age"] = sum(ages) / len(ages)
        return batch, figures

    def _say(self, filled: int, wanted: int, written: int) -> None:
        print(
            f"warning: step {self.state.global_step + 1}: {written} prompts left {filled} of "
            f"{wanted} groups without any spread of the reward; they fill the batch and teach "
            "nothing (`sampling/filled_groups` counts them from here on)",
            file=sys.stderr,
            flush=True,
        )

    def _score(self, control: SamplingControl, batch: list[Group]) -> Any:
        """Let TRL score the batch as if it had just written it."""
        size, ranks = self.num_generations, self.accelerator.num_processes
        rank = self.accelerator.process_index
        each = len(batch) * size // ranks
        rows = rows_of_rank(batch, each, rank, gather_object)
        rewards = torch.cat([group.rewards for group in batch]).to(self.accelerator.device)
        self._chosen, self._chosen_rewards = rows, rewards
        iterations = self.num_iterations
        if control.replay is not None:
            # A kept group serves later batches too, so its log-probabilities have to be known;
            # TRL computes them where completions outlive an optimizer step.
            self.num_iterations = self.args.gradient_accumulation_steps + 1
        try:
            output = super()._generate_and_score_completions([row.inputs for row in rows])
        finally:
            self._chosen, self.num_iterations = None, iterations
        if control.replay is None:
            return output
        for place, row in enumerate(rows):
            if row.behaviour is None:
                row.behaviour = self._behaviour(output, place, row)
            else:
                self._put_back(output, place, row)
        for number, group in enumerate(batch):
            places = range(number * size, (number + 1) * size)
            group.ranks = [place // each for place in places]  # they may have moved
            held = [place for place in places if place // each == rank]
            group.rows = {place - number * size: rows[place - rank * each] for place in held}
        control.replay.add([g for g in batch if not g.replayed and self._spreads(control, g)])
        return output

    def _behaviour(self, output: dict[str, Any], place: int, row: Row) -> Behaviour:
        """Return what was just found out about a new completion's tokens."""
        count = len(row.completion_ids)

        def own(name: str) -> Tensor | None:
            value = output.get(name)
            if value is None:
                return None
            return value[place, : min(count, value.shape[1])].float().cpu().clone()

        old = own("old_per_token_logps")
        assert old is not None
        ratio, routes = own("importance_sampling_ratio"), None
        if row.routes is None and ROUTES in output:  # recorded in the pass that gave `old`
            routes = output[ROUTES][place, self._columns(output, row)].cpu().clone()
        return Behaviour(old, own("sampling_per_token_logps"), ratio, routes)

    def _put_back(self, output: dict[str, Any], place: int, row: Row) -> None:
        """Let a replayed completion be weighed against the policy that wrote it."""
        then = row.behaviour
        assert then is not None
        known = {
            "old_per_token_logps": then.old,
            "sampling_per_token_logps": then.sampled,
            "importance_sampling_ratio": then.ratio,
        }
        for name, value in known.items():
            if value is not None:
                target = output[name]
                target[place, : len(value)] = value.to(target)
        if then.routes is not None:
            output[ROUTES][place, self._columns(output, row)] = then.routes.to(output[ROUTES])

    def _columns(self, output: dict[str, Any], row: Row) -> slice:
        """Return where a row's own tokens lie among prompts padded left, completions right."""
        before = output["prompt_ids"].shape[1]
        return slice(before - len(row.prompt_ids), before + len(row.completion_ids))

    def _generate(self, prompts: list[Any]) -> Any:
        chosen = self._chosen
        if chosen is None:
            return super()._generate(prompts)
        if getattr(self, "router_replay", "none") != "none":
            self._reuse_routes([row.routes for row in chosen])  # pyright: ignore[reportAttributeAccessIssue]
        logprobs: Any = None
        if any(row.logprobs is not None for row in chosen):
            # Unknown ones weigh nothing in TRL: the ratio of a replayed row is put back afterwards.
            logprobs = [
                row.logprobs
                if row.behaviour is None and row.logprobs is not None
                else [None] * len(row.completion_ids)
                for row in chosen
            ]
        masks = [row.env_mask for row in chosen]
        return (
            [row.prompt_ids for row in chosen],
            [row.completion_ids for row in chosen],
            masks if any(mask is not None for mask in masks) else None,
            [row.completion for row in chosen],
            logprobs,
            {},
            None,
            [],
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        if self._chosen is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        names = sorted({name for row in self._chosen for name in row.logged})
        for name in names:
            self._pending_extra_logs[name] = [row.logged.get(name) for row in self._chosen]
        return self._chosen_rewards

    def _log_by_task(self, told: Any, rewards: Tensor) -> None:
        """Wait until all rounds of a batch are written: the means are of all of them."""
        if self._told is None:
            super()._log_by_task(told, rewards)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self._told.append((told, rewards))

    def _tell_tasks(self) -> None:
        parts, self._told = self._told or [], None
        if parts:
            told = [one for part, _ in parts for one in part]
            rewards = torch.cat([rewards for _, rewards in parts])
            super()._log_by_task(told, rewards)  # pyright: ignore[reportAttributeAccessIssue]

    def _merge_metrics(self, lengths: dict[str, int], rounds: Sequence[int]) -> None:
        """Replace what TRL logged of every round by one value for all of them."""
        for name, values in self._metrics["train"].items():
            new = values[lengths.get(name, 0) :]
            if len(new) != len(rounds) or len(rounds) == 1:
                continue
            choose = next((f for part, f in ONE_VALUE.items() if f"/{part}_" in name), None)
            weighted = sum(v * n for v, n in zip(new, rounds, strict=True)) / sum(rounds)
            values[lengths.get(name, 0) :] = [choose(new) if choose else weighted]

    def _note(
        self, control: SamplingControl, written: list[Group], figures: dict[str, float]
    ) -> None:
        """Log the figures, and the rewards of all that was written in place of the chosen ones'."""
        metrics = self._metrics["train"]
        metrics["sampling/used_reward"].append(metrics["reward"][-1])
        rewards = torch.cat([group.rewards for group in written])
        total = (rewards * self.reward_weights.to(rewards)).nansum(dim=1)
        total = total[~torch.isnan(rewards).all(dim=1)]
        spread = sum(self._spreads(control, group) for group in written)
        metrics["reward"][-1] = float(total.mean())
        metrics["reward_std"][-1] = _std(total)
        metrics["frac_reward_zero_std"][-1] = 1 - spread / len(written)
        for column, name in enumerate(self.reward_func_names):
            known = rewards[:, column][~torch.isnan(rewards[:, column])]
            metrics[f"rewards/{name}/mean"][-1] = float(known.mean())
            metrics[f"rewards/{name}/std"][-1] = _std(known)
        for name, value in figures.items():
            metrics[name].append(value)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.sampling is not None:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            self.sampling.save(folder, self.accelerator)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.sampling is not None and checkpoint is not None:
            self.sampling.load(Path(checkpoint), self.accelerator, self.train_dataset)


def _std(values: Tensor) -> float:
    """Return the sample standard deviation as TRL logs it, NaN for fewer than two values."""
    return float(values.std()) if len(values) > 1 else math.nan
