"""The killable workers: what hangs costs its limit, what is honest is answered, nothing stays."""

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.rewards import killable
from r1pipe.rewards.killable import Done, Failed, TimedOut, WorkersUnavailable, run_all, shut_down
from r1pipe.rewards.killable_tasks import Task

HERE = str(Path(__file__).parent)
ROOT = str(Path(killable.__file__).parents[2])


@pytest.fixture(autouse=True, scope="module")
def _functions_of_this_folder():
    shut_down()
    trusted, killable.TRUSTED = killable.TRUSTED, ("r1pipe.", "slow_functions:")
    sys.path.append(HERE)
    yield
    shut_down()
    sys.path.remove(HERE)
    killable.TRUSTED = trusted


def call(name: str, *values, **options):
    return run_all(f"slow_functions:{name}", [(value,) for value in values], **options)


def server_pid() -> int:
    """Return the pid of the server: the parent of a worker."""
    (worker,) = call("pid", random.random())
    status = Path(f"/proc/{worker.value}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def processes_in_session(session: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if folder.name.isdigit() and int(fields[3]) == session:
            found.append(int(folder.name))
    return found


def wait_until_gone(session: int) -> list[int]:
    deadline = time.monotonic() + 3
    while (left := processes_in_session(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def test_order_is_kept_and_equal_calls_are_one() -> None:
    assert call("echo", 3, 1, 2, 1) == [Done(3), Done(1), Done(2), Done(1)]
    assert run_all("slow_functions:echo", []) == []
    once, again, _ = call("pid", "a", "a", "b")
    assert once == again
    assert call("pid", "a") == [once]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, deadline=None)
@given(plain)
def test_plain_data_survives(value) -> None:
    assert call("echo", value) == [Done(value)]


def test_every_string_survives() -> None:
    strings = ["\0", "\ud800", "\udfff\ud800", "\ud83d\ude00", "𝛑", "x" * 1_000_000, ""]
    assert [outcome.value for outcome in call("echo", *strings)] == strings


@pytest.mark.parametrize("name", ["spin", "ignore_signals", "power", "sleep"])
def test_what_hangs_is_killed_at_its_limit(name: str) -> None:
    start = time.monotonic()
    assert call(name, 1, timeout=0.3) == [TimedOut()]
    assert time.monotonic() - start < 30  # loose: the machine may be busy


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("recur", "RecursionError"),
        ("die", "WorkerDied"),
        ("fail", "ValueError"),
        ("leave", "SystemExit"),
        ("unspeakable", "TypeError"),
    ],
)
def test_what_fails_says_how(name: str, kind: str) -> None:
    failed, after = run_all("slow_functions:any_of", [(name, 1), ("echo", 2)])
    assert isinstance(failed, Failed) and failed.kind == kind and failed.message
    assert after == Done(2)


def test_memory_is_bounded() -> None:
    (outcome,) = call("eat", 1, timeout=20)
    assert isinstance(outcome, Failed) and outcome.kind == "MemoryError"


def test_64_hanging_calls_of_1024_do_not_add_up() -> None:
    kinds = ["spin", "ignore_signals", "power", "eat", "sleep"]
    chosen = random.Random(0).sample(range(1024), 64)
    calls = [("work", 0.001, index) for index in range(1024)]
    for place, index in enumerate(chosen):
        calls[index] = (kinds[place % len(kinds)], index)
    start = time.monotonic()
    outcomes = run_all("slow_functions:any_of", calls)
    assert time.monotonic() - start < 50  # one after another they would take 64
    for asked, outcome in zip(calls, outcomes, strict=True):
        if asked[0] == "work":
            assert outcome == Done(0.001)
        else:
            assert not isinstance(outcome, Done)


@pytest.mark.parametrize(
    ("used", "worked", "ends"),
    [(0.0, 0.29, False), (0.0, 0.31, True), (0.09, 0.2, False), (0.11, 0.11, True)],
)
def test_a_late_batch_spares_what_had_no_core(used: float, worked: float, ends: bool) -> None:
    batch = SimpleNamespace(timeout=1.0, count=1024, started=0.0, slow_seconds=99.0, queued=[1])
    task = Task(cast(Any, batch), 0, b"", worked=worked, used=used, ran=worked)
    assert task.is_spent(now=7.5, cores=2) is ends
    assert not task.is_spent(now=6.5, cores=2)


def test_slow_honest_calls_live_beside_those_that_hang() -> None:
    calls = [("work", 0.25, 1), *(("spin", index) for index in range(6)), ("work", 0.25, 2)]
    # The limit also sets how long the batch may take, on a machine that others keep busy too.
    outcomes = run_all("slow_functions:any_of", calls, timeout=3)
    assert outcomes == [Done(0.25), *[TimedOut()] * 6, Done(0.25)]


def test_waiting_for_a_busy_core_is_not_counted() -> None:
    cores = len(os.sched_getaffinity(0))
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * cores)
    ]
    try:
        assert call("work", 0.3, timeout=0.6) == [Done(0.3)]
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_small_batches_do_not_wait_for_large_ones() -> None:
    with ThreadPoolExecutor(2) as threads:
        large = threads.submit(call, "work", *(0.02 + i * 1e-9 for i in range(100)))
        time.sleep(0.1)
        assert call("echo", "small") == [Done("small")]
        assert not large.done()
        assert len(large.result()) == 100


def test_threads_forks_spawned_processes_and_loops_get_the_same() -> None:
    calls = [("echo", 1), ("fail", "luck"), ("spin", 2), ("recur", 3)]

    def verdicts() -> list[str]:
        return [type(o).__name__ for o in run_all("slow_functions:any_of", calls, timeout=0.2)]

    expected = ["Done", "Failed", "TimedOut", "Failed"]
    assert verdicts() == expected
    with ThreadPoolExecutor(4) as threads:
        assert [f.result() for f in [threads.submit(verdicts) for _ in range(8)]] == [expected] * 8

    async def in_a_loop() -> list[str]:
        return verdicts()

    assert asyncio.run(in_a_loop()) == expected
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=_in_a_process, args=(queue, HERE, calls))
        process.start()
        names, session = queue.get()
        process.join(10)
        assert names == expected and process.exitcode == 0
        assert session != server_pid()
        assert wait_until_gone(session) == []


def _in_a_process(queue, folder, calls) -> None:
    if folder not in sys.path:
        sys.path.append(folder)
    killable.TRUSTED = ("r1pipe.", "slow_functions:")
    names = [type(o).__name__ for o in run_all("slow_functions:any_of", calls, timeout=0.2)]
    queue.put((names, server_pid()))


def test_a_fork_does_not_inherit_a_locked_pool() -> None:
    thread = threading.Thread(target=call, args=("work", 0.5001))
    thread.start()
    time.sleep(0.1)
    pool = killable._pool()
    with pool._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if call("echo", "forked") == [Done("forked")] else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert call("echo", "still here") == [Done("still here")]


def test_an_outer_alarm_is_left_alone_and_may_interrupt() -> None:
    class Rang(BaseException):
        pass

    def ring(*_) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        assert call("spin", "x", timeout=0.2) == [TimedOut()]
        assert 58 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Rang):
            call("sleep", 5, timeout=30)
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert call("echo", "after") == [Done("after")]


def test_a_killed_server_is_replaced_and_the_batch_run_again() -> None:
    server = server_pid()
    with ThreadPoolExecutor(2) as threads:
        batches = [
            threads.submit(call, "work", *(0.02 + i * 1e-9 + j * 1e-6 for i in range(30)))
            for j in range(2)
        ]
        time.sleep(0.15)
        os.kill(server, signal.SIGKILL)
        assert all(isinstance(o, Done) for batch in batches for o in batch.result())
    assert server_pid() != server
    assert wait_until_gone(server) == []


def test_a_killed_worker_costs_nothing() -> None:
    with ThreadPoolExecutor(1) as threads:
        batch = threads.submit(call, "work", 0.3003)
        time.sleep(0.1)
        server = server_pid()
        os.kill(server, signal.SIGSTOP)  # or it hands the call to a worker that dies next
        for pid in processes_in_session(server):
            if pid != server:
                os.kill(pid, signal.SIGKILL)
        os.kill(server, signal.SIGCONT)
        assert batch.result() == [Done(0.3003)]


def run_program(body: str, **options) -> subprocess.Popen:
    head = f"""
    import os, sys, time
    sys.path += [{ROOT!r}, {HERE!r}]
    from r1pipe.rewards import killable
    killable.TRUSTED = ("slow_functions:",)
    run_all = killable.run_all
    """
    program = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, **options)


def test_a_killed_parent_leaves_nothing_behind() -> None:
    program = run_program("""
        import threading
        (worker,) = run_all("slow_functions:pid", [(1,)])
        print(os.getsid(worker.value), flush=True)
        calls = [("sleep", 1), ("spin", 2), ("ignore_signals", 3), ("spin", 4), ("spin", 5)]
        run_all("slow_functions:any_of", calls, timeout=60)
    """)
    with program:
        session = int(program.stdout.readline())
        time.sleep(0.3)
        assert len(processes_in_session(session)) > 3
        program.kill()
    assert wait_until_gone(session) == []


@pytest.mark.parametrize("end", ["", "sys.exit(1)", "os._exit(0)", "raise ValueError"])
def test_nothing_is_left_at_exit(end: str) -> None:
    program = run_program(
        """
        (worker,) = run_all("slow_functions:pid", [(1,)])
        print(os.getsid(worker.value), flush=True)
        """
        + end,
        stderr=subprocess.DEVNULL,
    )
    with program:
        session = int(program.stdout.readline())
    assert wait_until_gone(session) == []


def test_a_server_started_by_a_thread_outlives_it() -> None:
    shut_down()
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(server_pid()))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert [server_pid()] == seen


def test_it_works_with_closed_standard_streams_and_signals_off(tmp_path: Path) -> None:
    program = run_program(f"""
        import signal
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        calls = [("echo", 1), ("spin", 2), ("fail", 3)]
        names = [type(o).__name__ for o in run_all("slow_functions:any_of", calls, timeout=0.2)]
        open({str(tmp_path / "names")!r}, "w").write(" ".join(names))
    """)
    assert program.wait(20) == 0
    assert (tmp_path / "names").read_text() == "Done TimedOut Failed"


def test_workers_see_no_secret_and_no_file(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    shut_down()
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)
        (outcome,) = call("environment", 1)
    names, files = outcome.value
    assert "HF_TOKEN" not in names
    assert set(files) <= {os.devnull} | {f for f in files if f.startswith("/proc/")}


def test_names_and_limits_are_checked() -> None:
    for name in ("os:system", "r1pipe.rewards", "r1pipe.rewards.text:a b", "r1pipe.x;y:z"):
        with pytest.raises(ValueError, match="does not name"):
            run_all(name, [("x",)])
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive"):
            call("echo", 1, timeout=limit)
    for name in ("nothing", "missing.module"):
        with pytest.raises(RuntimeError, match="cannot be called"):
            call(name.replace(".", "_"), 1)
    with pytest.raises(TypeError):
        call("echo", {1, 2})


def test_a_machine_without_processes_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkersUnavailable, match="no process can be started"):
        call("echo", "new")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkersUnavailable, match="did not start"):
        call("echo", "new")
    monkeypatch.undo()
    assert call("echo", "new") == [Done("new")]
