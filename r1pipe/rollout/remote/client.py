"""Requests to a generation server that get through, tried for a time; then plain words."""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.schema import Rollout
from r1pipe.serving import protocol as p
from r1pipe.serving.protocol import Address, Refusal
from r1pipe.serving.secret import find_token

Answer = TypeVar("Answer")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
ANSWER_SECONDS = 30.0
"""How long an answer may take beside what was asked to be waited for."""
PASSING = (p.STARTING, p.BUSY)
"""Refusals that time mends."""


class WeightsLost(Exception):
    """The engine does not hold the weights it is asked to write with: send them again."""


class Client:
    """One connection to the server; not for several threads at a time."""

    def __init__(self, rollout: Rollout, serves: str) -> None:
        """`serves`: the model that a server would have to be started with, for messages."""
        self._rollout, self._serves = rollout, serves
        self.url = rollout.server_url or ""
        try:
            self._address = Address.read(self.url)
        except ValueError as error:
            what = f"{error}, received `{rollout.server_url}`"
            raise UserError(Problem("rollout.server_url", what)) from None
        self._patience = rollout.server_timeout
        self._token = find_token(rollout.server_token_file, self._address.port)
        self._connection: http.client.HTTPConnection | None = None
        self.session: str | None = None
        self._written_with: str | None = None

    # -- requests --------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON answer; raises Refusal or, after `server_timeout`, StageFailed."""
        data = b"" if body is None else json.dumps(body).encode()
        return self._until(lambda: json.loads(self._once(method, path, data)[1]))

    def send(self, path: str, body: bytes | memoryview, headers: dict[str, str]) -> None:
        """PUT bytes; as `ask`."""
        self._until(lambda: self._once("PUT", path, body, headers))

    def job(
        self,
        do: str,
        body: bytes,
        weights: str,
        group: p.Group | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> bytes:
        """Let the engine do something and return its answer.

        Raises WeightsLost where it does not hold `weights`, Refusal where it will not.
        """
        name = uuid4().hex
        headers = {p.WEIGHTS_HEADER: weights}
        if group is not None:
            headers[p.GROUP_HEADER] = str(group)
        path = f"{p.JOBS}/{name}"
        try:
            self._until(lambda: self._once("POST", f"{path}?do={do}", body, headers))
            found = self.result(name, on_done)
        except Refusal as refusal:
            raise self.lost(refusal) from refusal
        if self._written_with != weights:
            what = f"asked of weights `{weights}`, the server wrote with `{self._written_with}`"
            raise StageFailed(what)
        return found

    def result(self, name: str, on_done: Callable[[int], None] | None = None) -> bytes:
        """Return what a request came to, however long it takes as long as the server answers."""
        wait = int(min(p.POLL_SECONDS, max(1.0, self._patience / 4)))
        path = f"{p.JOBS}/{name}"
        while True:
            kind, data = self._until(lambda: self._once("GET", f"{path}?wait={wait}", wait=wait))
            if kind == p.TENSORS_TYPE:
                written_with = self._written_with
                break
            if on_done is not None:
                on_done(json.loads(data)["done"])
        try:
            self._once("DELETE", path)
        except (Refusal, OSError, http.client.HTTPException):
            self.disconnect()  # it is thrown away in time
        self._written_with = written_with
        return data

    def lost(self, refusal: Refusal) -> Exception:
        """Return what a refusal means for the weights: WeightsLost, or nothing but itself."""
        lost = (p.OTHER_WEIGHTS, p.RESTARTED, p.NO_SESSION)
        return WeightsLost(refusal.message) if refusal.error in lost else refusal

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def touch(self) -> None:
        """Tell the server that its client lives; whether that arrives shows at the next request."""
        self._without_word("PUT")

    def leave(self) -> None:
        """Tell the server that it is free."""
        if self.session is not None:
            self._without_word("DELETE")
            self.session = None

    def follow(self, other: Client) -> None:
        """Take on the session and the token that another client has by now."""
        self.session, self._token = other.session, other._token

    def disown(self) -> None:
        """Forget a connection that belongs to the client this one is a copy of."""
        self._connection = None

    # -- inside ----------------------------------------------------------------------------------

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | memoryview = b"",
        headers: dict[str, str] | None = None,
        wait: float = 0.0,
    ) -> tuple[str, bytes]:
        """Return type and bytes of one answer; raises Refusal for one that is not 200."""
        patience = wait + min(ANSWER_SECONDS, max(1.0, self._patience))
        if self._connection is None:
            self._connection = self._connect(patience)
        connection = self._connection
        connection.timeout = patience
        if connection.sock is not None:
            connection.sock.settimeout(patience)
        sent = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        if self.session is not None:
            sent[p.SESSION_HEADER] = self.session
        try:
            connection.request(method, path, body, sent)
        except (BrokenPipeError, ConnectionResetError):
            if not body:
                raise  # else the server may have answered without reading to the end
        answer = connection.getresponse()
        data = answer.read()
        kind = answer.headers.get("Content-Type", "")
        if answer.status == 200:
            self._written_with = answer.headers.get(p.WEIGHTS_HEADER)
            return kind, data
        try:
            said = json.loads(data)
            error, message = str(said.pop("error")), str(said.pop("message"))
        except (ValueError, KeyError, AttributeError):
            raise http.client.HTTPException(
                f"HTTP {answer.status}, not from an r1pipe server"
            ) from None
        raise Refusal(answer.status, error, message, said)

    def _without_word(self, method: str) -> None:
        try:
            self._once(method, p.SESSION)
        except (Refusal, OSError, http.client.HTTPException, ValueError):
            self.disconnect()

    def _until(self, attempt: Callable[[], Answer]) -> Answer:
        """Return what `attempt` returns, tried until it passes or the server's time is up."""
        started, pause, tokens = time.monotonic(), FIRST_PAUSE, 0
        told = False
        while True:
            try:
                return attempt()
            except Refusal as refusal:
                if refusal.error == p.WRONG_TOKEN:
                    tokens += 1
                    if tokens > 1:
                        raise self._wrong_token() from refusal
                    # A server that was started again has a new one in the same file.
                    self._token = find_token(self._rollout.server_token_file, self._address.port)
                    continue
                if refusal.error not in PASSING:
                    raise
                waiting, limit = refusal.message, self._limit(refusal)
                busy = refusal.error == p.BUSY
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.disconnect()
                waiting = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                limit, busy = self._patience, False
            spent = time.monotonic() - started
            if spent + pause > limit:
                raise self._gave_up(spent, waiting, busy)
            if not told and spent > 1:
                told = True
                print(f"waiting for {self.url}: {waiting}", file=sys.stderr, flush=True)
            time.sleep(pause * (0.75 + 0.5 * random.random()))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _limit(self, refusal: Refusal) -> float:
        """Return how long to wait: one who holds the server and lives does not leave it soon."""
        if refusal.error == p.STARTING:  # it says so itself, and gives up itself
            return max(self._patience, p.START_SECONDS)
        if refusal.error == p.BUSY and "free_in" in (refusal.more or {}):
            return min(self._patience, 1.5 * p.LEASE_SECONDS)
        return self._patience

    def _connect(self, patience: float) -> http.client.HTTPConnection:
        address = self._address
        kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
        return kind(address.host, address.port, timeout=patience)

    def _wrong_token(self) -> UserError:
        what = f"the generation server at {self.url} has another token"
        hint = "take the one that `r1pipe serve` printed the place of"
        return UserError(Problem("rollout.server_token_file", what, hint))

    def _gave_up(self, spent: float, last: str, busy: bool) -> StageFailed:
        if busy:
            hint = "wait until it is free, or start another one at another port"
            return StageFailed(
                f"the generation server at {self.url} does not serve two: {last}; {hint}"
            )
        command = (
            f"python -m r1pipe serve model.path={self._serves} rollout=vllm_server "
            f"rollout.server_url={self.url}"
        )
        return StageFailed(
            f"the generation server at {self.url} could not be used for {spent:.0f} s "
            f"(`rollout.server_timeout`): {last}. Start it with `{command}`"
        )
