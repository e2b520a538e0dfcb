"""Computes a batch's loss in parts: the same gradient with little padding, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from transformers import Trainer

from r1pipe.models.deepseek import DeepseekForCausalLM
from r1pipe.stages.auxiliary import language_model
from r1pipe.stages.token_budget import MOST, TokenBudget, bins, out_of_memory, rectangles

PART_COST = 256
"""What one more forward and backward pass costs a CPU, in padded tokens (measured, 0.1 M model)."""
BOUNDARIES = 16
"""A batch is cut at multiples of its size divided by this."""
_SEQUENCE_MEANS = ("grpo", "sapo", "dr_grpo", "luspo")  # losses that average over sequences
_CLIPPED = ("low", "high", "region")
NO_GRADIENTS = 4
"""So many times the tokens of a pass with gradients fit in one without: no layer's activations."""
ROUTES = "routed_experts"
"""Key of the replayed routes [rows, prompt and completion columns, layers, experts] in a batch."""


class SplitByLength(Trainer):
    """Mix in before SFTTrainer or GRPOTrainer: batches of any size are computed in parts.

    Where padding costs in full (a CPU), parts are of like length; under a budget of tokens they are
    as large as it allows. The parts' losses are summed with the weights that the whole batch would
    give them, so the gradient is that of the whole batch up to rounding. Not under FSDP or
    DeepSpeed, with an entropy bonus, or where a quantile of all tokens decides (TRL's
    `top_entropy_quantile`): there the batch stays whole.
    """

    max_tokens_per_microbatch: int | Literal["auto"] | None = None
    """Tokens of a pass with gradients; see TokenBudget."""
    _budget: TokenBudget | None = None
    _passing = 0
    """Tokens of the update's pass that is under way."""

    @property
    def budget(self) -> TokenBudget:
        if self._budget is None:
            self._budget = TokenBudget(self.max_tokens_per_microbatch, self.args.device)
        return self._budget

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._passing = 0
        try:
            return super().training_step(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            if not self._passing:
                raise
            raise out_of_memory(error, self._passing) from error

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        parts = None
        if not return_outputs and self._may_split(num_items_in_batch):
            self.budget.settle(self)
            parts = self._parts(inputs)
        if parts is None:
            self._passing = _tokens(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        metrics: Any = self._metrics["train"]  # pyright: ignore[reportAttributeAccessIssue]
        before = {name: len(values) for name, values in metrics.items()}
        weights = self._weights(inputs, parts)
        done = torch.zeros((), device=self.args.device)
        auxiliary = AuxiliaryMean(self, weights)
        for number, (part, weight) in enumerate(zip(parts[:-1], weights, strict=False)):
            self._passing = _tokens(part)
            with self.accelerator.no_sync(model), self.budget.watch(self._passing, number):
                with uneven_gathers(self.accelerator):
                    loss: Any = super().compute_loss(model, part, False, num_items_in_batch)
                auxiliary.add()
                loss = loss * weight
                self.accelerator.backward(loss)
            done += loss.detach()
        self._passing = _tokens(parts[-1])
        with uneven_gathers(self.accelerator):
            last: Any = super().compute_loss(model, parts[-1], False, num_items_in_batch)
        auxiliary.add()
        tokens: Any = torch.stack([_scored(part).sum().float() for part in parts])
        tokens = self.accelerator.reduce(tokens)  # what is logged is of all ranks
        tokens = tokens.tolist()
        _merge_metrics(metrics, before, {"aux_loss": weights, **self._by_sequence(parts)}, tokens)
        return last * weights[-1] + done

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> Any:
        """Score whole batches in parts too: what TRL asks of the old policy and the reference."""
        score = super()._get_per_token_logps_and_entropies  # pyright: ignore[reportAttributeAccessIssue]
        given = (model, input_ids, attention_mask, logits_to_keep)
        plain = not any(value for value in options.values() if value is not None)
        replays = getattr(self, "router_replay", "none") != "none"  # routes are of the whole batch
        whole = torch.is_grad_enabled() or not plain or replays or sharded(self)
        if whole or (self.budget.tokens is None and not pays(self)):
            return score(*given, batch_size, **options)
        prompt = input_ids.shape[1] - logits_to_keep
        inputs = {
            "prompt_ids": input_ids[:, :prompt],
            "prompt_mask": attention_mask[:, :prompt],
            "completion_ids": input_ids[:, prompt:],
            "completion_mask": attention_mask[:, prompt:],
            "row": torch.arange(len(input_ids), device=input_ids.device),
        }
        logps = torch.zeros(inputs["completion_ids"].shape, device=input_ids.device)
        parts = self._parts(inputs, NO_GRADIENTS)
        rows = batch_size if parts is None and self.budget.tokens is None else None
        for part in parts or [inputs]:
            ids = torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1)
            mask = torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1)
            kept = part["completion_ids"].shape[1]
            found, _, _ = score(model, ids, mask, kept, rows, **options)
            logps[part["row"], :kept] = found.to(logps.dtype)
        return logps, None, None

    def _parts(self, inputs: Any, larger: int = 1) -> list[dict[str, Any]] | None:
        """Return the batch in parts, None to take it whole; all ranks have as many.

        Under a budget, a part has up to `larger` times its tokens.
        """
        tokens = self.budget.tokens
        if tokens is None:
            return split(inputs)
        shape = _shape(inputs)
        if shape is None:
            return None
        lengths, prompts, grpo = shape
        counted: Any
        packs: bool = getattr(self, "packs", bool)()
        if packs:
            cut_into, counted = bins, lengths + prompts
        else:
            cut_into, counted = rectangles, lengths + prompts.max()
        most = max(tokens, min(MOST, larger * tokens))
        found = cut_into(counted.tolist(), most)
        if self.args.world_size > 1:  # each part gathers its metrics from all ranks
            count = torch.tensor([len(found)], device=self.args.device)
            gathered: Any = self.accelerator.gather(count)
            count = int(gathered.max())
            found = cut_into(counted.tolist(), most, count) if count > len(found) else found
        if len(found) == 1:
            return None
        rows = [torch.tensor(each, device=lengths.device) for each in found]
        return [_part(inputs, each, grpo) for each in rows]

    def _may_split(self, num_items_in_batch: Any) -> bool:
        args: Any = self.args
        model: Any = self.model
        if not model.training or sharded(self):
            return False
        if self.budget.tokens is None and not pays(self):
            return False
        if self.label_smoother is not None or not auxiliary_splits(self):
            return False  # means over the tokens of one pass
        if hasattr(args, "loss_type") and hasattr(args, "num_generations"):
            return not self._entropy_bonus_enabled and args.top_entropy_quantile == 1.0  # pyright: ignore[reportAttributeAccessIssue]
        return num_items_in_batch is not None and self.compute_loss_func is None

    def _by_sequence(self, parts: list[dict[str, Any]]) -> dict[str, list[float]]:
        """Return the metrics that are means over sequences, with the sequences of each part."""
        names = ["vespo/phi_seq_mean"]
        if getattr(self.args, "importance_sampling_level", "token") == "sequence":
            names += ["cispo_clip_ratio", *[f"clip_ratio/{n}_mean" for n in _CLIPPED]]
        return {name: [float(len(_scored(part))) for part in parts] for name in names}

    def _weights(self, inputs: Any, parts: list[dict[str, Any]]) -> list[float]:
        """Return the share of each part in the loss of the whole batch."""
        loss_type = getattr(self.args, "loss_type", None)
        if loss_type in _SEQUENCE_MEANS:
            rows = [len(_scored(part)) for part in parts]
            return [count / sum(rows) for count in rows]
        if loss_type == "bnpo":
            tokens = [float(_scored(part).sum()) for part in parts]
            return [count / max(sum(tokens), 1.0) for count in tokens]
        return [1.0] * len(parts)  # sums over tokens, divided by what the whole step counts


def pays(trainer: Any) -> bool:
    """Whether padding costs enough here, and no other rank would have to cut alike."""
    args = trainer.args
    if args.device.type != "cpu" or args.bf16 or args.fp16:
        return False
    # Each part gathers its metrics from all ranks, which would cut other parts.
    return args.world_size == 1 and not sharded(trainer)


def sharded(trainer: Any) -> bool:
    """Whether an engine of its own counts the backward passes of a step."""
    return trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled


def auxiliary_splits(trainer: Any) -> bool:
    """Whether the loss that a model adds is none, or a mean over sequences as the trainer's is."""
    if not getattr(trainer, "aux_loss_enabled", False):
        return True
    model = language_model(trainer)
    balance_alone = isinstance(model, DeepseekForCausalLM) and model.config.mtp_loss_weight == 0
    return balance_alone and getattr(trainer.args, "loss_type", None) in _SEQUENCE_MEANS


@contextmanager
def uneven_gathers(accelerator: Any) -> Iterator[None]:
    """Let ranks gather a value of each of their rows where they have unlike many; NaN fills up."""
    if accelerator.num_processes == 1:
        yield
        return
    plain = accelerator.gather

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim and tensor.is_floating_point():
            tensor = accelerator.pad_across_processes(tensor, pad_index=math.nan)
        return plain(tensor)

    accelerator.gather = gather
    try:
        yield
    finally:
        del accelerator.gather


class AuxiliaryMean:
    """Leaves what the model noted of its auxiliary losses as the mean over a batch's parts."""

    def __init__(self, trainer: Any, weights: list[float]) -> None:
        model = language_model(trainer)
        self._model = model if isinstance(model, DeepseekForCausalLM) else None
        self._weights = iter(weights)
        self._sum: dict[str, torch.Tensor] = {}

    def add(self) -> None:
        """Take in the pass of the next part."""
        weight = next(self._weights)
        if self._model is not None:
            for name, value in self._model.auxiliary_losses.items():
                self._sum[name] = self._sum.get(name, 0.0) + weight * value
            self._model.auxiliary_losses = dict(self._sum)


def split(inputs: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the batch cut into parts of like length, or None when that does not pay.

    Takes a right-padded SFT batch (`input_ids`, `labels`, `attention_mask`) or a GRPO batch
    (left-padded prompts, right-padded completions).
    """
    shape = _shape(inputs)
    if shape is None:
        return None
    lengths, _, grpo = shape
    order = lengths.argsort(stable=True)
    ends = cut([int(length) for length in lengths[order]])
    if len(ends) == 1:
        return None
    starts = [0, *ends[:-1]]
    return [_part(inputs, order[a:b], grpo) for a, b in zip(starts, ends, strict=True)]


def _shape(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """Return the rows' lengths without and of their prompts [rows], and whether it is of GRPO.

    None for a batch that cannot be cut. A completion without tokens that bear loss has length 1.
    """
    grpo = "completion_mask" in inputs
    mask = inputs.get("completion_mask") if grpo else inputs.get("attention_mask")
    if mask is None or any(key in inputs for key in ("position_ids", "pixel_values")):
        return None
    lengths = mask.sum(1)
    if not grpo and bool((lengths == 0).any()):
        return None
    prompts = inputs["prompt_mask"].sum(1) if grpo else torch.zeros_like(lengths)
    return lengths.clamp(min=1), prompts, grpo


def _tokens(inputs: dict[str, Any]) -> int:
    """Return the tokens of a batch, padding included."""
    if "completion_ids" in inputs:
        return inputs["prompt_ids"].numel() + inputs["completion_ids"].numel()
    return inputs["input_ids"].numel() if "input_ids" in inputs else 0


def cut(lengths: list[int]) -> list[int]:
    """Return where to cut rows sorted by length (ends of the parts) for the least padded tokens."""
    step = max(1, len(lengths) // BOUNDARIES)
    places = [*range(0, len(lengths), step), len(lengths)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for j in range(1, len(places)):
        longest = lengths[places[j] - 1]
        best.append(
            min((best[i][0] + (places[j] - places[i]) * longest + PART_COST, i) for i in range(j))
        )
    ends, j = [], len(places) - 1
    while j > 0:
        ends.append(places[j])
        j = best[j][1]
    return ends[::-1]


def _part(inputs: dict[str, Any], rows: torch.Tensor, grpo: bool) -> dict[str, Any]:
    """Return some rows of a batch without the columns that are padding in all of them."""
    right = inputs["completion_mask" if grpo else "attention_mask"]
    # TRL takes what has a single column for one value of each sequence.
    longest = min(right.shape[1], max(2, int(right[rows].sum(1).max())))
    prompt = int(inputs["prompt_mask"][rows].sum(1).max()) if grpo else 0
    part: dict[str, Any] = {}
    for name, value in inputs.items():
        if not torch.is_tensor(value) or value.ndim == 0:
            part[name] = value
        elif name == ROUTES:
            before = inputs["prompt_ids"].shape[1]
            part[name] = value[rows, before - prompt : before + longest]
        elif name in ("prompt_ids", "prompt_mask"):
            part[name] = value[rows, value.shape[1] - prompt :]
        elif value.ndim == 2 and value.shape[1] == right.shape[1]:
            part[name] = value[rows, :longest]
        else:
            part[name] = value[rows]
    return part


def _scored(part: dict[str, Any]) -> torch.Tensor:
    """Return the mask [rows, columns] of tokens that bear loss."""
    if "completion_mask" in part:
        mask = part["completion_mask"]
        return mask * part["tool_mask"] if "tool_mask" in part else mask
    return part["labels"][:, 1:] != -100


def _merge_metrics(
    metrics: dict[str, list[float]],
    before: dict[str, int],
    special: dict[str, list[float]],
    tokens: list[float],
) -> None:
    """Replace what each part logged by one value for the batch.

    The weights of the parts are their scored tokens, but for the names in `special`.
    """
    for name, values in metrics.items():
        new = values[before.get(name, 0) :]
        if len(new) != len(tokens):
            continue  # logged once for the batch, as a running total
        if name.endswith(("min", "max")):
            known = [value for value in new if not math.isnan(value)] or new
            merged = (min if name.endswith("min") else max)(known)
        else:
            weights = special.get(name, tokens)
            known = [pair for pair in zip(new, weights, strict=True) if pair[1]]
            whole = sum(weight for _, weight in known) or 1.0
            merged = sum(value * weight for value, weight in known) / whole
        values[before.get(name, 0) :] = [merged]
