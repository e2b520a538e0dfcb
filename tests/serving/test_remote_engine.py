"""The engine behind a server against the same engine here; what a server refuses, and to whom."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.errors import StageFailed, UserError
from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.engine import make_engine
from r1pipe.rollout.remote import sending
from r1pipe.rollout.remote.engine import RemoteEngine
from r1pipe.rollout.remote.taking import take_weights
from r1pipe.rollout.remote.wire import Malformed
from r1pipe.serving import protocol
from tests.serving import running
from tests.stages import tiny
from tests.vllm import families


@pytest.fixture
def remote(model: str, server: running.Running) -> Iterator[RemoteEngine]:
    engine = make_engine(server.rollout(), model, running.load())
    assert isinstance(engine, RemoteEngine)
    yield engine
    engine.close()


def here(model: str, server: running.Running) -> Any:
    rollout = server.rollout(engine="compact", vllm_mode="colocate")
    return make_engine(rollout, model, running.load())


def both_agree(remote: RemoteEngine, own: Any) -> None:
    prompts = running.prompts(23)
    for asked in (running.sampling(), running.sampling(temperature=0.7, top_p=0.9)):
        there = remote.write(prompts, asked, seed=5, logprobs=True)
        alone = own.write(prompts, asked, seed=5, logprobs=True)
        assert (there.ids, there.logprobs) == (alone.ids, alone.logprobs)
    assert remote.write(prompts, asked, seed=5).logprobs is None
    groups = running.sampling(num_samples=3)
    assert remote.generate(prompts, groups, seed=2) == own.generate(prompts, groups, seed=2)
    read = remote.score(prompts, there.ids, 0.7)
    assert [len(row) for row in read] == [len(ids) for ids in there.ids]


def test_it_writes_what_the_same_engine_writes_here(
    model: str, server: running.Running, remote: RemoteEngine
) -> None:
    own = here(model, server)
    assert (remote.context, remote.end_ids) == (own.context, own.end_ids)
    assert remote.version == protocol.START, "weights that the server has are not sent"
    both_agree(remote, own)
    prompts = running.prompts(7)
    limits = [1, 2, 3, 4, 5, 6, 7]
    told: list[Any] = []
    there = remote.write(prompts, running.sampling(), seed=1, limits=limits, on_rows=told.extend)
    assert there.ids == own.write(prompts, running.sampling(), seed=1, limits=limits).ids
    assert all(len(ids) <= most for ids, most in zip(there.ids, limits, strict=True))
    assert told == list(enumerate(there.ids))
    assert remote.write([], running.sampling(), seed=1).ids == []
    torch.manual_seed(4)
    first = remote.write(prompts, running.sampling()).ids
    assert remote.write(prompts, running.sampling()).ids != first
    torch.manual_seed(4)
    assert remote.write(prompts, running.sampling()).ids == first


@pytest.mark.parametrize("beside", [True, False], ids=["shared folder", "wire"])
def test_weights_arrive_whole_whichever_way_and_in_any_pieces(
    beside: bool,
    model: str,
    server: running.Running,
    remote: RemoteEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not beside:
        monkeypatch.setattr(sending, "shared_folder", lambda *said: None)
        monkeypatch.setattr(protocol, "MOST_RANGE", 1000)
    changed = tiny.model(seed=7 + beside)
    before = server.status()["weights"]
    sending.send_weights(
        remote.client, remote.opened, checkpoint_tensors(changed), "v1", shard_bytes=4000
    )
    assert server.status()["weights"] == "v1" != before
    remote.version = "v1"
    own = here(model, server)
    own.model.load_state_dict(changed.state_dict())
    both_agree(remote, own)
    assert not list(Path(remote.opened["folder"]).glob("*/*")), "the server keeps no copy"


def test_a_set_that_is_not_the_model_s_changes_nothing(
    server: running.Running, remote: RemoteEngine
) -> None:
    before, restarts = server.status()["weights"], server.status()["restarts"]
    whole = dict(checkpoint_tensors(tiny.model(seed=3)))
    head = "model.norm.weight"
    for wrong, words in (
        ({n: t for n, t in whole.items() if n != head}, f"missing: `{head}`"),
        ({**whole, "more": torch.ones(1)}, "none of the model's: `more`"),
        ({**whole, head: torch.ones(3)}, f"another shape: `{head}`"),
    ):
        with pytest.raises(StageFailed, match=words):
            remote.load(wrong.items())
    found = server.status()
    assert (found["weights"], found["restarts"]) == (before, restarts)
    remote.write(running.prompts(3), running.sampling(), seed=1)


def test_a_later_stage_s_model_is_sent_to_the_server_that_is_there(
    model: str, server: running.Running, tmp_path: Path
) -> None:
    later = tiny.save_model(tmp_path, seed=9)
    remote = make_engine(server.rollout(), later, running.load())
    assert isinstance(remote, RemoteEngine)
    both_agree(remote, here(later, server))
    server.kill_engine()  # it comes back with its first weights, and is sent the others again
    both_agree(remote, here(later, server))
    remote.close()
    assert server.status()["held_by"] is None


@pytest.mark.parametrize(
    ("prompts", "changes", "words"),
    [
        ([[3, 999]], {}, "outside the 25 of the vocabulary"),
        ([[3, -1]], {}, "outside"),
        ([[]], {}, "a prompt is empty"),
        ([[3] * 200], {}, "looks at 128"),
        ([[3]], {"extra": {"top_k": 5}}, "`trainer.top_k`"),
        ([[3]], {"end_ids": []}, "`end_ids`"),
        ([[3]], {"end_ids": [999]}, "`end_ids`"),
        ([[3]], {"banned": "x"}, "`banned`"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_and_the_engine_lives(
    prompts: Any, changes: Any, words: str, server: running.Running, remote: RemoteEngine
) -> None:
    restarts = server.status()["restarts"]
    for name, value in changes.items():
        setattr(remote, name, value)
    with pytest.raises(StageFailed, match=words):
        remote.write(prompts, running.sampling(), seed=1)
    assert server.status()["restarts"] == restarts


def test_another_model_is_refused_by_name(server: running.Running, tmp_path: Path) -> None:
    other = tiny.save_model(tmp_path / "other", hidden=32)
    with pytest.raises(UserError, match="`hidden_size` is 16 here, 32 there"):
        make_engine(server.rollout(), other, running.load())


def test_another_vocabulary_is_refused(model: str, server: running.Running, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    file.write_text(file.read_text().replace('"h":', '"H":'))
    with pytest.raises(UserError, match="another vocabulary"):
        make_engine(server.rollout(), str(tmp_path / "m"), running.load())


def test_a_wrong_token_is_told_at_once(model: str, server: running.Running, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("w" * 43)
    wrong.chmod(0o600)
    with pytest.raises(UserError, match="has another token"):
        make_engine(server.rollout(server_token_file=str(wrong)), model, running.load())


def test_a_second_client_is_refused_and_told_who_holds_the_server(
    model: str, server: running.Running, remote: RemoteEngine
) -> None:
    remote.client.leave()
    remote.owner = "the first run"
    remote.open()
    second = RemoteEngine(server.rollout(server_timeout=1.0), model, running.load())
    second.owner = "the second run"
    with pytest.raises(StageFailed, match="held by the first run"):
        second.start()
    remote.write(running.prompts(3), running.sampling(), seed=1)


def test_a_server_that_never_was_is_named_with_its_command(
    model: str, server: running.Running
) -> None:
    nowhere = server.rollout(server_url="http://127.0.0.1:9", server_timeout=0.5)
    with pytest.raises(StageFailed) as failed:
        make_engine(nowhere, model, running.load())
    words = ("http://127.0.0.1:9", "refused", f"r1pipe serve model.path={model}", "server_timeout")
    assert all(word in str(failed.value) for word in words)


def test_an_answer_from_something_else_is_no_answer(model: str, tmp_path: Path) -> None:
    import http.server
    import threading

    other = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    token = tmp_path / "token"
    token.write_text("w" * 43)
    token.chmod(0o600)
    values = {
        "vllm_mode": "server",
        "server_url": f"http://127.0.0.1:{other.server_address[1]}",
        "server_token_file": str(token),
        "server_timeout": 0.5,
    }
    rollout = running.Rollout(**{**tiny.ROLLOUT, **values})
    with pytest.raises(StageFailed, match="not from an r1pipe server"):
        make_engine(rollout, model, running.load())
    other.shutdown()
    other.server_close()


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_weights_of_every_family_come_back_from_the_checkpoint_s_names(family: str) -> None:
    torch.manual_seed(1)
    source, target = families.FAMILIES[family](), families.FAMILIES[family]()
    families.disturb(source, seed=2)
    ids = torch.randint(3, families.COMMON["vocab_size"], (2, 9))
    taken = {name: tensor.clone() for name, tensor in checkpoint_tensors(source)}
    with torch.no_grad():
        take_weights(target.eval(), taken.items())
        assert torch.equal(target(ids).logits, source.eval()(ids).logits)
    with pytest.raises(Malformed, match="missing"):
        take_weights(target, list(taken.items())[1:])


def test_signals_end_a_server_without_a_trace(model: str, tmp_path: Path) -> None:
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        server = running.start(model, tmp_path / str(number))
        folder = server.ask("GET", "/health")
        assert folder[0] == 200
        engines = server.engine_pids()
        assert server.end(number) == code
        assert "Traceback" not in (tmp_path / str(number) / "server.log").read_text()
        assert not any(Path(f"/proc/{pid}").exists() for pid in engines)
