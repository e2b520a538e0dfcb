"""The interface: descriptors, deadlines, threads, what is left behind, and who may be killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r1pipe import sandbox
from r1pipe.sandbox import Limits, client, plan
from tests.sandbox.conftest import processes_with

PYTHON = sandbox.PYTHON
pytestmark = pytest.mark.usefixtures("available")


def _run(text: str, **options) -> sandbox.Result:
    return sandbox.run([PYTHON, "-c", text], **options)


def test_passed_descriptors_and_no_others() -> None:
    read, write = os.pipe()
    inherited = os.open("/etc/hostname" if os.path.exists("/etc/hostname") else "/", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    text = """
import os
os.write(77, b'through')
print([fd for fd in range(3, 500) if os.path.exists(f'/dev/fd/{fd}') and fd != 77])
"""
    result = _run(text, pass_fds={77: write})
    os.close(write)
    os.close(inherited)
    with open(read, "rb") as file:
        # End of file: nobody else holds the other end.
        assert file.read() == b"through"
    assert result.status == "exited"


def test_descriptors_may_swap_numbers() -> None:
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    _run("import os; os.write(3, b'three'); os.write(4, b'four')", pass_fds={3: w2, 4: w1})
    for fd in (w1, w2):
        os.close(fd)
    with open(r1, "rb") as first, open(r2, "rb") as second:
        assert (first.read(), second.read()) == (b"four", b"three")


def test_files_appear_with_their_directories() -> None:
    files = {"main.py": b"print(open('a/b/c.bin', 'rb').read())", "a/b/c.bin": b"\x00\xff"}
    assert sandbox.run([PYTHON, "main.py"], files=files).stdout == b"b'\\x00\\xff'\n"


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../b", "a//b", ".", "x\0y"])
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(ValueError, match="plain relative path"):
        _run("pass", files={name: b""})


@pytest.mark.parametrize("limit", [{"wall_s": 0}, {"processes": -1}, {"files": 1.5}])
def test_limits_are_checked(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive number"):
        Limits(**limit)  # type: ignore[arg-type]


def test_program_that_does_not_exist_has_failed() -> None:
    result = sandbox.run(["/no/such/program"])
    assert (result.status, result.exit_code) == ("failed", None)
    assert b"No such file" in result.stderr


def test_kill_from_another_thread() -> None:
    with sandbox.start([PYTHON, "-c", "while True: pass"]) as run:
        threading.Timer(0.3, run.kill).start()
        started = time.monotonic()
        assert (run.wait().status, run.wait().exit_code) == ("signalled", -signal.SIGKILL)
    assert time.monotonic() - started < 30  # loose: the machine may be busy


def test_leaving_the_block_kills() -> None:
    marker = f"left-{os.getpid()}-{time.time_ns()}"
    with sandbox.start([PYTHON, "-c", "import time; time.sleep(60)", marker]):
        while not processes_with(marker):
            time.sleep(0.01)
    assert processes_with(marker) == []


def test_a_forgotten_run_is_killed() -> None:
    marker = f"forgotten-{os.getpid()}-{time.time_ns()}"
    run = sandbox.start([PYTHON, "-c", "import time; time.sleep(60)", marker])
    while not processes_with(marker):
        time.sleep(0.01)
    del run
    gc.collect()
    _until(lambda: processes_with(marker) == [])


def _until(condition, patience_s: float = 5.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_many_threads_at_once() -> None:
    def one(i: int) -> bytes:
        return _run(f"print({i})", limits=Limits(wall_s=30)).stdout

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(64))) == [f"{i}\n".encode() for i in range(64)]


def _state() -> dict[str, object]:
    """What a leak would show in: descriptors, mounts, temporary files, threads."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "temporary": sorted(n for n in os.listdir(tempfile.gettempdir()) if "r1pipe" in n),
        "threads": threading.active_count(),
    }


def test_nothing_leaks() -> None:
    _run("pass")
    before = _state()
    with ThreadPoolExecutor(4) as pool:
        texts = ["print(1)", "import os; os.fork(); os._exit(0)", "raise SystemExit(2)", "1/0"]
        list(pool.map(_run, texts * 15))
    with pytest.raises(ValueError):
        _run("pass", files={"..": b""})
    gc.collect()
    assert _state() == before


def test_no_cgroup_stays() -> None:
    _run("pass")
    zygote = client.zygote(plan.plan_for("sandbox")["wanted"])
    prefix = f"r1pipe-{zygote._process.pid}-"
    client.close_all()
    tops = os.walk("/sys/fs/cgroup")
    assert [name for _, names, _ in tops for name in names if name.startswith(prefix)] == []


CALLER = """
import sys, time
from r1pipe import sandbox
marker = sys.argv[1]
text = "import os, time\\nos.fork()\\ntime.sleep(60)"
runs = [sandbox.start([sandbox.PYTHON, "-c", text, marker]) for _ in range(3)]
print("started", flush=True)
time.sleep(60)
"""


def _caller(marker: str, text: str = CALLER) -> subprocess.Popen:
    root = str(Path(client.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", text, marker],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_killing_the_caller_kills_every_tree() -> None:
    marker = f"orphan-{os.getpid()}-{time.time_ns()}"
    with _caller(marker) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == b"started\n"
        _until(lambda: len(processes_with(marker)) >= 7)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        _until(lambda: processes_with(marker) == [])


def test_a_caller_that_exits_does_not_wait_for_its_runs() -> None:
    marker = f"exits-{os.getpid()}-{time.time_ns()}"
    started = time.monotonic()
    with _caller(marker, CALLER.rpartition("time")[0]) as caller:
        caller.wait()
    assert time.monotonic() - started < 30
    assert processes_with(marker) == []


def test_killing_the_zygote_kills_the_trees_and_the_next_run_works() -> None:
    marker = f"zygote-{os.getpid()}-{time.time_ns()}"
    held = sandbox.start([PYTHON, "-c", "import time; time.sleep(60)", marker])
    _until(lambda: len(processes_with(marker)) == 1)
    os.kill(client.zygote(plan.plan_for("sandbox")["wanted"])._process.pid, signal.SIGKILL)
    assert held.wait().status == "failed"
    _until(lambda: processes_with(marker) == [])
    assert _run("print('again')").stdout == b"again\n"


def test_started_in_a_thread_that_ends() -> None:
    held: list[sandbox.Run] = []
    text = "import time; time.sleep(0.5); print('alive')"
    thread = threading.Thread(target=lambda: held.append(sandbox.start([PYTHON, "-c", text])))
    thread.start()
    thread.join()
    assert held[0].wait().stdout == b"alive\n"


def test_works_in_a_forked_child() -> None:
    _run("pass")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if _run("print('child')").stdout == b"child\n" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert _run("print('parent')").stdout == b"parent\n"


def test_a_hang_costs_little_more_than_its_limit() -> None:
    _run("pass")
    started = time.monotonic()
    assert _run("while True: pass", limits=Limits(wall_s=1.0)).status == "wall"
    assert time.monotonic() - started < 30  # and not 60


def test_no_sandbox_is_an_error_and_never_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_found", None)
    monkeypatch.setattr(plan, "_why_not", None)
    monkeypatch.setattr(plan, "_try", lambda _: "clone: Operation not permitted")
    for attempt in (lambda: sandbox.require("sandbox"), lambda: _run("pass")):
        with pytest.raises(sandbox.SandboxUnavailable, match="Operation not permitted"):
            attempt()
    sandbox.require("process")


def test_unknown_isolation_is_refused() -> None:
    with pytest.raises(ValueError, match="isolation"):
        sandbox.require("none")  # type: ignore[arg-type]


def test_describe_names_every_layer() -> None:
    told = sandbox.describe()
    assert {"namespaces", "seccomp", "landlock", "processes", "memory", "cpu"} <= set(told)


class TestProcessIsolation:
    """For trusted programs: limits and a clean end, nothing hidden."""

    def test_runs_with_a_scrubbed_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("R1_SECRET", "x")
        text = "import os; print(os.environ.get('R1_SECRET'), sorted(os.listdir()))"
        files = {"a.txt": b"1"}
        result = sandbox.run([PYTHON, "-c", text], files=files, isolation="process")
        assert result.stdout == b"None ['a.txt']\n"

    def test_kills_what_it_started(self) -> None:
        marker = f"plain-{os.getpid()}-{time.time_ns()}"
        text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)"
        argv = [PYTHON, "-c", text, marker]
        assert sandbox.run(argv, isolation="process").status == "exited"
        assert processes_with(marker) == []

    def test_holds_its_limits(self) -> None:
        limits = Limits(wall_s=0.5, memory_bytes=100 << 20)
        for text, status in (
            ("while True: pass", "wall"),
            ("while True: print('x' * 10000)", "output"),
            ("import time; x = b'x' * (150 << 20); time.sleep(9)", "memory"),
        ):
            argv = [PYTHON, "-c", text]
            assert sandbox.run(argv, limits=limits, isolation="process").status == status

    def test_leaves_no_directory(self) -> None:
        before = sorted(os.listdir(tempfile.gettempdir()))
        text = "import os; os.makedirs('a/b'); os.chmod('a', 0)"
        sandbox.run([PYTHON, "-c", text], isolation="process")
        assert sorted(os.listdir(tempfile.gettempdir())) == before
