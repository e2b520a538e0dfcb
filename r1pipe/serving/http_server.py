"""The HTTP side: a few fixed routes, a token on each, sizes and times bounded."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from r1pipe import __version__
from r1pipe.serving import protocol as p
from r1pipe.serving.desk import Desk
from r1pipe.serving.protocol import Group, Refusal
from r1pipe.serving.secret import same
from r1pipe.serving.spool import Spool

IDLE_SECONDS = 75.0
"""How long a connection may stay open without a request."""
HEAD_SECONDS = 15.0
"""How long the first line and the headers of a request may take."""
LEAST_RATE = 1 << 16
"""Bytes a second that a body has to come at, beside half a minute that any may take."""
BODY_SECONDS = 30.0
MOST_CONNECTIONS = 2048
MOST_BYTES, SLACK_BYTES = 8, 64 << 20
"""Bytes of one number of the checkpoint, and of what surrounds them, in a set of weights."""
STRANGERS_READ = 1 << 16
"""Bytes of a body that are read to be polite before a refusal; of a larger one none are."""


class Server(ThreadingTCPServer):
    """Listens; every connection has a thread, and a time by which it has to be further."""

    daemon_threads = True
    request_queue_size = 1024
    allow_reuse_address = True

    token: str
    spool: Spool

    def __init__(self, host: str, port: int, desk: Desk) -> None:
        """Set `token` and `spool` before it serves."""
        self.desk = desk
        self.uploading = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._deadlines: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        super().__init__((host, port), Handler)
        threading.Thread(target=self._close_late_ones, daemon=True, name="deadlines").start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._guard:
            if len(self._deadlines) >= MOST_CONNECTIONS:
                return False
            self._deadlines[request] = time.monotonic() + HEAD_SECONDS
            return True

    def due(self, connection: socket.socket, seconds: float) -> None:
        """Give a connection so long to come to its next point."""
        with self._guard:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + seconds

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # those are connections that broke
            print(f"server: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _close_late_ones(self) -> None:
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            with self._guard:
                late = [c for c, deadline in self._deadlines.items() if deadline < now]
                for connection in late:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"r1pipe/{__version__}", ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.server.due(self.connection, IDLE_SECONDS)

    def parse_request(self) -> bool:
        # The first line is here; headers that trickle in are not waited for.
        self.server.due(self.connection, HEAD_SECONDS)
        return super().parse_request()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what matters is said by the watcher."""

    def _answer(self) -> None:
        self._left, self._written_with, self._known = 0, "", False
        try:
            self._left = self._length()
            self.server.due(self.connection, BODY_SECONDS + self._left / LEAST_RATE)
            self._reply(200, self._route())
        except Refusal as refusal:
            self._skip()
            self._reply(refusal.status, refusal.body())

    def _route(self) -> bytes | dict[str, Any]:
        url = urlsplit(self.path)
        parts = url.path.removeprefix(f"{p.PREFIX}/").split("/")
        desk, method = self.server.desk, self.command
        if url.path == p.HEALTH and method == "GET":
            return {"ready": desk.ready}
        self._authorised()
        session = self.headers.get(p.SESSION_HEADER)
        if url.path == p.STATUS and method == "GET":
            return {"r1pipe": __version__, "protocol": p.PROTOCOL, **desk.described()}
        if url.path == p.SESSION:
            return self._session(method, session)
        if len(parts) == 2 and parts[0] == "jobs" and p.NAME.fullmatch(parts[1]):
            return self._job(method, session, parts[1], parse_qs(url.query))
        if parts[0] == "weights":
            return self._weights(method, session, parts[1:], parse_qs(url.query))
        raise Refusal(404, p.BAD_REQUEST, f"there is nothing at {self.path[:100]!r}")

    def _session(self, method: str, session: str | None) -> dict[str, Any]:
        desk = self.server.desk
        if method == "POST":
            spool = self.server.spool
            opened = desk.open(self._json())
            return {**opened, "folder": str(spool.folder), "witness": spool.witness}
        if method == "PUT":
            desk.touch(session)
        elif method == "DELETE":
            desk.leave(session)
        else:
            raise Refusal(405, p.BAD_REQUEST, f"{method} has no meaning here")
        return {}

    def _job(
        self, method: str, session: str | None, name: str, query: dict[str, list[str]]
    ) -> bytes | dict[str, Any]:
        desk = self.server.desk
        if method == "POST":
            group = Group.read(self.headers.get(p.GROUP_HEADER))
            weights = self.headers.get(p.WEIGHTS_HEADER, "")
            desk.touch(session)  # before a body of a stranger is read
            do = query.get("do", [""])[0]
            desk.submit(session, name, do, weights, group, self._body(p.MOST_JOB))
            return {}
        if method == "GET":
            seconds = query.get("wait", ["0"])[0]
            if not seconds.isdecimal() or len(seconds) > 4:
                raise Refusal(400, p.BAD_REQUEST, "`wait` is not a number of seconds")
            patience = min(float(seconds), p.POLL_SECONDS)
            self.server.due(self.connection, patience + BODY_SECONDS)
            found = desk.wait(session, name, patience)
            self._written_with = desk.written_with(name)
            return found
        if method == "DELETE":
            desk.touch(session)
            desk.release(name)
            return {}
        raise Refusal(405, p.BAD_REQUEST, f"{method} has no meaning here")

    def _weights(
        self, method: str, session: str | None, parts: list[str], query: dict[str, list[str]]
    ) -> dict[str, Any]:
        server = self.server
        server.desk.touch(session)
        with server.uploading:  # one client holds the server: others of its ranks send no weights
            if method == "POST" and not parts:
                return {"upload": server.spool.begin()}
            if method == "PUT" and len(parts) == 2:
                self._within()
                offset = query.get("offset", [""])[0]
                check = self.headers.get(p.CHECK_HEADER)
                reader: Any = self
                upload, shard = parts
                server.spool.receive(upload, shard, offset, self._left, check, reader)
                return {}
            if method == "POST" and len(parts) == 2 and parts[1] == "commit":
                asked = self._json()
                name, weights = str(asked.get("name")), str(asked.get("weights"))
                plain = weights.isascii() and weights.isprintable() and 0 < len(weights) <= 200
                if not p.NAME.fullmatch(name) or not plain:
                    raise Refusal(400, p.BAD_REQUEST, "`name` or `weights` is none")
                paths = server.spool.commit(parts[0], asked.get("sizes"))
                server.desk.submit_load(session, name, weights, paths)
                return {}
        raise Refusal(404, p.BAD_REQUEST, f"there is nothing at {self.path[:100]!r}")

    def _within(self) -> None:
        elements = (self.server.desk.info or {}).get("elements")
        limit = None if elements is None else MOST_BYTES * elements + SLACK_BYTES
        if limit is not None and self.server.spool.received() + self._left > limit:
            what = f"more weights than the model has: {limit} bytes are its most"
            raise Refusal(413, p.BAD_REQUEST, what)

    def _authorised(self) -> None:
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not same(self.server.token, given):
            self.close_connection = True
            raise Refusal(401, p.WRONG_TOKEN, "the token is missing or not this server's")
        self._known = True

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not (text.isascii() and text.isdecimal()):
            self.close_connection = True
            raise Refusal(411, p.BAD_REQUEST, "a request says how long it is (Content-Length)")
        return int(text[:20])

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self._body(p.MOST_JSON))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refusal(400, p.BAD_REQUEST, "the body is not a JSON mapping")
        return found

    def _body(self, most: int) -> bytes:
        if self._left > most:
            raise Refusal(413, p.BAD_REQUEST, f"{self._left} bytes; at most {most} are taken here")
        whole = self._left
        data = self.read(whole)
        if len(data) < whole:
            raise Refusal(400, p.BAD_REQUEST, f"the body ended after {len(data)} of {whole} bytes")
        return data

    def read(self, size: int) -> bytes:
        """Read of this request's body, never of the next one's."""
        data = self.rfile.read(min(size, self._left))
        self._left -= len(data)
        if not data:
            self._left, self.close_connection = 0, True
        return data

    def _skip(self) -> None:
        """Bring the connection to the next request, or close it where that takes too long."""
        if self._left > (p.MOST_RANGE if self._known else STRANGERS_READ):
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            while self._left:
                self.read(1 << 20)

    def _reply(self, status: int, content: bytes | dict[str, Any]) -> None:
        plain = isinstance(content, dict)
        data = json.dumps(content).encode() if plain else content
        self.server.due(self.connection, BODY_SECONDS + len(data) / LEAST_RATE)
        self.send_response(status)
        self.send_header("Content-Type", p.JSON_TYPE if plain else p.TENSORS_TYPE)
        self.send_header("Content-Length", str(len(data)))
        if self._written_with:
            self.send_header(p.WEIGHTS_HEADER, self._written_with)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)
