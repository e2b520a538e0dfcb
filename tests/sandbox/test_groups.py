"""Control groups of version 2, on plain files: this machine may have version 1 only."""

from __future__ import annotations

from pathlib import Path

from r1pipe.sandbox.jail.groups import Group


def _unified(path: Path) -> Group:
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs"):
        (path / name).write_text("")
    (path / "memory.current").write_text("4096\n")
    (path / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n")
    (path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    places = dict.fromkeys(("memory", "pids", "cpuacct"), str(path))
    return Group(places, unified=True)


def test_limits_are_written(tmp_path: Path) -> None:
    group = _unified(tmp_path)
    group.prepare(1 << 20, 8)
    group.join(42)
    read = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert (read["memory.max"], read["memory.swap.max"]) == ("1048576", "0")
    # process 1 of the sandbox counts too
    assert (read["pids.max"], read["cgroup.procs"]) == ("9", "42")


def test_counters_start_anew_with_each_run(tmp_path: Path) -> None:
    group = _unified(tmp_path)
    group.prepare(1 << 20, 8)
    assert (group.oom_kills(), group.cpu_s()) == (0, 0.0)
    (tmp_path / "memory.events").write_text("oom 2\noom_kill 5\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 3500000\n")
    assert (group.oom_kills(), group.cpu_s()) == (3, 2.0)
    assert group.memory_bytes() == 4096
