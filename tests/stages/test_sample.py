"""Rejection sampling: what is kept, what is counted, and that a kill changes nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from r1pipe.artifact import ROWS_FILE
from r1pipe.errors import StageFailed, UserError
from r1pipe.rollout import shards
from r1pipe.stages import sample
from tests.stages.tiny_stage import arithmetic, context, sample_stage, sampling, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(sample, "SHARD_BATCHES", 1)


def run(folder: Path, stage):
    outcome = sample.run(context(folder, "sampling", stage))
    text = (folder / ROWS_FILE).read_text(encoding="utf-8")
    return outcome, [json.loads(line) for line in text.splitlines()]


def untruncated(model, **changes):
    """Short answers would mostly be cut off; with a long limit about a sixth ends by itself."""
    options = {"sampling": sampling(max_tokens=40, num_samples=4), **changes}
    return sample_stage(model, **options)


def test_kept_rows_pass_every_threshold_and_keep_their_columns(tmp_path, model):
    outcome, rows = run(tmp_path, untruncated(model, keep={"even_length": 1.0}))
    assert rows
    for row in rows:
        assert row["rewards"] == {"even_length": 1.0}
        assert {"prompt", "completion", "answer", "domain", "task", "language", "id"} <= set(row)
        assert row["completion"] == row["completion"].strip()
    pairs = [(row["prompt"], row["completion"]) for row in rows]
    assert len(set(pairs)) == len(pairs)
    metrics = outcome.metrics
    assert outcome.kind == "dataset"
    assert metrics["sampled"] == 128
    assert metrics["kept"] == len(rows)
    assert metrics["kept_share"] == len(rows) / 128
    assert metrics["rejected"]["even_length"] > 0
    assert metrics["rejected"]["truncated"] > 0
    assert set(metrics["kept_share_by_task"]) == {"add", "sub", "mul", "div"}
    assert set(metrics["kept_share_by_language"]) == {"en", "zh"}


def test_a_reward_that_does_not_apply_passes(tmp_path, model):
    stage = untruncated(
        model, rewards={"english_only": {"weight": 1.0}}, keep={"english_only": 0.5}
    )
    _, rows = run(tmp_path, stage)
    assert {row["language"] for row in rows} == {"zh"}
    assert all(row["rewards"] == {"english_only": None} for row in rows)


def test_the_shortest_of_a_prompt_stay(tmp_path, model):
    _, everything = run(tmp_path / "all", untruncated(model))
    _, rows = run(tmp_path / "one", untruncated(model, max_per_prompt=1, prefer="shortest"))
    shortest: dict[str, int] = {}
    for row in everything:
        shortest[row["prompt"]] = min(row["length"], shortest.get(row["prompt"], 999))
    assert {row["prompt"]: row["length"] for row in rows} == shortest
    assert len(rows) == len(shortest) < len(everything)


def test_max_rows_draws_evenly(tmp_path, model):
    _, everything = run(tmp_path / "all", untruncated(model))
    _, rows = run(tmp_path / "some", untruncated(model, max_rows=4))
    assert len(rows) == 4
    assert all(row in everything for row in rows)
    assert rows != everything[:4]


def test_too_few_rows_fail_and_name_what_rejected_most(tmp_path, model):
    stage = untruncated(
        model, rewards={"english_only": {"weight": 1.0}}, keep={"english_only": 0.5}, min_rows=500
    )
    with pytest.raises(StageFailed, match=r"of 128 completions were kept.*rejected most"):
        run(tmp_path, stage)


def test_an_unknown_threshold_is_refused(tmp_path, model):
    with pytest.raises(UserError, match="did you mean `even_length`"):
        run(tmp_path, sample_stage(model, keep={"even_lenght": 1.0}))


def test_a_prompt_that_does_not_fit_the_context_is_refused(tmp_path, model):
    stage = sample_stage(model, sampling=sampling(max_tokens=1020))
    with pytest.raises(UserError, match="32 of 32 prompts are longer than the 4 tokens"):
        run(tmp_path, stage)


def test_few_shot_examples_are_seen_but_not_kept(tmp_path, model, monkeypatch):
    seen = []
    encode = sample.encode_prompts

    def spy(prompts, tokenizer):
        seen.extend(prompts)
        return encode(prompts, tokenizer)

    monkeypatch.setattr(sample, "encode_prompts", spy)
    few_shot = {"path": "task:arithmetic", "count": 2, "share": 0.5}
    stage = untruncated(model, few_shot=few_shot, data=arithmetic(limit=60))
    _, rows = run(tmp_path, stage)
    with_examples = [prompt for prompt in seen if prompt.count("<answer>") == 2]
    assert 15 <= len(with_examples) <= 45
    assert len(with_examples) + sum("<answer>" not in prompt for prompt in seen) == 60
    assert all("<answer>" not in row["prompt"] for row in rows)


def killed_after(monkeypatch, count: int) -> None:
    """Raise, as a kill would end the process, after `count` pieces were written."""
    written = []
    write = shards.write_aside

    def write_or_die(path, text):
        if len(written) == count:
            path.with_name(path.name + ".tmp").write_text(text[: len(text) // 2])
            raise KeyboardInterrupt
        written.append(path)
        write(path, text)

    monkeypatch.setattr(shards, "write_aside", write_or_die)


def test_a_killed_run_continues_to_the_same_bytes(tmp_path, model, monkeypatch):
    stage = untruncated(model)
    undisturbed, _ = run(tmp_path / "whole", stage)
    for moment in (0, 1, 3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            killed_after(patch, moment)
            run(tmp_path / "killed", stage)
    resumed, _ = run(tmp_path / "killed", stage)
    names = ["whole", "killed"]
    assert len({(tmp_path / name / ROWS_FILE).read_bytes() for name in names}) == 1
    assert resumed.metrics == undisturbed.metrics


def test_a_full_disk_fails_the_stage_and_loses_nothing(tmp_path, model, monkeypatch):
    def disk_is_full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    stage = untruncated(model)
    undisturbed, _ = run(tmp_path / "whole", stage)
    with monkeypatch.context() as patch, pytest.raises(StageFailed, match="No space left"):
        patch.setattr(shards, "write_aside", disk_is_full)
        run(tmp_path / "full", stage)
    resumed, _ = run(tmp_path / "full", stage)
    assert resumed.metrics == undisturbed.metrics


def test_whole_pieces_are_not_written_again(tmp_path, model, monkeypatch):
    run(tmp_path, untruncated(model))
    expected = (tmp_path / ROWS_FILE).read_bytes()
    monkeypatch.setattr(sample, "write_and_score", None)  # calling it would raise
    run(tmp_path, untruncated(model))
    assert (tmp_path / ROWS_FILE).read_bytes() == expected


@pytest.mark.parametrize("damage", ["cut", "bit", "binary", "empty", "other key"])
def test_damaged_pieces_are_written_again(tmp_path, model, damage):
    stage = untruncated(model)
    run(tmp_path, stage)
    expected = (tmp_path / ROWS_FILE).read_bytes()
    piece = sorted((tmp_path / "checkpoints").glob("shard-*.jsonl"))[3]
    content = piece.read_bytes()
    piece.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "bit": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
            "binary": b"\xff\xfe" + content,
            "empty": b"",
            "other key": content.replace(b'"key":"', b'"key":"0', 1),
        }[damage]
    )
    run(tmp_path, stage)
    assert (tmp_path / ROWS_FILE).read_bytes() == expected


def test_another_sampling_setting_does_not_reuse_pieces(tmp_path, model):
    _, first = run(tmp_path, untruncated(model))
    _, second = run(tmp_path, untruncated(model, seed=2))
    assert first != second


def test_prompts_are_kept_by_their_pass_rate(tmp_path, model):
    options = {"keep": {"even_length": 1.0}, "sampling": sampling(max_tokens=40, num_samples=6)}
    _, everything = run(tmp_path / "all", sample_stage(model, **options))
    rates = {row["prompt"]: row["pass_rate"] for row in everything}
    assert {round(6 * rate, 6) for rate in rates.values()} <= {1, 2, 3, 4, 5, 6}
    assert len(set(rates.values())) > 1
    least = sorted(set(rates.values()))[1]
    wanted = {"min": least, "max": 1.0}
    stage = sample_stage(model, **options, pass_rate=wanted, max_per_prompt=1)
    outcome, rows = run(tmp_path / "some", stage)
    assert {row["prompt"] for row in rows} == {p for p, rate in rates.items() if rate >= least}
    assert all(row["pass_rate"] == rates[row["prompt"]] for row in rows)
    assert outcome.metrics["rejected"]["pass_rate"] > 0


def test_what_a_pass_rate_left_over_is_data_for_rl(tmp_path, model):
    from r1pipe.data.sources import load_data

    _, rows = run(tmp_path, untruncated(model, max_per_prompt=1))
    data = load_data(arithmetic(path=str(tmp_path / ROWS_FILE), limit=None), 0, need=("prompt",))
    assert list(data["prompt"]) == [row["prompt"] for row in rows]
    assert list(data["answer"]) == [row["answer"] for row in rows]
