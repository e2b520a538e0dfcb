"""Programs that try to get out, to read what is not theirs, or to bring the machine down."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from r1pipe import sandbox
from r1pipe.sandbox.jail import filter as seccomp

HERE = Path(__file__).parent
PROGRAMS = {
    case["name"]: (case["program"], set(case["ends"]))
    for case in yaml.safe_load((HERE / "hostile.yaml").read_text(encoding="utf-8"))
}
LIMITS = {"wall_s": 0.8, "cpu_s": 0.6}
SLOW_TO_END = {"wall", "cpu"}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A file, a process, a directory and two servers that belong to the caller."""
    secret = tmp_path_factory.mktemp("outside") / "secret"
    secret.write_text("secret")
    os.environ["R1_SECRET"] = "secret"
    name = f"r1-abstract-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        yield [str(secret), str(os.getpid()), os.getcwd(), str(tcp.getsockname()[1]), name]
    del os.environ["R1_SECRET"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_contained(name: str, boxed, outside: list[str]) -> None:
    text, ways = PROGRAMS[name]
    hangs = bool(ways & SLOW_TO_END)
    result = boxed(text, *outside, **(LIMITS if hangs else {}))
    assert b"ESCAPED" not in result.stdout, result.stdout
    assert result.status in ways, result
    if ways == {"exited"}:
        assert result.exit_code == 0 and result.stdout.rstrip().endswith(b"done"), result
    if hangs:
        assert result.wall_s < 5


def test_the_filter_refuses_each_call_of_its_list(boxed) -> None:
    column = 0 if os.uname().machine == "x86_64" else 1
    numbers = {n: p[column] for n, p in seccomp._DENIED.items() if p[column] is not None}
    result = boxed(
        f"for name, number in {numbers!r}.items():\n"
        "    print(name, call(number, 0, 0, 0, 0, 0, 0), flush=True)\n"
    )
    told = dict(line.split() for line in result.stdout.decode().splitlines())
    assert {name: said for name, said in told.items() if said not in ("EPERM", "ENOSYS")} == {}
    assert set(told) == set(numbers)


def test_calls_newer_than_the_list_do_not_exist(boxed) -> None:
    result = boxed("print([call(n, 0, 0, 0, 0) for n in (463, 467, 500, 1000, 4000)])")
    assert result.stdout.split() == [b"['ENOSYS',", *[b"'ENOSYS',"] * 3, b"'ENOSYS']"]


def test_each_layer_is_there_although_another_would_do(boxed) -> None:
    if sandbox.describe()["proc"] == "empty":
        pytest.skip("needs a /proc inside")
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    if "user" in sandbox.describe()["namespaces"]:
        kinds.append("user")
    result = boxed(
        f"for kind in {kinds!r}: print(kind, os.readlink(f'/proc/self/ns/{{kind}}'))\n"
        "for place in ('/', '/usr', '/bin', '/etc', sys.prefix, sys.base_prefix, '/proc'):\n"
        "    flags = os.statvfs(place).f_flag\n"
        "    print(place, 'ok' if flags & os.ST_RDONLY and flags & os.ST_NOSUID else flags)\n"
        "for place in ('/sandbox', '/tmp', '/dev/shm'):\n"
        "    flags = os.statvfs(place).f_flag\n"
        "    print(place, 'ok' if flags & os.ST_NODEV and flags & os.ST_NOSUID else flags)\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line[:8] == 'Seccomp:'])"
    )
    lines = dict(line.split() for line in result.stdout.decode().splitlines()[:-1])
    for kind in kinds:
        assert lines.pop(kind) != os.readlink(f"/proc/self/ns/{kind}")
    assert set(lines.values()) == {"ok"}, lines
    assert result.stdout.endswith(b"['2']\n")


def test_what_it_printed_before_it_was_killed_is_kept(boxed) -> None:
    result = boxed("print('before', flush=True)\nwhile True: pass", wall_s=0.5)
    assert (result.status, result.stdout) == ("wall", b"before\n")
