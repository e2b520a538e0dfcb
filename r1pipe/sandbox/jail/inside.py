"""Process 1 of a sandbox: sets up the isolation, starts the program, reaps, reports its end."""

from __future__ import annotations

import os
import resource
import signal
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import filter as seccomp
from . import kernel, root, rules

UID = GID = 1000  # as the program sees itself
OPEN_FILES = 256
_STACK_BYTES = 8 << 20


@dataclass
class Job:
    """One run as the supervisor hands it on: what to start, with which limits, how isolated."""

    argv: list[str]
    environment: dict[str, str]
    files: dict[str, memoryview]
    limits: dict[str, Any]
    plan: dict[str, Any]
    host_uid: int  # the user of this run as seen outside
    host_gid: int
    pass_fds: dict[int, int] = field(default_factory=dict)  # number inside: number here


class _Report:
    """The channel to the supervisor; the program never holds it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        os.write(self._fd, kind + payload)


def run_as_init(job: Job, stdio: tuple[int, int, int], report_fd: int, go_fd: int) -> NoReturn:
    """Be process 1 until the program ends; never returns."""
    report = _Report(report_fd)
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if os.read(go_fd, 1) != b"g":
            os._exit(1)
        os.close(go_fd)
        kernel.close_all_but({*stdio, report_fd, *job.pass_fds.values()})
        _isolate(job)
        put_files(job.files)
        report.send(b"S")
        child = os.fork()
        if child == 0:
            _become_program(job, stdio, report_fd)
        for fd in {*stdio, *job.pass_fds.values()}:
            os.close(fd)
        seccomp.install()
        status = _reap_until(child)
        report.send(b"X", status.to_bytes(4, "little"))
    except BaseException as problem:
        report.send(b"E", f"{type(problem).__name__}: {problem}".encode(errors="replace")[:4000])
        os._exit(1)
    os._exit(0)


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _isolate(job: Job) -> None:
    """Build the root, leave every privilege behind; the order matters."""
    plan = job.plan
    own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # only makes the machine's own out-of-memory choice less apt
    uid, gid = job.host_uid, job.host_gid
    if plan["user"] == "namespace":
        _map_ids(own, uid, gid)
        uid, gid = UID, GID
    if plan["processes"] == "pid_max":
        _bound_pids(job.limits["processes"])
    kernel.set_hostname("sandbox")
    inodes = job.limits["files"] + len(job.files) + 4
    size = job.limits["tmp_bytes"] + sum(map(len, job.files.values()))
    options = f"size={size},nr_inodes={inodes},mode=755,uid={uid},gid={gid}"
    nested = plan["user"] == "namespace" or plan["nested"]
    root.build(plan["visible"], options, *((UID, GID) if nested else (uid, gid)))
    if plan["user"] == "own":
        os.chown(root.WORK, uid, gid)
        kernel.drop_bounding_set()
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if nested:
            kernel.unshare(kernel.CLONE_NEWUSER)
            _map_ids(own, uid, gid)
    os.close(own)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if nested:
        kernel.drop_bounding_set()
        kernel.prctl(kernel.PR_SET_SECUREBITS, kernel.SECUREBITS)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    # A change of credentials clears it, so it is asked for last.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(root.WORK)


def _map_ids(own: int, uid: int, gid: int) -> None:
    # New credentials make a process non-dumpable, and then its /proc files belong to root.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{UID} {uid} 1"),
        ("gid_map", f"{GID} {gid} 1"),
    ):
        fd = os.open(name, os.O_WRONLY, dir_fd=own)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _bound_pids(processes: int) -> None:
    """Bound processes by kernel.pid_max of this PID namespace (Linux 6.14).

    The kernel takes no less than 301 and never reuses numbers below 300, so up to 300 more
    processes than asked for can be alive.
    """
    with open("/proc/sys/kernel/pid_max", "w") as file:
        file.write(str(302 + processes))


def put_files(files: dict[str, memoryview]) -> None:
    for name, content in files.items():
        if os.path.dirname(name):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "xb") as file:
            file.write(content)


def set_limits(limits: dict[str, Any], processes: int | None) -> None:
    """Set the rlimits of the calling process (units: bytes, seconds, counts)."""
    cpu = max(1, int(limits["cpu_s"] + 0.999))
    # Address space is not memory: thread stacks and arenas are reserved, hardly touched.
    space = 2 * limits["memory_bytes"] + (1 << 30)
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: (space, space),
        resource.RLIMIT_FSIZE: (limits["file_bytes"], limits["file_bytes"]),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_MEMLOCK: (1 << 16, 1 << 16),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (1024, 1024),
        resource.RLIMIT_NICE: (0, 0),
        resource.RLIMIT_RTPRIO: (0, 0),
    }
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = (processes, processes)
    for name, (soft, hard) in wanted.items():
        _, most = resource.getrlimit(name)
        if most != resource.RLIM_INFINITY:
            hard = min(hard, most)
        resource.setrlimit(name, (min(soft, hard), hard))
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    if most == resource.RLIM_INFINITY or most > _STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, most))


def place_descriptors(stdio: tuple[int, int, int], passed: dict[int, int], extra: int) -> int:
    """Put stdio at 0 to 2 and each passed descriptor at its number; everything else closes.

    Returns the new number of `extra`, which closes on exec as well.
    """
    import fcntl

    high = 400
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high) for fd in stdio]
    extra = fcntl.fcntl(extra, fcntl.F_DUPFD_CLOEXEC, high)
    later = {to: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high) for to, fd in passed.items()}
    kernel.close_on_exec(3)
    for number, fd in enumerate(moved):
        os.dup2(fd, number)
    for number, fd in later.items():
        os.dup2(fd, number)
    return extra


def _become_program(job: Job, stdio: tuple[int, int, int], report_fd: int) -> NoReturn:
    """Give up the rest and execute the program."""
    try:
        os.setsid()
        report_fd = place_descriptors(stdio, job.pass_fds, report_fd)
        if job.plan["landlock"]:
            rules.restrict(job.plan["landlock"], root.WRITABLE, root.DEVICES)
        seccomp.install()
        # Process 1 counts too.
        set_limits(job.limits, job.limits["processes"] + 1)
        execute(job.argv, job.environment)
    except BaseException as problem:
        text = f"{type(problem).__name__}: {problem}"
        os.write(report_fd, b"E" + text.encode(errors="replace")[:4000])
    os._exit(127)


def execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process, with every signal as it is by default."""
    os.umask(0o022)
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment)
