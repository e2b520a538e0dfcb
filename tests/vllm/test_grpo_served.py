"""vLLM behind a generation server: GRPO with its weights, held to the trainer's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from r1pipe.rollout.engine import make_engine
from r1pipe.stages import grpo
from tests.serving import running
from tests.vllm import families

EXACT = 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tied", "deepseek"])
def test_the_engine_follows_the_trainer(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = lambda terms, render: ([families.digits], [1.0])  # noqa: E731
    monkeypatch.setattr(grpo, "build_rewards", made)
    monkeypatch.setattr(grpo, "preflight", lambda *args: None)
    families.build(family, tmp_path / "model")
    limit = "rollout.server_hang_timeout=60"
    with running.serving(
        tmp_path / "model", tmp_path / "server", limit, engine="vllm_server"
    ) as server:
        place = {"vllm_mode": "server", "server_url": server.url}
        settings = {**place, "server_token_file": str(server.token_file), "alarm_threshold": EXACT}
        context = families.grpo_context(tmp_path / "run", tmp_path / "model", settings)
        grpo.run(context)
        rows = [json.loads(line) for line in (context.workdir / "metrics.jsonl").open()]
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert all(row["rollout/logp_diff_mean"] < EXACT for row in rows)
        ratios = [row["sampling/importance_sampling_ratio/mean"] for row in rows]
        assert ratios == pytest.approx([1.0] * 3, abs=1e-3)
        # The server serves another stage: the model that was trained, and its exact figures.
        trained = str(context.workdir / "model")
        remote: Any = make_engine(families.rollout(**settings), trained, families.load())
        own: Any = make_engine(families.rollout(engine="transformers"), trained, families.load())
        prompts = families.prompts(8)
        greedy = running.sampling(temperature=0.0)
        written = remote.write(prompts, greedy, seed=0, logprobs=True)
        assert written.ids == own.write(prompts, greedy, seed=0).ids
        seeded = [remote.write(prompts, running.sampling(), seed=s).ids for s in (1, 1, 2)]
        assert seeded[0] == seeded[1] != seeded[2]
        remote.extra = {"top_k": 1}
        assert remote.write(prompts, running.sampling(), seed=3).ids == written.ids
        remote.close()
        own.close()
