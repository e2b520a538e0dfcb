"""Programs that mean well: what a solution may use has to work."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
PROGRAMS = {
    case["name"]: case["program"]
    for case in yaml.safe_load((HERE / "honest.yaml").read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_honest_program_works(name: str, boxed) -> None:
    result = boxed(PROGRAMS[name])
    assert (result.status, result.exit_code) == ("exited", 0), result
    assert result.stdout == b"ok\n", result


def _installed(name: str) -> bool:
    """Whether it belongs to the interpreter, not to a path of the caller's."""
    found = importlib.util.find_spec(name)
    return bool(found and found.origin and found.origin.startswith((sys.prefix, sys.base_prefix)))


@pytest.mark.skipif(not _installed("numpy"), reason="no numpy in this environment")
def test_numpy_can_be_used(boxed) -> None:
    result = boxed(
        "import numpy as np\na = np.random.default_rng(0).random((300, 300))\n"
        "print(np.allclose(a @ np.linalg.inv(a), np.eye(300)))"
    )
    assert result.stdout == b"True\n", result


def test_memory_error_is_the_program_s_own(boxed) -> None:
    result = boxed("try:\n    bytearray(1 << 40)\nexcept MemoryError:\n    print('caught')")
    assert result.stdout == b"caught\n"


def test_large_input_and_output(boxed) -> None:
    text = os.urandom(3 << 20).hex().encode()
    result = boxed(
        "import hashlib\ndata = sys.stdin.buffer.read()\n"
        "print(hashlib.sha256(data).hexdigest(), flush=True)\nos.write(1, b'')\n"
        "sys.stdout.buffer.write(b'x' * (1 << 20))",
        stdin=text,
        output_bytes=2 << 20,
    )
    assert result.stdout == hashlib.sha256(text).hexdigest().encode() + b"\n" + b"x" * (1 << 20)


def test_input_that_nobody_reads(boxed) -> None:
    result = boxed("sys.stdin.close()\nos.close(0)\nprint('ok')", stdin=b"x" * (4 << 20))
    assert (result.status, result.stdout) == ("exited", b"ok\n")


def test_output_that_is_no_text(boxed) -> None:
    result = boxed(r"os.write(1, b'\xff\xfe\x00\x80'); os.write(2, b'\xed\xa0\x80')")
    assert (result.stdout, result.stderr) == (b"\xff\xfe\x00\x80", b"\xed\xa0\x80")


def test_program_of_one_megabyte(boxed) -> None:
    result = boxed("x = '" + "a" * (1 << 20) + "'\nprint(len(x))")
    assert result.stdout == b"1048576\n"


def test_exit_codes_and_signals(boxed) -> None:
    assert boxed("sys.exit(3)").exit_code == 3
    assert boxed("os._exit(0)").exit_code == 0
    killed = boxed("os.kill(os.getpid(), signal.SIGTERM)")
    assert (killed.status, killed.exit_code) == ("signalled", -15)


def test_closed_stdout_is_not_the_end(boxed) -> None:
    result = boxed("os.close(1)\nos.close(2)\ntime.sleep(0.3)\nos._exit(7)")
    assert (result.status, result.exit_code) == ("exited", 7)
    assert result.wall_s >= 0.3


def test_same_hash_seed_each_time(boxed) -> None:
    assert boxed("print(hash('a'))").stdout == boxed("print(hash('a'))").stdout


def test_nothing_stays_from_one_run_to_the_next(boxed) -> None:
    write = "[open(f'{p}/left', 'w').close() for p in ('/tmp', '/dev/shm', '.')]\nprint('ok')"
    assert boxed(write).stdout == b"ok\n"
    look = "print([p for p in ('/tmp', '/dev/shm', '.') if os.path.exists(p + '/left')])"
    assert boxed(look).stdout == b"[]\n"
