"""The server's door: tokens, sizes, times, paths. No engine: the test stands in for it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from r1pipe.serving import http_server, protocol
from r1pipe.serving.desk import Desk
from r1pipe.serving.http_server import Server
from r1pipe.serving.spool import Spool, shard_name, shared_folder
from tests.serving.test_desk import INFO, asked, name

TOKEN = "t" * 43


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    desk = Desk()
    desk.engine_up({**INFO, "elements": 1000})
    server = Server("127.0.0.1", 0, desk)
    server.token, server.spool = TOKEN, Spool(tmp_path)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    server.spool.close()


def ask(
    server: Server, method: str, path: str, body: Any = b"", token: str = TOKEN, **headers: str
) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    sent = {
        "Authorization": f"Bearer {token}",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    try:
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def opened(server: Server) -> dict[str, str]:
    status, found = ask(server, "POST", "/v1/session", asked())
    assert status == 200
    return {"X_R1_Session": found["session"]}


@pytest.mark.parametrize("token", ["", "t" * 42, "t" * 44, "T" * 43, "é" * 43])
def test_every_route_but_health_wants_the_token(server: Server, token: str) -> None:
    token = token.encode().decode("latin-1")
    for method, path in (
        ("GET", "/v1/status"),
        ("POST", "/v1/session"),
        ("GET", f"/v1/jobs/{name()}"),
        ("POST", "/v1/weights"),
        ("GET", "/v1/nothing"),
    ):
        status, said = ask(server, method, path, token=token)
        assert (status, said["error"]) == (401, "wrong token")
    assert ask(server, "GET", "/health", token=token) == (200, {"ready": True})


def test_without_a_session_nothing_is_done(server: Server) -> None:
    for method, path in (
        ("POST", f"/v1/jobs/{name()}?do=write"),
        ("GET", f"/v1/jobs/{name()}?wait=1"),
        ("POST", "/v1/weights"),
        ("PUT", f"/v1/weights/{name()}/0?offset=0"),
        ("PUT", "/v1/session"),
    ):
        assert ask(server, method, path)[1]["error"] == "no session", path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/../v1/status/..",
        "/v1/jobs/../status",
        "/v1/jobs/" + "g" * 32,
        "/v1/jobs/%2e%2e%2fstatus",
        "/v1/weights/../../etc/passwd",
        "//etc/passwd",
        "/v1/status/",
        "/v1/jobs/" + "a" * 32 + "/x",
    ],
)
def test_there_are_no_other_paths(server: Server, path: str) -> None:
    assert ask(server, "GET", path, **opened(server))[0] == 404


def upload(server: Server, session: dict[str, str]) -> str:
    return ask(server, "POST", "/v1/weights", **session)[1]["upload"]


@pytest.mark.parametrize(
    ("shard", "offset", "status"),
    [
        ("..", "0", 400),
        ("%2e%2e%2fx", "0", 400),
        ("-1", "0", 400),
        ("0", "-1", 400),
        ("0", "", 400),
        ("0", "5", 409),
        ("99999999", "0", 400),
        ("0x1", "0", 400),
    ],
)
def test_a_shard_has_a_number_and_nothing_else(
    server: Server, shard: str, offset: str, status: int
) -> None:
    session = opened(server)
    path = f"/v1/weights/{upload(server, session)}/{shard}?offset={offset}"
    assert ask(server, "PUT", path, b"abc", **session)[0] == status
    assert server.spool.received() == 0


def test_a_set_of_weights_is_whole_or_not_taken(server: Server) -> None:
    session = opened(server)
    there = f"/v1/weights/{upload(server, session)}"
    data = os.urandom(1000)
    good = f"{zlib.crc32(data):08x}"
    put = f"{there}/0?offset=0"
    assert ask(server, "PUT", put, data, X_R1_Crc32="00000000", **session)[0] == 400
    assert server.spool.received() == 0
    assert ask(server, "PUT", put, data, X_R1_Crc32=good, **session)[0] == 200
    repeated = ask(server, "PUT", put, data, X_R1_Crc32=good, **session)
    assert repeated[0] == 409 and repeated[1]["have"] == 1000
    commit = {"name": name(), "weights": "w1", "sizes": [1000]}
    for wrong in ([999], [1001], [1000, 5], [], "1000", None, [True]):
        found = ask(server, "POST", f"{there}/commit", {**commit, "sizes": wrong}, **session)
        assert found[0] == 400, wrong
    assert server.desk.begin() is None
    assert ask(server, "POST", f"{there}/commit", commit, **session)[0] == 200
    work = server.desk.begin()
    assert work is not None and Path(work.head["paths"][0]).read_bytes() == data
    assert server.desk.weights == "start"


def test_a_truncated_body_leaves_no_trace(server: Server) -> None:
    session = opened(server)
    there = f"/v1/weights/{upload(server, session)}/0?offset=0"
    with socket.create_connection(server.server_address[:2]) as raw:  # type: ignore[arg-type]
        raw.sendall(
            f"PUT {there} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"X-R1-Session: {session['X_R1_Session']}\r\nContent-Length: 1000\r\n\r\n".encode()
            + b"x" * 400
        )
        raw.shutdown(socket.SHUT_WR)
        assert b"400" in raw.recv(1 << 16).split(b"\r\n")[0]
    assert server.spool.received() == 0
    assert ask(server, "PUT", there, b"y" * 10, **session)[0] == 200


def test_sizes_are_bounded_before_anything_is_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(server)
    head = f"Authorization: Bearer {TOKEN}\r\nX-R1-Session: {session['X_R1_Session']}\r\n"
    there = upload(server, session)
    for path, method in (
        (f"/v1/jobs/{name()}?do=write", "POST"),
        (f"/v1/weights/{there}/0?offset=0", "PUT"),
        (f"/v1/weights/{there}/commit", "POST"),
        ("/v1/session", "POST"),
    ):
        with socket.create_connection(server.server_address[:2]) as raw:  # type: ignore[arg-type]
            text = f"{method} {path} HTTP/1.1\r\n{head}Content-Length: {1 << 40}\r\n\r\n"
            raw.sendall(text.encode())
            answer = raw.recv(1 << 16)
            assert b"413" in answer.split(b"\r\n")[0], path
    monkeypatch.setattr(http_server, "SLACK_BYTES", 0)
    found = ask(server, "PUT", f"/v1/weights/{there}/0?offset=0", b"x" * 8001, **session)
    assert found[0] == 413 and "8000" in found[1]["message"]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/session HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/session HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/session HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_or_dropped(server: Server, head: bytes) -> None:
    with socket.create_connection(server.server_address[:2], timeout=10) as raw:  # type: ignore[arg-type]
        raw.sendall(head)
        answer = raw.recv(1 << 16)
        assert not answer or answer.split()[1][:1] in (b"4", b"5") or b"<html" in answer.lower()
    assert ask(server, "GET", "/health")[0] == 200


def test_a_connection_that_dawdles_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    with socket.create_connection(server.server_address[:2], timeout=10) as raw:  # type: ignore[arg-type]
        raw.sendall(b"GET /health HTTP/1.1\r\n")
        ended = False
        for _ in range(100):
            time.sleep(0.05)
            try:
                raw.sendall(b"X")
            except OSError:
                ended = True
                break
        assert ended, "a header that trickles in keeps the connection for ever"


def test_connections_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 3)
    place: Any = server.server_address[:2]
    held = [socket.create_connection(place, timeout=10) for _ in range(3)]
    for each in held:  # a whole request on each: they are accepted by then
        each.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert b"200" in each.recv(1 << 16)
    with socket.create_connection(place, timeout=10) as one_more:
        one_more.settimeout(10)
        assert one_more.recv(10) == b""
    for each in held:
        each.close()


def test_the_folder_is_for_the_user_alone_and_plain_files(server: Server, tmp_path: Path) -> None:
    session = opened(server)
    said = ask(server, "POST", "/v1/session", asked())[1]
    session = {"X_R1_Session": said["session"]}
    folder = shared_folder(said["folder"], said["witness"])
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert shared_folder(said["folder"], "another") is None
    assert shared_folder("/etc", said["witness"]) is None
    assert shared_folder(None, None) is None
    there = upload(server, session)
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 10)
    link = folder / there / shard_name(0)
    commit = {"name": name(), "weights": "w1", "sizes": [10]}
    for make in (link.symlink_to, link.hardlink_to):
        make(secret)
        found = ask(server, "POST", f"/v1/weights/{there}/commit", commit, **session)
        assert found[0] == 400 and "plain file" in found[1]["message"]
        link.unlink()
    link.write_bytes(b"x" * 10)
    assert ask(server, "POST", f"/v1/weights/{there}/commit", commit, **session)[0] == 200


def test_folders_of_killed_servers_are_removed(tmp_path: Path) -> None:
    living, dead = Spool(tmp_path), Spool(tmp_path)
    os.close(dead._lock)  # as the kernel does
    another = Spool(tmp_path)
    assert living.folder.is_dir() and another.folder.is_dir() and not dead.folder.exists()
    living.close()
    another.close()
    assert not list(tmp_path.iterdir())


def test_a_result_is_waited_for(server: Server) -> None:
    session = opened(server)
    path = f"/v1/jobs/{name()}"
    weights = {"X_R1_Weights": protocol.START}
    assert ask(server, "POST", f"{path}?do=write", b"ask", **session, **weights)[0] == 200
    assert ask(server, "GET", f"{path}?wait=0", **session) == (200, {"done": 0})
    assert ask(server, "GET", f"{path}?wait=x", **session)[0] == 400
    other = f"/v1/jobs/{name()}?do=boil"
    assert ask(server, "POST", other, b"", **session, **weights)[0] == 400
    found: list[Any] = []

    def fetch() -> None:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        sent = {"Authorization": f"Bearer {TOKEN}", "X-R1-Session": session["X_R1_Session"]}
        connection.request("GET", f"{path}?wait=10", headers=sent)
        found.append(connection.getresponse().read())

    waiting = threading.Thread(target=fetch)
    waiting.start()
    assert server.desk.begin() is not None
    server.desk.finish([b"written"])
    waiting.join(10)
    assert found == [b"written"]
