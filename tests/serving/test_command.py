"""What `r1pipe serve` is asked for: the model, the engine, the place; and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.__main__ import main
from r1pipe.errors import UserError
from r1pipe.serving import command
from tests.stages import tiny


def asked(*arguments: str) -> command.Served:
    return command.parse(["model=hf", "model.path=Qwen/Qwen2.5-0.5B", *arguments])


def test_the_engine_and_the_place_come_from_rollout_unless_they_are_named() -> None:
    served = asked("rollout=vllm_server")
    assert (served.rollout.engine, served.host, served.port) == ("vllm", "127.0.0.1", 8047)
    served = asked("rollout=compact", "rollout.server_url=http://gpu-7:9000")
    assert (served.rollout.engine, served.host, served.port) == ("compact", "127.0.0.1", 9000)
    assert asked("port=0", "host=0.0.0.0").host == "0.0.0.0"
    assert asked("rollout=vllm_server", "rollout.tensor_parallel_size=4").parts == 4
    assert asked("rollout=compact", "rollout.tensor_parallel_size=4").parts == 1


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("port=70000", "0 to 65535"),
        ("port=x", "0 to 65535"),
        ("host=", "host=0.0.0.0"),
        ("model.path=./lost/model", "no such model folder"),
        ("model.load.trust_remote_code=true", "runs no code"),
        ("rollout.vllm={trust_remote_code: true}", "runs no code"),
        ("rollout.sever_url=x", "server_url"),
        ("rollout=vllm_servre", "vllm_server"),
        ("recipe=no_such_recipe", "no such recipe"),
        ("--port", "--help"),
    ],
)
def test_mistakes_are_named(argument: str, words: str) -> None:
    with pytest.raises(UserError) as found:
        asked(argument)
    assert words in str(found.value)


def test_a_dry_run_says_what_would_be_served_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.save_model(tmp_path)
    arguments = ["serve", "model=hf", f"model.path={model}", "dry_run=true"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"model: {model}" in said and "http://127.0.0.1:8047" in said and "token" not in said
    assert main([*arguments, "host=0.0.0.0"]) == 0
    assert "open to other machines" in capsys.readouterr().out
    assert main([*arguments, "rollout.server_url=http://gpu-7:9000"]) == 0
    assert "nothing else reaches http://127.0.0.1:9000" in capsys.readouterr().out
    assert main(["serve", "--help"]) == 0
    assert "R1PIPE_SERVER_TOKEN" in capsys.readouterr().out


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    model = tiny.save_model(tmp_path)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["serve", "model=hf", f"model.path={model}", f"port={port}"]) == 2
    assert "cannot listen" in capsys.readouterr().err
