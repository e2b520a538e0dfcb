"""A process tree seen from outside: its memory and CPU time by sampling, and its end by force."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def _children_of(pid: int) -> list[int]:
    """Return the direct children of a process, over all of its threads."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def _all_children() -> dict[int, list[int]]:
    """Return the children of every process, for kernels without the `children` file."""
    found: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
            found.setdefault(parent, []).append(int(pid))
    return found


def descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = _children_of
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        below = _all_children()
        children = lambda member: below.get(member, [])  # noqa: E731
    found = [pid]
    for member in found:
        found += children(member)
    return found


class Sampler:
    """Adds up what the live processes of a tree use; what lives between two looks is missed."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._ticks: dict[tuple[int, int], int] = {}

    def sample(self) -> tuple[int, float, int]:
        """Return memory in bytes (not shared with files), CPU seconds so far, processes alive."""
        memory = 0
        members = descendants(self._top)
        for pid in members:
            try:
                with open(f"/proc/{pid}/statm") as file:
                    _, resident, shared = file.read().split()[:3]
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            memory += (int(resident) - int(shared)) * _PAGE
            self._ticks[pid, int(fields[19])] = int(fields[11]) + int(fields[12])
        return memory, sum(self._ticks.values()) / _TICKS, len(members)


def proportional_memory(top: int) -> int | None:
    """Return the memory of a tree with shared pages counted once, None where it may not be read."""
    total = 0
    for pid in descendants(top):
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")):
                        total += int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return None
    return total


def kill_descendants(top: int, patience_s: float = 2.0) -> None:
    """Kill everything below this process, which has to be a subreaper, until nothing is left."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        below = descendants(top)[1:]
        if not below:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in below:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)
