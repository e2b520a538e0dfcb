"""Dynamic sampling, difficulty filter and group replay in whole runs of the GRPO stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.schema import DifficultyFilter, DynamicSampling, GroupReplay
from r1pipe.stages.metrics import read_rows
from tests.stages import tiny
from tests.stages.children import KILLED, in_child, kill_at_training_step, results, train

GRPO = {
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 4,
    "max_steps": 4,
    "save_strategy": "no",
}
ROUNDS = {"enabled": True, "max_rounds": 3, "oversampling": 1.0, "reward": None}
FILTER = {"reward": "digits", "solved_at": 0.5, "window": 1, "rest": 1, "floor": 0.25}
REPLAY = {"enabled": True, "size": 8, "max_age": 4}


def starts_with_digit(completions: list[str], **columns: Any) -> list[float]:
    return [float(text[:1].isdigit()) for text in completions]


def rarely(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """Spread on few prompts alone: the others earn 0 throughout."""
    pairs = zip(completions, answer, strict=True)
    return [float(text[:1].isdigit()) if int(a) % 3 == 0 else 0.0 for text, a in pairs]


def hopeless(completions: list[str], **columns: Any) -> list[float]:
    """0.5 for all that a policy writes; what is tried before training is told apart."""
    if "trainer_state" in columns:
        return [0.5] * len(completions)
    return starts_with_digit(completions)


REWARDS = {
    "digits": ([starts_with_digit], [1.0]),
    "rarely": ([rarely], [1.0]),
    "hopeless": ([hopeless], [1.0]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "model")


def stage(model: str, trainer: dict[str, Any], **sections: Any) -> Any:
    made = {
        "dynamic_sampling": DynamicSampling,
        "difficulty_filter": DifficultyFilter,
        "group_replay": GroupReplay,
    }
    built = {name: made[name](**options) for name, options in sections.items()}
    engine = trainer.pop("engine", "transformers")
    return tiny.grpo_stage(model, engine, **trainer).model_copy(update=built)


def run(folder: Path, config: Any, reward: str, rows: int = 64) -> list[dict[str, Any]]:
    context = tiny.context(folder, config)
    assert in_child(lambda: train(context, rows, REWARDS[reward])) == 0
    return read_rows(folder / "metrics.jsonl")


def test_nothing_changes_where_every_group_has_spread(model: str, tmp_path: Path) -> None:
    run(tmp_path / "off", stage(model, {**GRPO}), "digits")
    rounds = {**ROUNDS, "reward": None}
    config = stage(model, {**GRPO, "max_steps": 4}, dynamic_sampling=rounds)

    def with_spread() -> None:
        from r1pipe.stages import dynamic_sampling

        dynamic_sampling.has_spread = lambda *_: True
        train(tiny.context(tmp_path / "on", config), 64, REWARDS["digits"])

    assert in_child(with_spread) == 0
    off, on = (results(tmp_path / name) for name in ("off", "on"))
    assert on[0] == off[0]
    for before, after in zip(off[1], on[1], strict=True):
        for name in before.keys() - {"frac_reward_zero_std"}:
            assert after[name] == pytest.approx(before[name], abs=1e-6), name


def test_groups_without_spread_are_replaced(model: str, tmp_path: Path) -> None:
    rounds = {**ROUNDS, "max_rounds": 6, "oversampling": 1.5}
    rows = run(tmp_path / "run", stage(model, {**GRPO}, dynamic_sampling=rounds), "rarely")
    for row in rows:
        written = row["sampling/generated_per_used"] * 4
        assert row["sampling/rounds"] > 1 and written > 4
        missing = 4 - (written - row["sampling/dropped_groups"])
        assert row["sampling/filled_groups"] == max(0, missing)
        assert row["frac_reward_zero_std"] == pytest.approx(
            row["sampling/dropped_groups"] / written
        )
        # What was written earns less than what was chosen from it.
        assert row["reward"] < row["sampling/used_reward"]
        assert row["tasks/add/rarely"] == pytest.approx(row["reward"])
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert outcome["sampling"]["groups_trained"] == 16
    assert outcome["sampling"]["groups_written"] == sum(
        4 * row["sampling/generated_per_used"] for row in rows
    )


def test_a_batch_is_full_whatever_becomes_of_the_rounds(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = run(tmp_path / "run", stage(model, {**GRPO}, dynamic_sampling=ROUNDS), "hopeless")
    assert [row["sampling/rounds"] for row in rows] == [3.0] * 4
    assert [row["sampling/filled_groups"] for row in rows] == [4.0] * 4
    assert capfd.readouterr().err.count("`sampling/filled_groups`") == 1
    # With no other prompt left, no round asks the same ones again.
    few = run(tmp_path / "few", stage(model, {**GRPO}, dynamic_sampling=ROUNDS), "hopeless", 6)
    assert [row["sampling/generated_per_used"] for row in few] == [1.5] * 4


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "inside a window": (
        {"steps_per_generation": 2, "num_iterations": 2, "per_device_train_batch_size": 8},
        {"dynamic_sampling": {**ROUNDS, "max_rounds": 1}, "group_replay": REPLAY},
        "rarely",
    ),
    "replayed under accumulation": (
        {"gradient_accumulation_steps": 2, "steps_per_generation": 1},
        {"dynamic_sampling": {**ROUNDS, "max_rounds": 1}, "group_replay": REPLAY},
        "rarely",
    ),
    "routes of the engine": (
        {"engine": "compact", "beta": 0.1, "router_replay": "rollout"},
        {"dynamic_sampling": {**ROUNDS, "max_rounds": 2}, "group_replay": REPLAY},
        "rarely",
    ),
    "routes of the old policy": (
        {"engine": "compact", "num_iterations": 2, "router_replay": "policy"},
        {"dynamic_sampling": {**ROUNDS, "max_rounds": 1}, "group_replay": REPLAY},
        "rarely",
    ),
    "filtered, compact": (
        {"engine": "compact", "beta": 0.1},
        {"dynamic_sampling": ROUNDS, "difficulty_filter": {**FILTER, "enabled": True}},
        "digits",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_asks_the_same_prompts(case: str, model: str, tmp_path: Path) -> None:
    trainer, sections, reward = CASES[case]
    trainer = dict(trainer)
    replays = trainer.pop("router_replay", "none")
    if replays != "none":
        model = tiny.save_mixture(tmp_path / "experts", bias_update_speed=0.0)
    if "difficulty_filter" in sections:
        filtered = {**sections["difficulty_filter"], "reward": "starts_with_digit"}
        sections = {**sections, "difficulty_filter": filtered}
    options = {**GRPO, **trainer, "max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    config = stage(model, options, **sections).model_copy(update={"router_replay": replays})
    rewards = REWARDS[reward]
    undisturbed, disturbed = (tiny.context(tmp_path / n, config) for n in ("once", "twice"))
    assert in_child(lambda: train(undisturbed, 24, rewards)) == 0

    def killed() -> None:
        kill_at_training_step(6 * trainer.get("gradient_accumulation_steps", 1))
        train(disturbed, 24, rewards)

    assert in_child(killed) == KILLED
    assert in_child(lambda: train(disturbed, 24, rewards)) == 0
    assert results(disturbed.workdir) == results(undisturbed.workdir)
    rows = read_rows(undisturbed.workdir / "metrics.jsonl")
    if "group_replay" in sections:
        assert sum(row.get("sampling/replayed_groups", 0) for row in rows) > 0
    if "difficulty_filter" in sections:
        assert rows[-1]["difficulty/resting_solved"] + rows[-1]["difficulty/resting_unsolved"] > 0


def test_a_replayed_group_is_weighed_against_its_writer(model: str, tmp_path: Path) -> None:
    """The log-probabilities in a batch are those of the policy that wrote each completion."""
    rounds = {**ROUNDS, "max_rounds": 1}
    sections = {"dynamic_sampling": rounds, "group_replay": REPLAY}
    config = stage(model, {**GRPO, "max_steps": 5, "learning_rate": 0.05}, **sections)
    seen = tmp_path / "seen.json"

    def watched() -> None:
        from r1pipe.stages.dynamic_sampling import DynamicSampling

        original = DynamicSampling._score
        first: dict[str, list[float]] = {}
        differences: list[float] = []

        def score(self: Any, control: Any, batch: Any) -> Any:
            replayed = [group.replayed for group in batch for _ in group.ranks]
            output = original(self, control, batch)
            with torch.no_grad():
                ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
                mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
                columns = output["completion_ids"].shape[1]
                self.model.train()
                now, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, columns)
            for place, again in enumerate(replayed):
                real = output["completion_mask"][place].bool()
                key = str(ids[place][mask[place].bool()].tolist())
                old = output["old_per_token_logps"][place][real].tolist()
                if again:
                    assert first[key] == old, "not what its writer said"
                    differences.append(float((now[place][real] - torch.tensor(old)).abs().max()))
                else:
                    assert torch.allclose(now[place][real], torch.tensor(old), atol=1e-5)
                    first.setdefault(key, old)
            seen.write_text(json.dumps(differences))
            return output

        DynamicSampling._score = score  # type: ignore[method-assign]
        train(tiny.context(tmp_path / "run", config), 64, REWARDS["rarely"])

    assert in_child(watched) == 0
    found = json.loads(seen.read_text())
    assert found and max(found) > 1e-3, "the policy has moved since"
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    ages = [row["sampling/replayed_age"] for row in rows if "sampling/replayed_age" in row]
    assert ages and all(1 <= age <= REPLAY["max_age"] for age in ages)
