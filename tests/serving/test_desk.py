"""Sessions, requests and what an engine's end does to them, on a clock of the test's own."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from r1pipe import __version__
from r1pipe.serving.desk import Desk
from r1pipe.serving.protocol import (
    BAD_REQUEST,
    BUSY,
    NO_SESSION,
    OTHER_MODEL,
    OTHER_VERSION,
    OTHER_WEIGHTS,
    PROTOCOL,
    RESTARTED,
    START,
    STARTING,
    Group,
    Refusal,
)

IDENTITY = {
    "architecture": {"hidden_size": 16, "rope_theta": 1e4},
    "vocabulary": "aa",
    "vocabulary_size": 26,
}
INFO = {"model": "m", "engine": "compact", "dtype": "float32", "identity": IDENTITY}


class Now:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def asked(owner: str = "one", **changes: Any) -> dict[str, Any]:
    said = {"protocol": PROTOCOL, "r1pipe": __version__, "owner": owner, "identity": IDENTITY}
    return {**said, **changes}


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def desk(now: Now) -> Desk:
    desk = Desk(clock=now)
    desk.engine_up(INFO)
    return desk


def name() -> str:
    return uuid4().hex


def refused(error: str, call: Any, *args: Any, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        call(*args, **options)
    assert found.value.error == error
    return found.value


def test_one_client_holds_the_server_while_it_lives(desk: Desk, now: Now) -> None:
    first = desk.open(asked("one"))["session"]
    now.seconds += 29
    busy = refused(BUSY, desk.open, asked("two"))
    assert "held by one" in busy.message and busy.more == {"free_in": 1.0}
    desk.touch(first)
    now.seconds += 29
    refused(BUSY, desk.open, asked("two"))
    now.seconds += 2
    second = desk.open(asked("two"))["session"]
    refused(NO_SESSION, desk.touch, first)
    again = desk.open(asked("two"))["session"]  # the same owner, started again
    refused(NO_SESSION, desk.touch, second)
    desk.leave(again)
    desk.open(asked("one"))


def test_what_does_not_fit_is_refused_by_name(desk: Desk) -> None:
    old = refused(OTHER_VERSION, desk.open, asked(r1pipe="0.0.1")).message
    assert "0.0.1" in old and __version__ in old
    other = {**IDENTITY, "architecture": {"hidden_size": 64, "rope_theta": 1e4}}
    message = refused(OTHER_MODEL, desk.open, asked(identity=other)).message
    assert "`hidden_size` is 16 here, 64 there" in message and "rope" not in message
    words = {**IDENTITY, "vocabulary": "bb", "vocabulary_size": 27}
    message = refused(OTHER_MODEL, desk.open, asked(identity=words)).message
    assert "vocabulary" in message and "aa" in message and "27 tokens" in message
    refused(BAD_REQUEST, desk.open, asked(identity=None))
    refused(OTHER_VERSION, desk.open, {})


def test_requests_are_met_in_order_and_once(desk: Desk) -> None:
    session = desk.open(asked())["session"]
    one, two = name(), name()
    for each in (one, two, one):
        desk.submit(session, each, "write", START, None, each.encode())
    work = desk.begin()
    assert work is not None and [part.body for part in work.parts] == [one.encode()]
    assert desk.begin() is None, "the engine does one thing at a time"
    assert desk.progress(3) and not desk.progress(3)
    assert desk.wait(session, one, 0) == {"done": 3}
    assert desk.wait(session, two, 0) == {"done": 0}
    desk.finish([b"first"])
    assert desk.wait(session, one, 0) == b"first"
    assert desk.wait(session, one, 0) == b"first", "until the client says that it has it"
    desk.release(one)
    refused(RESTARTED, desk.wait, session, one, 0)
    assert desk.begin() is not None


def test_a_group_is_written_when_all_its_parts_are_there(desk: Desk) -> None:
    session = desk.open(asked())["session"]
    names = [name() for _ in range(3)]
    for part in (2, 0, 1):
        assert desk.begin() is None
        group = Group("step", part, 3)
        desk.submit(session, names[part], "write", START, group, str(part).encode())
    work = desk.begin()
    assert work is not None and [part.body for part in work.parts] == [b"0", b"1", b"2"]
    desk.finish([b"a", b"b", b"c"])
    assert [desk.wait(session, each, 0) for each in names] == [b"a", b"b", b"c"]
    desk.submit(session, name(), "write", START, Group("next", 0, 2), b"")
    refused(BAD_REQUEST, desk.submit, session, name(), "write", START, Group("next", 0, 2), b"")


def test_new_weights_hold_from_the_moment_the_engine_has_them(desk: Desk) -> None:
    session = desk.open(asked())["session"]
    loading = name()
    desk.submit_load(session, loading, "w1", ["file"])
    refused(OTHER_WEIGHTS, desk.submit, session, name(), "write", "w1", None, b"")
    old = name()
    desk.submit(session, old, "write", START, None, b"")
    work = desk.begin()
    assert work is not None and work.do == "load" and desk.described()["state"] == "updating"
    assert desk.weights == START
    desk.finish([b""])
    assert desk.weights == "w1"
    assert desk.begin() is None, "what was asked of the old weights is not written with new ones"
    assert refused(OTHER_WEIGHTS, desk.wait, session, old, 0).more == {"have": "w1"}
    desk.submit(session, name(), "write", "w1", None, b"")


def test_an_engine_that_ends_takes_its_weights_and_all_work_along(desk: Desk) -> None:
    session = desk.open(asked())["session"]
    running, due, gathering = name(), name(), name()
    desk.submit(session, running, "write", START, None, b"")
    desk.submit(session, due, "write", START, None, b"")
    desk.submit(session, gathering, "write", START, Group("g", 0, 2), b"")
    desk.begin()
    desk.weights = "w7"
    desk.engine_down("killed")
    for each in (running, due, gathering):
        assert refused(RESTARTED, desk.wait, session, each, 0).message == "killed"
    refused(STARTING, desk.submit, session, name(), "write", "w7", None, b"")
    refused(STARTING, desk.open, asked())
    refused(RESTARTED, desk.submit_load, session, name(), "w8", [])
    desk.engine_up(INFO)
    assert desk.described()["restarts"] == 1
    refused(OTHER_WEIGHTS, desk.submit, session, name(), "write", "w7", None, b"")


def test_what_nobody_fetches_is_thrown_away_and_too_much_is_not_taken(
    desk: Desk, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = desk.open(asked())["session"]
    left = name()
    desk.submit(session, left, "write", START, None, b"")
    desk.begin()
    desk.finish([b"x" * 100])
    monkeypatch.setattr("r1pipe.serving.desk.MOST_WAITING", 150)
    refused(BUSY, desk.submit, session, name(), "write", START, None, b"x" * 100)
    now.seconds += 601
    desk.submit(session, name(), "write", START, None, b"x" * 100)
    refused(RESTARTED, desk.wait, session, left, 0)


def test_a_client_that_leaves_stops_its_writing(desk: Desk) -> None:
    session = desk.open(asked())["session"]
    desk.submit(session, name(), "write", START, None, b"")
    desk.begin()
    stopped = []
    desk.cancel = lambda: stopped.append(True)
    desk.leave("somebody else")
    assert not stopped
    desk.leave(session)
    assert stopped
    desk.fail(Refusal(409, BAD_REQUEST, "nobody waited"))
    assert desk.begin() is None
