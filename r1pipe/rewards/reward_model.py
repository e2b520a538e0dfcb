"""Reward-model reward: the score of a sequence-classification model, on rows of its domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.completions import (
    GENERAL,
    domains_of,
    final_answer,
    prefilled_rows,
    text_of,
)


class RewardModel:
    """The raw score (one logit) of a reward model; None outside `domains`.

    R1 (Nature 645:633, Methods) rewards general prompts this way: its helpfulness model reads the
    final answer only, its safety model the whole response. A completion without an answer gets
    `missing`, so that leaving the answer out is never the better choice. Scores are not scaled: the
    group normalisation of GRPO does that, beside other rewards `weight` must.

    The model is loaded at the first call, once per process, next to the trainer (not sharded).
    """

    __name__ = "preference"
    best = None

    def __init__(
        self,
        path: str,
        domains: Sequence[str] = (GENERAL,),
        reads: Literal["answer", "completion"] = "answer",
        batch_size: int = 8,
        max_length: int = 8192,
        missing: float = -10.0,
        prefilled: bool | None = None,
        dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto",
        device: str | None = None,
        revision: str | None = None,
    ) -> None:
        """`path`: folder or hub id of a model with one label, safetensors only.

        `max_length`: tokens of prompt and response (R1: 8192); what is longer loses its beginning.
        `device`: null is the GPU of this process, or the CPU. `prefilled`: whether the
        prompt already opened `<think>`; null looks at the prompt.
        """
        if batch_size < 1 or max_length < 1:
            raise UserError(
                Problem("reward.preference", "batch_size and max_length must be at least 1")
            )
        self._path, self._revision, self._dtype = path, revision, dtype
        self._domains, self._reads = frozenset(domains), reads
        self._batch_size, self._max_length = batch_size, max_length
        self._missing, self._prefilled, self._device = missing, prefilled, device
        self._loaded: tuple[Any, Any] | None = None

    def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        prefilled: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        told = prefilled if self._prefilled is None else self._prefilled
        opened = prefilled_rows(told, prompts, len(completions))
        rewards: list[float | None] = [None] * len(completions)
        scored: list[int] = []
        texts: list[str] = []
        for index, domain in enumerate(domains_of(columns, len(completions))):
            if domain not in self._domains:
                continue
            response = self._response_of(text_of(completions[index]), opened[index])
            if response is None:
                rewards[index] = self._missing
                continue
            scored.append(index)
            texts.append(self._conversation(prompts[index], response))
        for start in range(0, len(scored), self._batch_size):
            chosen = slice(start, start + self._batch_size)
            scores = self._score(texts[chosen])
            for index, score in zip(scored[chosen], scores, strict=True):
                rewards[index] = score
        return rewards

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def _response_of(self, text: str, opened: bool) -> str | None:
        if self._reads == "completion":
            return text or None
        return final_answer(text, opened) or None

    def _conversation(self, prompt: str | Sequence[Mapping[str, Any]], response: str) -> str:
        tokenizer, _ = self._model()
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        messages = [*asked, {"role": "assistant", "content": response}]
        if tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            # The tokenizer adds the begin token itself.
            return text.removeprefix(tokenizer.bos_token or "")
        return "\n".join(text_of([message]) for message in messages)

    def _score(self, texts: Sequence[str]) -> list[float]:
        """Return one score per text; `logits` is [B, 1]."""
        import torch

        tokenizer, model = self._model()
        # A lone surrogate, which a model cannot write but a caller may pass, has no encoding.
        whole = [text.encode("utf-8", "replace").decode() for text in texts]
        batch = tokenizer(
            whole, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            logits = model(**batch).logits
        return [float(score) for score in logits.float()[:, 0].tolist()]

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self._path, revision=self._revision)
            with _whole_weights():
                model = AutoModelForSequenceClassification.from_pretrained(
                    self._path, revision=self._revision, dtype=self._dtype, use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise UserError(
                Problem(
                    "reward.preference.path",
                    f"cannot load a reward model from `{self._path}`: {error}",
                    "a folder or hub id with a sequence-classification model and its tokenizer",
                )
            ) from error
        if model.config.num_labels != 1:
            raise UserError(
                Problem(
                    "reward.preference.path",
                    f"`{self._path}` has {model.config.num_labels} labels, a reward model has one",
                )
            )
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Decoder classifiers read the last token that is not padding, found by this id.
        model.config.pad_token_id = tokenizer.pad_token_id
        # `cuda` is the device of this process, which the launcher made current.
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.to(device).eval()


@contextmanager
def _whole_weights() -> Iterator[None]:
    """Load a model unsharded although the trainer runs under ZeRO-3, which shards what it sees."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)
