"""What both ends of the wire agree on: routes, headers, limits, names, reasons to refuse."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PROTOCOL = 1
"""Changes when an older client could misread a newer server."""
PREFIX = "/v1"
HEALTH, STATUS, SESSION = "/health", f"{PREFIX}/status", f"{PREFIX}/session"
JOBS, WEIGHTS = f"{PREFIX}/jobs", f"{PREFIX}/weights"
"""`JOBS/NAME`; `WEIGHTS/UPLOAD/SHARD?offset=N` and `WEIGHTS/UPLOAD/commit`."""

SESSION_HEADER, WEIGHTS_HEADER = "X-R1-Session", "X-R1-Weights"
GROUP_HEADER, CHECK_HEADER = "X-R1-Group", "X-R1-Crc32"
TENSORS_TYPE, JSON_TYPE = "application/x-safetensors", "application/json"

MOST_JSON = 8 << 20
"""Bytes of a JSON body."""
MOST_JOB = 256 << 20
"""Bytes of the prompts of one request: 64 M tokens."""
MOST_RANGE = 64 << 20
"""Bytes of weights in one request; a larger shard comes in several."""
SHARD_BYTES = 256 << 20
"""Tensors are collected up to this size before they are sent; a larger one goes alone."""
MOST_SHARDS = 1 << 16
MOST_ROWS = 1 << 16
"""Prompts of one request."""
MOST_PARTS = 1 << 12
"""Ranks that write together."""

LEASE_SECONDS = 30.0
"""How long the server keeps itself for a client that it does not hear of."""
START_SECONDS = 3600.0
"""How long a client waits for a server that answers while its engine starts."""
POLL_SECONDS = 20.0
"""Longest time that a question for a result is left open."""
NAME = re.compile(r"[0-9a-f]{32}")
"""Names that clients give to requests: uuid4 in hex."""
START = "start"
"""Version of the weights that a server read when it started."""

# Reasons in the field `error` of an answer; what a client does about each is in `client.py`.
WRONG_TOKEN = "wrong token"
NO_SESSION = "no session"
BUSY = "busy"
OTHER_MODEL = "other model"
OTHER_VERSION = "other version"
OTHER_WEIGHTS = "other weights"
STARTING = "starting"
RESTARTED = "restarted"
BAD_REQUEST = "bad request"
ENGINE_FAILED = "engine failed"


@dataclass
class Refusal(Exception):
    """What a server answers instead of what was asked: HTTP status, reason, words for a person."""

    status: int
    error: str
    message: str
    more: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        return {"error": self.error, "message": self.message, **(self.more or {})}


@dataclass(frozen=True)
class Group:
    """One of several requests that are written as one: a step's prompts, a part from each rank."""

    name: str
    part: int
    parts: int

    @classmethod
    def read(cls, text: str | None) -> Group | None:
        if text is None:
            return None
        found = re.fullmatch(r"([\w.-]{1,100}) (\d{1,5}) (\d{1,5})", text)
        group = found and cls(found[1], int(found[2]), int(found[3]))
        if not group or not group.part < group.parts <= MOST_PARTS:
            raise Refusal(400, BAD_REQUEST, f"{GROUP_HEADER}: not `name part parts`: {text[:60]!r}")
        return group

    def __str__(self) -> str:
        return f"{self.name} {self.part} {self.parts}"


@dataclass(frozen=True)
class Address:
    """Where a server is, from its URL."""

    secure: bool
    host: str
    port: int

    @classmethod
    def read(cls, url: str) -> Address:
        """Raises ValueError, in words for a person, for what is not `http://host:port`."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
            raise ValueError("expected `http://host:port`")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ValueError("expected `http://host:port` with nothing behind it")
        return cls(parts.scheme == "https", parts.hostname, port)


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
