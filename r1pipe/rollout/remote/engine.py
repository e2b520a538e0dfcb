"""The engine of a generation server, from the client's side: the same interface as the others."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from r1pipe import __version__
from r1pipe.errors import Problem, StageFailed, UserError
from r1pipe.models.loading import load_causal_lm, load_config, load_tokenizer
from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.ending import OnRows, Stop
from r1pipe.rollout.engine import OnDone, SampledTokens, WritingEngine
from r1pipe.rollout.remote.client import Client, WeightsLost
from r1pipe.rollout.remote.files import checkpoint_files, content_of
from r1pipe.rollout.remote.sending import send_weights
from r1pipe.rollout.remote.wire import (
    Malformed,
    pack,
    rows_in,
    unpack,
    values_out,
    written_out,
)
from r1pipe.schema import Load, Rollout, Sampling
from r1pipe.serving import protocol as p
from r1pipe.serving.identity import identity_of
from r1pipe.serving.protocol import Group, Refusal

FINE, LOST, FAILED = 0, 1, 2
MOST_REPEATS = 4
"""Times that a request is repeated which ends the engine, or finds it without its weights."""
Found = TypeVar("Found")
Tensors = Iterable[tuple[str, Tensor]]


class RemoteEngine(WritingEngine):
    """Writes with the engine of a server.

    The server's process may die and be started again at any time: the weights are then sent again,
    and the request repeated; with the same seed it comes to the same tokens.
    """

    def __init__(self, rollout: Rollout, reference: str, load: Load) -> None:
        """Nothing is asked of the server yet: `open` does that, or the first request."""
        self.rollout, self.reference = rollout, reference
        self._load = load
        self.tokenizer = load_tokenizer(reference, load)
        self._identity = identity_of(load_config(reference, load), self.tokenizer)
        self.client = Client(rollout, reference)
        self.owner = f"{socket.gethostname()}, process {os.getpid()}, {os.getcwd()}"
        self.opened: dict[str, Any] = {}
        self.version = p.START
        """Which weights the engine has to hold."""
        self.end_ids: list[int] = []
        self.banned: int | None = None
        """A token that is never drawn."""
        self.extra: dict[str, Any] = {}
        """More of vLLM's sampling parameters, by their own names."""
        self.group: Group | None = None
        """The part of a step's prompts that this rank sends; None where it sends all."""
        self.agree: Callable[[int], int] = lambda state: state
        """Returns the worst state of all ranks; a collective."""
        self.renew: Callable[[], None] = self._send_files
        """Brings the engine back to the weights it has to hold."""
        self._keeper: _Keeper | None = None

    @property
    def context(self) -> int | None:
        return self.start().opened["context"]

    def start(self) -> RemoteEngine:
        """Open the server unless it is, and bring it to the weights at `reference`."""
        if not self.opened:
            self.open()
            self.end_ids = self.opened["end_ids"]
            pad = self.tokenizer.pad_token_id
            self.banned = None if pad in self.end_ids else pad
            self.renew()
        return self

    def open(self) -> dict[str, Any]:
        """Take the server for this client and return what it says of itself.

        Raises UserError where it serves another model, StageFailed where it does not answer.
        """
        asked = {
            "protocol": p.PROTOCOL,
            "r1pipe": __version__,
            "owner": self.owner,
            "identity": self._identity,
        }
        self.client.session = None
        try:
            self.opened = self.client.ask("POST", p.SESSION, asked)
        except Refusal as refusal:
            where = f"rollout.server_url: {self.client.url}"
            raise UserError(Problem(where, refusal.message, _mended_by(refusal))) from refusal
        self.client.session = self.opened["session"]
        if self._keeper is None:
            self._keeper = _Keeper(self.client, self.opened["lease"])
        return self.opened

    def join(self, opened: dict[str, Any], version: str) -> None:
        """Use the server that another rank of the same training has opened."""
        self.opened, self.version = opened, version
        self.client.session = opened["session"]

    def write(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        seed: int | None = None,
        logprobs: bool = False,
        on_done: OnDone | None = None,
        on_rows: OnRows | None = None,
        limits: Sequence[int] | None = None,
        stop: Stop | None = None,
    ) -> SampledTokens:
        self.start()
        if seed is None:
            seed = int(torch.randint(1 << 31, ()))
        meta = {
            "sampling": sampling.model_dump(),
            "seed": seed,
            "logprobs": logprobs,
            "end_ids": self.end_ids,
            "banned": self.banned,
            "more": self.extra,
        }
        arrays = rows_in("prompts", prompt_ids)
        if limits is not None:
            arrays["limits"] = np.array(limits, np.int32)
        body = pack(meta, arrays)
        if not prompt_ids and self.group is None:
            return SampledTokens([], [] if logprobs else None)
        written = written_out(self._ask("write", body, on_done))
        if len(written.ids) != len(prompt_ids):
            raise StageFailed(f"the server wrote {len(written.ids)} of {len(prompt_ids)} prompts")
        if on_rows is not None:
            on_rows(list(enumerate(written.ids)))
        return written

    def score(
        self,
        prompt_ids: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
        temperature: float = 1.0,
    ) -> list[list[float]]:
        """Return the log-probability of every completion token, as `VllmEngine.score` does."""
        self.start()
        arrays = rows_in("prompts", prompt_ids) | rows_in("completions", completion_ids)
        return values_out(self._ask("score", pack({"temperature": temperature}, arrays)))

    def load(self, tensors: Tensors, version: str | None = None) -> None:
        """Give the engine new weights, by the names of the checkpoint; all of them.

        Raises WeightsLost where the server was started again meanwhile.
        """
        version = version or f"w-{uuid4().hex}"
        try:
            send_weights(self.client, self.start().opened, tensors, version)
        except Refusal as refusal:
            what = f"the server does not take the weights: {refusal.message}"
            raise StageFailed(what) from refusal
        self.version = version

    def close(self) -> None:
        """Leave the server to others."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
            self.client.leave()
        self.client.disconnect()

    # -- inside ----------------------------------------------------------------------------------

    def _ask(self, do: str, body: bytes, on_done: OnDone | None = None) -> dict[str, Any]:
        """Return the arrays that the engine answers with, whatever happens to it meanwhile."""
        last = ""
        for attempt in range(MOST_REPEATS + 1):
            group, found, error, state = self._group(attempt), {}, None, FINE
            try:
                found = unpack(self.client.job(do, body, self.version, group, on_done))[1]
            except WeightsLost as lost:
                state, last = LOST, str(lost)
            except Refusal as refusal:
                state, last = _state_after(refusal), refusal.message
                error = StageFailed(f"the generation server refuses: {last}")
            except Malformed as malformed:
                state, error = FAILED, StageFailed(f"the generation server: {malformed}")
            except (StageFailed, UserError) as failed:
                state, error = FAILED, failed
            worst = self.agree(state)
            if worst == FAILED:
                raise error or StageFailed("another rank could not use the generation server")
            if worst == FINE:
                return found
            if state == LOST:
                print(f"{self.client.url}: {last}; asking again", file=sys.stderr, flush=True)
            self.renew()
        times = f"{MOST_REPEATS + 1} times in a row"
        raise StageFailed(f"the server's engine did not outlive this request, {times}: {last}")

    def _group(self, attempt: int) -> Group | None:
        group = self.group
        return group and Group(f"{group.name}.{attempt}", group.part, group.parts)

    def _send_files(self) -> None:
        """Bring the server to the weights at `reference`, unless it has them."""
        for _ in range(MOST_REPEATS):
            opened = self.open()
            content = content_of(self.reference)
            if opened["weights"] == p.START and content and opened["start"] == content:
                self.version = p.START
                return
            if opened["weights"] == self.version != p.START:
                return
            try:
                self.load(file_tensors(self.reference, self._load))
                return
            except WeightsLost:
                continue
        raise StageFailed("the server was started again whenever it was sent weights")


def file_tensors(reference: str, load: Load) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of the checkpoint at `reference`, unquantised."""
    files = checkpoint_files(reference)
    config = load_config(reference, load)
    if not files or getattr(config, "quantization_config", None) is not None:
        yield from checkpoint_tensors(load_causal_lm(reference, load))
        return
    for path in files:
        with safe_open(str(path), "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


class _Keeper:
    """Tells the server that its client lives, while that computes something else."""

    def __init__(self, client: Client, lease: float) -> None:
        self._of = client
        self._client = copy(client)
        self._client.disown()
        self._ended = threading.Event()
        self._every = lease / 3
        threading.Thread(target=self._run, daemon=True, name="keeps the server").start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._client.follow(self._of)
            self._client.touch()


def _state_after(refusal: Refusal) -> int:
    """An engine that failed is started again; whatever else is refused will be again."""
    return LOST if refusal.error == p.ENGINE_FAILED else FAILED


def _mended_by(refusal: Refusal) -> str | None:
    if refusal.error == p.OTHER_VERSION:
        return "install the same version at both ends"
    if refusal.error == p.OTHER_MODEL:
        return "start the server with the model that this stage starts from"
    return None
