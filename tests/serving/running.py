"""A generation server as a process of its own, on a free port, with a tiny model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from r1pipe.schema import Load, Rollout, Sampling
from r1pipe.serving.protocol import Address
from tests.stages import tiny

REPOSITORY = Path(__file__).parents[2]
SECONDS = 60.0


class Running:
    """What a test knows of a server: its process, URL and token."""

    def __init__(self, process: subprocess.Popen[str], url: str, token_file: Path) -> None:
        self.process, self.url, self.token_file = process, url, token_file

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    def rollout(self, **changes: Any) -> Rollout:
        """Return the settings of a client."""
        place = {"server_url": self.url, "server_token_file": str(self.token_file)}
        values = {"engine": "vllm", "vllm_mode": "server", "server_timeout": 30.0, **place}
        return Rollout(**{**tiny.ROLLOUT, **values, **changes})

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        token: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Send one request; returns the status and the JSON answer."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", Address.read(self.url).port, timeout=20
        )
        sent = {"Authorization": f"Bearer {token or self.token}", **(headers or {})}
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        return self.ask("GET", "/v1/status")[1]

    def wait(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the status once `is_so` says yes to it."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with suppress(OSError):
                if is_so(found := self.status()):
                    return found
            time.sleep(0.02)
        raise AssertionError("the server did not come to that state")

    def engine_pids(self) -> list[int]:
        """Return the processes of the engine: the children of the server's."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def kill_engine(self, number: int = signal.SIGKILL) -> None:
        for pid in self.engine_pids():
            os.kill(pid, number)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def serving(
    model: str | Path, folder: Path, *overrides: str, engine: str = "compact", port: int = 0
) -> Iterator[Running]:
    """Serve `model` inside the block."""
    running = start(model, folder, *overrides, engine=engine, port=port)
    try:
        yield running
    finally:
        running.end()
        if running.process.stdout is not None:
            running.process.stdout.close()


def start(
    model: str | Path, folder: Path, *overrides: str, engine: str = "compact", port: int = 0
) -> Running:
    """Start a server and return when it listens; its engine may not be ready yet."""
    folder.mkdir(parents=True, exist_ok=True)
    token_file = folder / "token"
    command = [
        *(sys.executable, "-m", "r1pipe", "serve", "model=hf", f"model.path={model}"),
        *("model.load.dtype=float32", f"rollout={engine}", f"port={port}"),
        *("rollout.batch_size=64", "rollout.server_hang_timeout=5"),
        f"rollout.server_token_file={token_file}",
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("url: "), (folder / "server.log").read_text()
    for line in process.stdout:
        if line.startswith("engine: "):
            break
    return Running(process, first.removeprefix("url: ").strip(), token_file)


def load() -> Load:
    return Load(**tiny.LOAD)


def sampling(**changes: Any) -> Sampling:
    values = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 16, "num_samples": 1}
    return Sampling(**{**values, **changes})


def prompts(count: int) -> list[list[int]]:
    """Random ids of the tiny vocabulary, of different lengths."""
    return [
        [3 + (7 * row + 5 * place) % 20 for place in range(2 + row % 5)] for row in range(count)
    ]
