"""`r1pipe serve`: which model and engine, where it listens, and the life of the server."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import Problem, UserError
from r1pipe.schema import Load, Rollout, Run
from r1pipe.serving.protocol import Address, is_loopback, url_of

if TYPE_CHECKING:
    from r1pipe.serving.supervisor import Supervisor

HELP = """usage: r1pipe serve [RECIPE.yaml] [key=value ...]

Serves `model.path` with the engine that `rollout` names, for stages with `rollout=vllm_server`:
prompts in, token ids and log-probabilities out, new weights taken from the trainer.

examples:
  r1pipe serve model.path=Qwen/Qwen2.5-1.5B rollout=vllm_server
  r1pipe serve recipes/r1_zero.yaml rollout.tensor_parallel_size=8
  r1pipe serve model=tiny rollout=compact port=0            on a CPU, without vLLM

keys beside those of a recipe:
  host=ADDRESS    127.0.0.1; another address lets other machines in, with the token
  port=N          the port of `rollout.server_url`, else 8047; 0 takes one that is free
  dry_run=true    print what would be served, and exit

The token is in `rollout.server_token_file` (written with mode 600 unless it is there), or in the
environment's R1PIPE_SERVER_TOKEN. SIGTERM and Ctrl-C end the server. docs/serving.md says more.
"""
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8047


@dataclass(frozen=True)
class Served:
    """What was asked for, checked."""

    model: str
    load: Load
    rollout: Rollout
    host: str
    port: int
    dry_run: bool

    @property
    def parts(self) -> int:
        """Processes of the engine."""
        return self.rollout.tensor_parallel_size if self.rollout.engine == "vllm" else 1


def run_serve(arguments: list[str]) -> int:
    """Serve until a signal; returns the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return 0
    served = parse(arguments)
    if served.dry_run:
        print("\n".join(_described(served, _reachable(served.host, served.port), None)))
        return 0
    return serve(served)


def parse(arguments: list[str]) -> Served:
    """Return what the arguments ask for; raises UserError with everything that is wrong."""
    # Hydra takes its time, which `--help` does not need.
    from r1pipe.cli import find_recipe
    from r1pipe.compose import SINGLE, compose_recipe
    from r1pipe.validate import validate

    name, folder = SINGLE, None
    overrides: list[str] = []
    host, port = DEFAULT_HOST, None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(Problem(argument, "unknown option", "see `r1pipe serve --help`"))
        if not equals or key == "recipe":
            path = find_recipe(value if equals else argument)
            name, folder = path.stem, path.parent
        elif key == "host":
            host = value
        elif key == "port":
            port = _port(value)
        else:
            overrides.append(argument)
    if name == SINGLE and not any(o.startswith("stage=") for o in overrides):
        overrides.append("stage=eval")  # none of its own fields is looked at
    run = validate(*compose_recipe(name, overrides, folder))
    if port is None:
        url = run.rollout.server_url
        port = Address.read(url).port if url is not None else DEFAULT_PORT
    return _checked(run, host, port)


def _checked(run: Run, host: str, port: int) -> Served:
    from r1pipe.models.folder import folder_problem

    problems = []
    load, path = run.model.load, run.model.path
    if load.trust_remote_code or run.rollout.vllm.get("trust_remote_code"):
        what = "a server runs no code of a model's repository"
        problems.append(Problem("model.load.trust_remote_code", what, "leave it at false"))
    if not host or "/" in host or " " in host:
        problems.append(Problem("host", f"`{host}` is no address", "for example `host=0.0.0.0`"))
    if path is None:
        problems.append(Problem("model.path", "no model is named", "`model.path=...`"))
    elif problem := folder_problem(path):
        if run.model.architecture is not None:
            hint = "it is built by a stage: run that first, or name another `model.path=`"
            problem = Problem(problem.where, problem.what, hint)
        problems.append(problem)
    if problems:
        raise UserError(problems)
    return Served(str(path), load, run.rollout, host, port, run.dry_run)


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) < 6 and int(text) < 1 << 16):
        raise UserError(Problem("port", f"`{text}` is not a port: 0 to 65535"))
    return int(text)


def serve(served: Served) -> int:
    """Listen, keep an engine, and clean up; returns 0 after SIGTERM, 130 after Ctrl-C."""
    from r1pipe.serving.desk import Desk
    from r1pipe.serving.http_server import Server
    from r1pipe.serving.secret import keep_token
    from r1pipe.serving.spool import Spool
    from r1pipe.serving.supervisor import GaveUp, Patience, Supervisor, say

    rollout = served.rollout
    desk = Desk()
    server = _listening(served, lambda: Server(served.host, served.port, desk))
    port = server.server_address[1]
    settings = {
        "model": served.model,
        "load": served.load.model_dump(),
        "rollout": rollout.model_dump(),
    }
    patience = Patience(rollout.server_hang_timeout, rollout.server_stall_timeout)
    token_file: Path | None = None
    spool: Spool | None = None
    supervisor: Supervisor | None = None
    codes: list[int] = []
    try:
        with _signals(lambda: supervisor, codes):
            server.token, token_file, written = keep_token(rollout.server_token_file, port)
            written_file = token_file if written and rollout.server_token_file is None else None
            server.spool = spool = Spool()
            supervisor = Supervisor(desk, spool, settings, served.parts, patience)
            threading.Thread(target=server.serve_forever, daemon=True, name="http").start()
            for line in _described(served, _reachable(served.host, port), token_file):
                print(line, flush=True)
            if not codes:
                supervisor.run()
    except GaveUp as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if supervisor is not None:
            supervisor.close()
        if spool is not None:
            spool.close()
        if token_file is not None and written_file is not None:
            with suppress(FileNotFoundError):
                written_file.unlink()
        server.server_close()
    say("ended")
    return codes[0]


@contextmanager
def _signals(supervisor: Callable[[], Supervisor | None], codes: list[int]) -> Iterator[None]:
    """Let SIGTERM (0) and Ctrl-C (130) stop the supervisor, and note the exit code."""

    def end(number: int, frame: Any) -> None:
        codes.append(0 if number == signal.SIGTERM else 130)
        if (found := supervisor()) is not None:
            found.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number in before:  # what is left to do is to clean up
            signal.signal(number, signal.SIG_IGN)


def _listening(served: Served, make: Any) -> Any:
    try:
        return make()
    except OSError as error:
        where = url_of(served.host, served.port)
        hint = "another `port=`, or 0 for one that is free"
        problem = Problem("port", f"cannot listen at {where}: {error.strerror or error}", hint)
        raise UserError(problem) from error
    except OverflowError:
        raise UserError(Problem("port", f"{served.port} is not a port")) from None


def _reachable(host: str, port: int) -> str:
    """Return a URL by which others come to an address that stands for all of this machine's."""
    return url_of(socket.gethostname() if host in ("0.0.0.0", "::") else host, port)


def _described(served: Served, url: str, token_file: Path | None) -> list[str]:
    rollout = served.rollout
    spread = f" over {served.parts} processes" if served.parts > 1 else ""
    lines = [f"url: {url}"]
    if not served.dry_run:
        lines.append(f"token: {token_file or 'R1PIPE_SERVER_TOKEN of the environment'}")
    lines += [f"model: {served.model}", f"engine: {rollout.engine}{spread}"]
    if not is_loopback(served.host):
        lines.append("open to other machines: whoever has the token may write and send weights")
    asked = rollout.server_url
    with suppress(ValueError):
        if asked and not is_loopback(Address.read(asked).host) and is_loopback(served.host):
            lines.append(f"note: nothing else reaches {url}; `host=` lets {asked} be it")
    return lines
