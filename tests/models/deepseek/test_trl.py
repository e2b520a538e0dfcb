"""TRL's trainers train it as the report says, with nothing but the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import (
    DistillationConfig,
    DistillationTrainer,
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)

from r1pipe.models.deepseek import AuxiliaryDistillation, ExpertBalancing
from r1pipe.models.tiny import build_tiny_tokenizer

BASE: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "max_steps": 2,
}
TOKENIZER = build_tiny_tokenizer()


def model_for(fresh: Any) -> Any:
    return fresh(
        vocab_size=len(TOKENIZER),
        pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        num_nextn_predict_layers=1,
        bias_update_speed=0.125,
        balance_factor=0.1,
    )


def texts(count: int) -> Dataset:
    sums = ["12+34=46 \n" * (i % 3 + 1) for i in range(count)]
    return Dataset.from_list([{"input_ids": TOKENIZER(text)["input_ids"]} for text in sums])


def state(model: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    biases = [router.e_score_correction_bias.clone() for router in model.model.routers]
    return biases, model.model.mtp_layers[0].eh_proj.weight.detach().clone()


def assert_all_of_it_trained(model: Any, before: Any, trainer: Any) -> None:
    biases, mtp = before
    for router, bias in zip(model.model.routers, biases, strict=True):
        moved = (router.e_score_correction_bias - bias).abs()
        assert float(moved.max()) == pytest.approx(0.25)
    assert not torch.equal(model.model.mtp_layers[0].eh_proj.weight, mtp)
    logged = trainer.state.log_history[0]
    expected = 0.3 * logged["mtp_loss"] + logged["balance_loss"]
    assert logged["aux_loss"] == pytest.approx(expected, rel=1e-4)
    assert "experts/max_violation" in logged


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_sft(checkpointing: bool, packing: bool, fresh: Any, tmp_path: Path) -> None:
    model = model_for(fresh)
    before = state(model)
    options = {"gradient_checkpointing": checkpointing, "packing": packing, "max_length": 64}
    arguments = SFTConfig(str(tmp_path), per_device_train_batch_size=2, **options, **BASE)
    trainer = SFTTrainer(
        model, arguments, train_dataset=texts(24), processing_class=TOKENIZER,
        callbacks=[ExpertBalancing()],
    )  # fmt: skip
    trainer.train()
    assert_all_of_it_trained(model, before, trainer)
    assert trainer.evaluate(texts(4))["eval_loss"] > 0


def test_sft_with_adapters(fresh: Any, tmp_path: Path) -> None:
    model = model_for(fresh)
    biases, _ = state(model)
    trainer = SFTTrainer(
        model,
        SFTConfig(str(tmp_path), per_device_train_batch_size=2, **BASE),
        train_dataset=texts(8),
        processing_class=TOKENIZER,
        callbacks=[ExpertBalancing()],
        peft_config=LoraConfig(r=2, target_modules=["q_b_proj", "kv_b_proj", "o_proj"]),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["aux_loss"] > 0 and logged["mtp_loss"] > 0
    for router, bias in zip(model.model.routers, biases, strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)  # frozen with its router


@pytest.mark.parametrize("checkpointing", [False, True])
def test_grpo(checkpointing: bool, fresh: Any, tmp_path: Path) -> None:
    def reward(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(completion) % 5) for completion in completions]

    model = model_for(fresh)
    before = state(model)
    arguments = GRPOConfig(
        str(tmp_path), num_generations=4, max_completion_length=8, per_device_train_batch_size=4,
        gradient_checkpointing=checkpointing, learning_rate=1e-3, **BASE,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, processing_class=TOKENIZER,
        train_dataset=Dataset.from_list([{"prompt": "12+3="}] * 8), callbacks=[ExpertBalancing()],
    )  # fmt: skip
    trainer.train()
    assert_all_of_it_trained(model, before, trainer)


def test_distillation(fresh: Any, tmp_path: Path) -> None:
    class Distilling(AuxiliaryDistillation, DistillationTrainer):
        pass

    model, teacher = model_for(fresh), model_for(fresh)
    before = state(model)
    arguments = DistillationConfig(
        str(tmp_path), per_device_train_batch_size=2, max_completion_length=8, learning_rate=1e-3,
        gradient_accumulation_steps=2, **BASE,
    )  # fmt: skip
    trainer = Distilling(
        model=model, teacher_model=teacher, args=arguments, processing_class=TOKENIZER,
        train_dataset=Dataset.from_list([{"prompt": "12+3="}] * 8), callbacks=[ExpertBalancing()],
    )  # fmt: skip
    trainer.train()
    biases, mtp = before
    logged = trainer.state.log_history[0]
    assert logged["mtp_loss"] > 0 and logged["experts/max_violation"] > 0
    assert not torch.equal(model.model.mtp_layers[0].eh_proj.weight, mtp)
    moved = [
        r.e_score_correction_bias - b for r, b in zip(model.model.routers, biases, strict=True)
    ]
    assert all(float(change.abs().max()) > 0 for change in moved)
    assert all(router.load_E is None for router in teacher.model.routers)
