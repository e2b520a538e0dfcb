"""GRPO with routing replay: routes travel with their rows, and updates use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from r1pipe.errors import StageFailed, UserError
from r1pipe.models.deepseek import DeepseekConfig, DeepseekForCausalLM
from r1pipe.models.deepseek.replay import UNKNOWN
from r1pipe.schema import Lora, Rollout
from r1pipe.stages import length_split
from r1pipe.stages.length_split import ROUTES
from r1pipe.stages.router_replay import RouterReplay, require_routers
from tests.stages import tiny
from tests.stages.children import (
    KILLED,
    in_child,
    kill_at_training_step,
    results,
    train,
    train_whole_and_split,
)

SHAPE: dict[str, Any] = {
    "vocab_size": len(tiny.CHARACTERS) + 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 64,
    "num_nextn_predict_layers": 0,
    "initializer_range": 0.3,
    "bias_update_speed": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
GRPO = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "max_steps": 4,
    "save_strategy": "no",
}
UNALIGNED = {**GRPO, "steps_per_generation": 2, "num_iterations": 2, "beta": 0.1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    DeepseekForCausalLM(DeepseekConfig(**SHAPE)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def stage(model: str, replay: str, engine: str = "transformers", **options: Any) -> Any:
    given = tiny.grpo_stage(model, engine, **options)
    return given.model_copy(update={"router_replay": replay})


def run(folder: Path, given: Any, watch: Callable[[Any, Any], None] | None = None) -> list[Any]:
    """Train in a child; `watch(trainer, inputs)` sees every batch before its loss."""

    def child() -> None:
        original = RouterReplay._compute_loss

        def compute(self: Any, model: Any, inputs: Any) -> Any:
            if watch is not None:
                watch(self, inputs)
            return original(self, model, inputs)

        RouterReplay._compute_loss = compute
        train(tiny.context(folder, given))

    assert in_child(child) == 0
    return results(folder)[1]


def routes_match_the_text(trainer: Any, inputs: Any) -> None:
    """At unchanged weights a row's routes are what the model chooses for its tokens."""
    routes = inputs[ROUTES]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    assert routes.shape[:2] == ids.shape
    assert bool((routes[mask == 0] == UNKNOWN).all())
    if trainer.state.global_step > 0:
        return
    from r1pipe.models.deepseek.replay import record_routes

    with torch.no_grad(), record_routes(trainer.model) as recorder:
        trainer.model(input_ids=ids, attention_mask=mask)
    live = recorder.take()
    known = (routes != UNKNOWN).all(-1)
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)  # no engine says where that went
    assert bool(known[(mask == 1) & (last == 0)].all())
    assert torch.equal(routes[known].sort(-1).values, live[known].sort(-1).values)


@pytest.mark.parametrize(
    ("replay", "engine"),
    [("policy", "transformers"), ("rollout", "transformers"), ("rollout", "compact")],
)
def test_updates_replay_what_was_recorded(
    replay: str, engine: str, model: str, tmp_path: Path
) -> None:
    rows = run(tmp_path / "run", stage(model, replay, engine, **UNALIGNED), routes_match_the_text)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["routes/flipped_share"] == 0  # the weights have not moved
    assert max(row["routes/flipped_share"] for row in rows[1:]) > 0  # they have
    assert ("routes/flipped_share_rollout" in rows[0]) == (replay == "rollout")
    assert rows[0].get("routes/flipped_share_rollout", 0) == 0
    assert all(np.isfinite(row["loss"]) and np.isfinite(row["kl"]) for row in rows)


def test_adapters_and_their_reference_follow(model: str, tmp_path: Path) -> None:
    """The reference is the model without its adapters, along the policy's routes."""
    lora = Lora(r=2, alpha=4, dropout=0.0, target_modules=["q_proj", "o_proj"])
    given = stage(model, "policy", **UNALIGNED).model_copy(update={"lora": lora})
    rows = run(tmp_path / "run", given, routes_match_the_text)
    assert rows[0]["routes/flipped_share"] == 0 and rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert max(row["routes/flipped_share"] for row in rows[1:]) > 0


def test_none_records_nothing(model: str, tmp_path: Path) -> None:
    def watch(trainer: Any, inputs: Any) -> None:
        assert ROUTES not in inputs

    rows = run(tmp_path / "run", stage(model, "none", **UNALIGNED), watch)
    assert not any(name.startswith("routes/") for row in rows for name in row)


def test_a_batch_for_one_step_needs_no_replay(model: str, tmp_path: Path) -> None:
    """The old policy is the policy, ratio and routes the same: bit for bit as without."""
    run(tmp_path / "none", stage(model, "none", **GRPO))
    run(tmp_path / "policy", stage(model, "policy", **GRPO))
    assert results(tmp_path / "none")[0] == results(tmp_path / "policy")[0]


def ratios(model: str, folder: Path, replay: str) -> list[float]:
    """Largest |log ratio| of each update in which the router alone has moved."""
    found = folder / "ratios"

    def child() -> None:
        original = RouterReplay._get_per_token_logps_and_entropies

        def score(self: Any, model: Any, *args: Any, **options: Any) -> Any:
            scored = original(self, model, *args, **options)
            if torch.is_grad_enabled():
                mask = self.present["completion_mask"]
                gap = ((scored[0] - self.present["old_per_token_logps"]) * mask).abs().max()
                with found.open("a") as stream:
                    stream.write(f"{float(gap)}\n")
            return scored

        def compute(self: Any, model: Any, inputs: Any) -> Any:
            self.present = inputs
            if self._step % 4 == 2:  # between two updates on the same batch
                for router in self.model.model.routers:
                    router.e_score_correction_bias += 0.1 * torch.randn(8)
            return loss(self, model, inputs)

        loss = RouterReplay._compute_loss
        RouterReplay._get_per_token_logps_and_entropies = score
        RouterReplay._compute_loss = compute
        train(tiny.context(folder, stage(model, replay, **{**UNALIGNED, "learning_rate": 0.0})))

    folder.mkdir()
    assert in_child(child) == 0
    return [float(line) for line in found.read_text().split()]


def test_routers_that_flip_leave_the_ratio_at_one(model: str, tmp_path: Path) -> None:
    live, replayed = ratios(model, tmp_path / "a", "none"), ratios(model, tmp_path / "b", "policy")
    assert max(live[:2]) < 1e-5 and max(live[2:]) > 0.1
    assert max(replayed) < 1e-5


def test_routes_are_cut_with_their_rows(model: str, tmp_path: Path) -> None:
    """Parts of like length of a batch train as the whole batch does, replay or not."""
    options = {**UNALIGNED, "per_device_train_batch_size": 16, "max_completion_length": 12}
    given = stage(model, "rollout", **options, router_aux_loss_coef=0.0)

    train_whole_and_split(given, tmp_path)
    expected, found = results(tmp_path / "whole")[1], results(tmp_path / "split")[1]
    for before, after in zip(expected, found, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-3, abs=1e-4)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3)


def test_a_part_keeps_the_columns_of_its_tokens() -> None:
    rows, prompt, completion = 4, 3, 5
    before, after = torch.tensor([1, 3, 2, 2]), torch.tensor([2, 5, 1, 4])
    columns = torch.arange(prompt + completion)
    real = (columns >= prompt - before[:, None]) & (columns < prompt + after[:, None])
    ids = torch.where(real, torch.arange(1, rows + 1)[:, None] * 10 + columns, 0)
    batch = {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": real[:, :prompt].long(),
        "completion_ids": ids[:, prompt:],
        "completion_mask": real[:, prompt:].long(),
        ROUTES: torch.where(real, ids, -1)[..., None, None].expand(-1, -1, 2, 3),
        "num_items_in_batch": torch.tensor(12),
    }
    shuffled = split_tensor_dict(shuffle_sequence_dict(batch), 2)
    saved, length_split.PART_COST = length_split.PART_COST, 0
    try:
        parts = [part for half in shuffled for part in length_split.split(half) or [half]]
    finally:
        length_split.PART_COST = saved
    assert len(parts) > 2
    for part in parts:
        both = torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1)
        assert part[ROUTES].shape[:2] == both.shape
        assert torch.equal(part[ROUTES][..., 1, 2].clamp(min=0), both)


def test_a_resumed_window_has_its_routes(model: str, tmp_path: Path) -> None:
    """A checkpoint between two updates on a batch holds the routes of the second."""
    given = stage(model, "policy", **{**UNALIGNED, "save_strategy": "steps", "save_steps": 1})
    run(tmp_path / "whole", given)

    def killed() -> None:
        kill_at_training_step(4)
        train(tiny.context(tmp_path / "cut", given))

    assert in_child(killed) == KILLED
    run(tmp_path / "cut", given)
    assert results(tmp_path / "whole")[0] == results(tmp_path / "cut")[0]


def test_models_and_engines_without_routes_are_refused(model: str, tmp_path: Path) -> None:
    dense = tiny.save_model(tmp_path / "dense")
    said = tmp_path / "said"

    def child() -> None:
        try:
            train(tiny.context(tmp_path / "run", stage(dense, "policy", **GRPO)))
        except UserError as error:
            said.write_text(str(error))

    assert in_child(child) == 0
    assert "stages.tiny.router_replay" in said.read_text() and "no routers" in said.read_text()
    routed = DeepseekForCausalLM(DeepseekConfig(**SHAPE))
    server = Rollout(**{**tiny.ROLLOUT, "engine": "vllm", "vllm_mode": "server"})
    with pytest.raises(UserError, match="server"):
        require_routers(routed, "stages.x.router_replay", "rollout", server)
    if not torch.cuda.is_available():
        beside = server.model_copy(update={"vllm_mode": "colocate"})
        with pytest.raises(UserError, match="on a GPU only"):
            require_routers(routed, "stages.x.router_replay", "rollout", beside)
    require_routers(routed, "stages.x.router_replay", "policy", server)
    without = DeepseekForCausalLM(DeepseekConfig(**{**SHAPE, "first_k_dense_replace": 3}))
    with pytest.raises(UserError, match="no routers"):
        require_routers(without, "x", "policy", server)


def test_what_a_writer_reports_is_checked() -> None:
    routed = DeepseekForCausalLM(DeepseekConfig(**SHAPE))
    trainer: Any = SimpleNamespace(model=routed)
    of_vllm = np.tile(np.array([0, 1], dtype="uint8"), (5, 3, 1))
    of_ours = torch.tensor([0, 1], dtype=torch.int16).expand(5, 2, 2)
    prompts, completions = [[1, 2, 3], [1, 2]], [[4, 5, 6], [7]]
    found = RouterReplay._checked(trainer, [of_vllm, of_ours], prompts, completions)
    assert torch.equal(found[0], found[1])
    with pytest.raises(StageFailed, match="5 of 6 tokens"):
        RouterReplay._checked(trainer, [of_vllm], [[1, 2, 3]], [[4, 5, 6, 7]])
    for nothing in (None, []):
        with pytest.raises(StageFailed, match="no routes"):
            RouterReplay._checked(trainer, nothing, prompts, completions)
