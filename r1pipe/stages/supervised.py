"""Supervised training on rows of prompt and completion, or of text (TRL's SFTTrainer)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from r1pipe.data.batching import LengthWindowSampler
from r1pipe.data.encoding import encode_rows, within
from r1pipe.data.prompts import encode_prompts
from r1pipe.data.streaming import StreamedRows, stream
from r1pipe.errors import Problem, UserError
from r1pipe.models.loading import context_length
from r1pipe.schema import Supervised
from r1pipe.stages.checkpoint import WholeCheckpoints
from r1pipe.stages.context import StageContext
from r1pipe.stages.guards import FiniteSteps, require_one_batch
from r1pipe.stages.length_split import SplitByLength
from r1pipe.stages.training import trainer_config

log = logging.getLogger(__name__)


class R1SFTTrainer(FiniteSteps, WholeCheckpoints, SplitByLength, SFTTrainer):
    """TRL's trainer with whole checkpoints, finite numbers and batches of like lengths."""

    rows_cut = 0
    """Rows that are longer than `max_length` and lose their end."""
    length_window = 0
    """Batches per window in which rows are sorted by length; 0 leaves TRL's order."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        data: Any = self.train_dataset if train_dataset is None else train_dataset
        args: Any = self.args
        if self.length_window == 0 or args.packing:
            return super()._get_train_sampler(train_dataset)
        streamed = isinstance(data, StreamedRows)
        lengths = data.lengths if streamed else [len(ids) for ids in data["input_ids"]]
        rows = args.per_device_train_batch_size * args.world_size
        return LengthWindowSampler(
            lengths, rows, self.length_window, args.seed, args.shuffle_dataset
        )


def supervised_trainer(
    context: StageContext, model: Any, tokenizer: Any, data: Dataset, peft_config: Any = None
) -> R1SFTTrainer:
    """Return a trainer on `data`: completion-only loss for prompt + completion rows."""
    args: Any = trainer_config(SFTConfig, context)
    stage = context.stage
    assert isinstance(stage, Supervised)
    data = data.select_columns(_used_columns(context.name, data, args))
    if (longest := context_length(model)) is not None:
        args.max_length = min(args.max_length or longest, longest)
    if _is_plain_text(data, args):
        data, cut = tokenized(data, tokenizer, args, stage.data.overlong)
        require_one_batch(context.name, len(data), args)
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    else:
        data, cut = within_length(data, tokenizer, args, stage.data.overlong)
    trainer = R1SFTTrainer(
        model=model,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.length_window = stage.length_window
    trainer.rows_cut = cut
    return trainer


@contextmanager
def streaming_trainer(context: StageContext, model: Any, tokenizer: Any) -> Iterator[R1SFTTrainer]:
    """Yield a trainer on rows that are made while it reads them; see `data.streaming`.

    Raises UserError, like a trainer that reads a row, for rows that `max_length` leaves nothing of.
    """
    args: Any = trainer_config(SFTConfig, context)
    stage = context.stage
    assert isinstance(stage, Supervised)
    if (longest := context_length(model)) is not None:
        args.max_length = min(args.max_length or longest, longest)
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    args.remove_unused_columns = False
    completion_only = args.completion_only_loss is not False
    rows = stream(stage.data, stage.seed, tokenizer, args.max_length, completion_only)
    try:
        require_one_batch(context.name, len(rows), args)
        first = Dataset.from_list([rows[0]])  # TRL wants one of its own kind to look at
        trainer = R1SFTTrainer(
            model=model, args=args, train_dataset=first, processing_class=tokenizer
        )
        trainer.train_dataset = cast(Any, rows)
        trainer.data_collator = _as_it_is
        trainer.length_window = stage.length_window
        yield trainer
    finally:
        rows.close()


def _as_it_is(batch: Any) -> Any:
    """Return what the rows have put together themselves."""
    return batch


def _used_columns(stage: str, data: Dataset, args: SFTConfig) -> list[str]:
    """Return the columns TRL reads; columns of ours (task, answer ...) would confuse it."""
    known = data.column_names
    for wanted in (["prompt", "completion"], ["messages"], [args.dataset_text_field]):
        if set(wanted) <= set(known):
            return wanted
    raise UserError(
        Problem(
            f"stages.{stage}.data",
            f"the rows have {', '.join(known)}; supervised training reads `prompt` and "
            "`completion`, or `text`",
            "name the columns in `data.columns`",
        )
    )


def _is_plain_text(data: Dataset, args: SFTConfig) -> bool:
    """True when `tokenized` gives what TRL's own preparation would, in half the time."""
    special = args.packing or args.assistant_only_loss or args.dataset_kwargs
    return not special and all(isinstance(value, str) for value in data[0].values())


def tokenized(
    data: Dataset, tokenizer: Any, args: SFTConfig, overlong: str = "error"
) -> tuple[Dataset, int]:
    """Return `input_ids` and `labels` of plain-text rows, as SFTTrainer prepares them.

    TRL maps row by row, four times over; this makes two batched tokenizer calls and works on flat
    arrays. Beside them, how many rows `max_length` cut; one that it leaves without a completion is
    a UserError or, with `overlong` set to `drop`, left out.
    """
    for column in data.column_names:
        if None in (values := data[column][:]):
            what = f"row {values.index(None) + 1} has no `{column}`"
            raise UserError(Problem("data", what))
    prompts = data["prompt"][:] if "prompt" in data.column_names else None
    texts = data["completion" if prompts is not None else args.dataset_text_field][:]

    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, return_attention_mask=False)["input_ids"]

    completion_only = args.completion_only_loss is not False
    whole = encode_rows(texts, prompts, encode, tokenizer.eos_token, completion_only)
    kept, lost = within(whole, args.max_length)
    cut = 0
    if args.max_length is not None:
        cut = _count_cut(whole.lengths, lost, args.max_length, overlong)
    dataset = _from_flat(kept.ids, kept.labels, kept.lengths)
    return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset, cut


def within_length(
    data: Dataset, tokenizer: Any, args: SFTConfig, overlong: str
) -> tuple[Dataset, int]:
    """Do as `tokenized` with rows of messages, whose token ids TRL makes itself."""
    if args.packing or args.max_length is None or "prompt" not in data.column_names:
        return data, 0
    prompts = [len(ids) for ids in encode_prompts(data["prompt"][:], tokenizer)]
    texts = [
        completion if isinstance(completion, str) else completion[-1]["content"]
        for completion in data["completion"][:]
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = np.array(prompts) + np.array([len(row) for row in ids])
    lost = np.flatnonzero(np.array(prompts) >= args.max_length)
    cut = _count_cut(lengths, lost, args.max_length, overlong)
    return data.select(np.setdiff1d(np.arange(len(data)), lost)) if len(lost) else data, cut


def _count_cut(lengths: np.ndarray, lost: np.ndarray, longest: int, overlong: str) -> int:
    """Return how many rows lose their end; UserError for rows that lose their whole completion."""
    if len(lost):
        what = (
            f"{len(lost)} of {len(lengths)} rows have no token of their completion within "
            f"max_length {longest} (first: row {lost[0] + 1}, {lengths[lost[0]]} tokens)"
        )
        if overlong == "error" or len(lost) == len(lengths):
            hint = "raise `trainer.max_length`, or set `data.overlong: drop`"
            raise UserError(Problem("trainer.max_length", what, hint))
        log.warning("%s: dropped", what)
    cut = int((lengths > longest).sum()) - len(lost)
    if cut:
        log.warning("%d of %d rows are cut to %d tokens", cut, len(lengths), longest)
    return cut


def _from_flat(ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> Dataset:
    """Return a data set of ragged rows from flat values [tokens] and lengths [rows]."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int64())
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values, type=pa.int64()))
        for name, values in (("input_ids", ids), ("labels", labels))
    }
    return Dataset(pa.table(columns))
