"""Control groups (v1 and v2): memory, CPU time and processes of a whole process tree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

PREFIX = "r1pipe-"
_LEFT_OVER = 16 << 20
_MOST_FREE = 64


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


def _own_directories() -> Iterator[tuple[set[str], str, str]]:
    """Yield controllers ({"v2"} for the unified one), mount point, and our own directory."""
    with open("/proc/self/cgroup") as file:
        paths = {}
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            paths[frozenset(names.split(",")) if names else frozenset({"v2"})] = path
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, after = line.split(" - ", 1)
            top, point = map(_unescape, before.split()[3:5])
            kind, _, options = after.split()[:3]
            if kind not in ("cgroup", "cgroup2"):
                continue
            held = {"v2"} if kind == "cgroup2" else set(options.split(","))
            for names, path in paths.items():
                if names <= held:
                    inside = os.path.relpath(path, top) if top != "/" else path.lstrip("/")
                    if not inside.startswith(".."):
                        yield set(names), point, os.path.normpath(os.path.join(point, inside))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _number(text: str, key: str) -> int:
    found = re.search(rf"^{key} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


@dataclass
class Group:
    """One reusable group: a directory in each hierarchy in use ("memory", "cpuacct", "pids")."""

    places: dict[str, str]
    unified: bool

    def prepare(self, memory_bytes: int, processes: int) -> None:
        """Set the limits for the next run and remember the counters as they are."""
        for path in set(self.places.values()):
            os.makedirs(path, exist_ok=True)
        if path := self.places.get("memory"):
            if self.unified:
                _write(f"{path}/memory.max", str(memory_bytes))
                with suppress(OSError):
                    _write(f"{path}/memory.swap.max", "0")
                with suppress(OSError):
                    _write(f"{path}/memory.oom.group", "1")
            else:
                self._limit_v1(path, memory_bytes)
        if path := self.places.get("pids"):
            _write(f"{path}/pids.max", str(processes + 1))
        self._ooms, self._cpu_s = self._count_ooms(), self._count_cpu()

    def _limit_v1(self, path: str, memory_bytes: int) -> None:
        both, memory = f"{path}/memory.memsw.limit_in_bytes", f"{path}/memory.limit_in_bytes"
        if not os.path.exists(both):
            _write(memory, str(memory_bytes))
            with suppress(OSError):
                _write(f"{path}/memory.swappiness", "0")
            return
        # the sum with swap may never be the lower of the two, whichever way the limit moves
        _write(both, "-1")
        _write(memory, str(memory_bytes))
        _write(both, str(memory_bytes))

    def memory_bytes(self) -> int:
        """Return what is charged to the group now."""
        name = "memory.current" if self.unified else "memory.usage_in_bytes"
        return int(_read(f"{self.places['memory']}/{name}") or 0) if "memory" in self.places else 0

    def join(self, pid: int) -> None:
        """Move a process in."""
        for path in set(self.places.values()):
            _write(f"{path}/cgroup.procs", str(pid))

    def _count_ooms(self) -> int:
        if path := self.places.get("memory"):
            name = "memory.events" if self.unified else "memory.oom_control"
            return _number(_read(f"{path}/{name}"), "oom_kill")
        return 0

    def _count_cpu(self) -> float:
        if path := self.places.get("cpuacct"):
            if self.unified:
                return _number(_read(f"{path}/cpu.stat"), "usage_usec") / 1e6
            return int(_read(f"{path}/cpuacct.usage") or 0) / 1e9
        return 0.0

    def oom_kills(self) -> int:
        """Return the processes killed for memory in this run."""
        return self._count_ooms() - self._ooms

    def cpu_s(self) -> float | None:
        """Return the CPU seconds of this run's tree, None where nobody counts them."""
        return self._count_cpu() - self._cpu_s if "cpuacct" in self.places else None

    def remove(self) -> bool:
        """Remove the directories; False when something still lives in one."""
        gone = True
        for path in set(self.places.values()):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


def _remove_stale(parent: str) -> None:
    """Remove what a killed process left behind."""
    for name in os.listdir(parent):
        found = re.fullmatch(rf"{PREFIX}(\d+)-\d+", name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            with suppress(OSError):
                os.rmdir(f"{parent}/{name}")


class Groups:
    """Makes groups, reuses them (a dead memory group lingers in the kernel), removes them."""

    def __init__(self, wanted: set[str]) -> None:
        self._free: list[Group] = []
        self._made = 0
        self.unified = False
        self._parents: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._find(wanted)
        for parent in set(self._parents.values()):
            _remove_stale(parent)

    @property
    def controllers(self) -> list[str]:
        """The controllers that can be used here."""
        return sorted(self._parents)

    def _find(self, wanted: set[str]) -> None:
        own = list(_own_directories())
        for names, _, path in own:
            for name in (names & wanted) - {"v2"}:
                if self._usable({name: path}, unified=False):
                    self._parents[name] = path
        if self._parents:
            return
        for names, point, path in own:
            # The nearest ancestor that hands its controllers down; a group with processes
            # of its own (ours) cannot.
            while names == {"v2"} and path.startswith(point):
                given = set(_read(f"{path}/cgroup.subtree_control").split())
                found = dict.fromkeys(wanted & given, path)
                if "cpuacct" in wanted:  # cpu.stat counts without a controller
                    found["cpuacct"] = path
                if "memory" in found and self._usable(found, unified=True):
                    self._parents, self.unified = found, True
                    return
                path = os.path.dirname(path)

    def _usable(self, parents: dict[str, str], unified: bool) -> bool:
        """Try it out: make a group, set limits, move a process in."""
        group = self._make(parents, unified)
        try:
            group.prepare(64 << 20, 16)
            pid = os.fork()
            if pid == 0:
                try:
                    group.join(os.getpid())
                    os._exit(0)
                finally:
                    os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        except OSError:
            return False
        finally:
            group.remove()

    def _make(self, parents: dict[str, str], unified: bool) -> Group:
        self._made += 1
        name = f"{PREFIX}{os.getpid()}-{self._made}"
        return Group({c: f"{path}/{name}" for c, path in parents.items()}, unified)

    def take(self) -> Group | None:
        """Return a free group, None where there are none at all."""
        if not self._parents:
            return None
        # The kernel may give back the memory of a run a moment after its end.
        for group in self._free:
            if group.memory_bytes() < _LEFT_OVER or len(self._free) > _MOST_FREE:
                self._free.remove(group)
                return group
        return self._make(self._parents, self.unified)

    def give_back(self, group: Group) -> None:
        """Keep a group for the next run."""
        self._free.append(group)

    def close(self) -> None:
        """Remove all free groups."""
        for group in self._free:
            group.remove()
        self._free.clear()
