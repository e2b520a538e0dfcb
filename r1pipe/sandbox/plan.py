"""How to isolate on this machine: finds it out by trying, once per process, and says what holds."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import sysconfig
import threading
from collections.abc import Iterator
from typing import Any

from r1pipe.sandbox import client
from r1pipe.sandbox.interface import Isolation, Limits, SandboxUnavailable
from r1pipe.sandbox.jail.kernel import supported_machine

PYTHON = sys.executable
"The interpreter as seen inside. As argv[0] it runs with -s -P: no user site, no script directory."

_ENVIRONMENT = {
    "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/sandbox",
    "LANG": "C.UTF-8",
    # The same program gets the same verdict each time.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # A pool per core would spend the process limit on import.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
if _LIBRARIES := ":".join(
    path
    for path in os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if path.startswith((sys.base_prefix + "/", sys.prefix + "/"))
):
    _ENVIRONMENT["LD_LIBRARY_PATH"] = _LIBRARIES
_FIRST_UID = 2_046_820_352  # a stretch that no distribution and no container runtime hands out
_UIDS = 4096

# Counts how many processes it can have, and looks for what must not be there.
_PROBE = """
import json, os, socket, sys, time
children = 0
try:
    for _ in range(600):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        children += 1
except OSError:
    pass
seen = [path for path in json.loads(sys.argv[1]) if os.path.exists(path)]
try:
    socket.socket().close()
    seen.append("sockets")
except OSError:
    pass
try:
    open("/usr/probe", "w").close()
    seen.append("a writable /usr")
except OSError:
    pass
status = open("/proc/self/status").read() if os.path.exists("/proc/self/status") else ""
print(json.dumps({"children": children, "seen": seen, "pid": os.getpid(), "status": status}))
"""
_PROBE_PROCESSES = 8

_lock = threading.Lock()
_found: dict[str, Any] | None = None
_why_not: SandboxUnavailable | None = None


def _hops(path: str) -> Iterator[str]:
    """Yield a path and what it links to, link by link."""
    for _ in range(40):
        yield path
        if not os.path.islink(path):
            return
        path = os.path.join(os.path.dirname(path), os.readlink(path))


def _python_directories() -> Iterator[str]:
    version = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    yield from (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    for hop in _hops(sys.executable):
        prefix = os.path.dirname(os.path.dirname(hop))
        if os.path.isdir(os.path.join(prefix, version)):
            yield os.path.normpath(prefix)
    paths = sysconfig.get_paths()
    yield from (paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _private() -> list[str]:
    """Return the caller's places: home, working directory, and the checkout this runs from."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = [os.path.expanduser("~"), os.getcwd()]
    if os.path.basename(checkout) not in ("site-packages", "dist-packages"):
        places.append(checkout)
    return sorted({os.path.realpath(place) for place in places} - {"/"})


def visible() -> list[tuple[str, str | None]]:
    """Return what the program may read, as pairs of the path inside and the resolved one.

    A prefix that holds the caller's home, working directory or checkout is narrowed to what
    Python needs; where one of these lies below a visible directory it is hidden (None).
    """
    wanted = {"/usr"}
    private = _private()
    for path in _python_directories():
        real = os.path.realpath(path)
        if any(_within(place, real) for place in private):
            wanted |= {os.path.join(path, p) for p in ("lib", "lib64", "bin", "pyvenv.cfg")}
        else:
            wanted |= {path, real}
    if os.path.realpath(sys.executable).startswith("/nix/store/"):
        wanted.add("/nix/store")
    needed = [os.path.realpath(p) for p in ("/usr/lib", "/usr/bin", sysconfig.get_path("stdlib"))]
    hidden = {
        place
        for place in private
        if any(_within(place, top) for top in wanted)
        and not any(_within(n, place) or _within(place, n) for n in needed)
    }
    kept: dict[str, str | None] = {}
    for path in sorted(wanted | hidden, key=lambda p: (p.count("/"), p)):
        nearest = max((k for k in kept if _within(path, k)), key=len, default=None)
        if path in hidden:
            kept[path] = None
        elif os.path.exists(path) and (nearest is None or kept[nearest] is None):
            kept[path] = os.path.realpath(path)
    return list(kept.items())


def _free_uid() -> int | None:
    """Return the first of a stretch of user ids that this user namespace maps and nobody has."""
    try:
        with open("/proc/self/uid_map") as users, open("/proc/self/gid_map") as groups:
            ranges = [[tuple(map(int, line.split())) for line in file] for file in (users, groups)]
    except OSError:
        return None
    top = min((max(first + n for first, _, n in spans) for spans in ranges if spans), default=0)
    for first in (_FIRST_UID, top - _UIDS):
        if all(any(f <= first and first + _UIDS <= f + n for f, _, n in s) for s in ranges):
            return first if first > 0 else None
    return None


def _candidates(cgroups: list[str], landlock: int) -> Iterator[dict[str, Any]]:
    """Yield plans, the best first."""
    first_uid = _free_uid() if os.geteuid() == 0 else None
    base = {
        "isolation": "sandbox",
        "visible": visible(),
        "landlock": landlock,
        "first_uid": first_uid,
        "groups": bool(cgroups),
        "wanted": "memory,cpuacct",
    }
    users = [("own", True), ("own", False)] if first_uid else []
    for user, nested in [*users, ("namespace", False)]:
        for processes in ("rlimit", "cgroup", "pid_max"):
            yield base | {"user": user, "nested": nested, "processes": processes}


def _try(plan: dict[str, Any]) -> str | None:
    """Run the probe under a plan; return what is wrong, None when it holds."""
    unseen = ["/root", "/home", "/sys", "/etc/shadow", "/proc/kcore", "/.old", os.getcwd()]
    shown = [inside for inside, outside in plan["visible"] if outside]
    unseen = [p for p in unseen if not any(_within(s, p) for s in shown)]
    limits = Limits(wall_s=20, cpu_s=20, processes=_PROBE_PROCESSES, memory_bytes=1 << 30)
    argv = [PYTHON, "-I", "-S", "-c", _PROBE, json.dumps(unseen)]
    with client.launch(argv, _ENVIRONMENT, {}, b"", limits, plan, {}) as run:
        result = run.wait()
    if result.status != "exited" or result.exit_code != 0:
        return result.stderr.decode(errors="replace").strip() or result.status
    told = json.loads(result.stdout)
    if told["seen"]:
        return f"still reachable inside: {', '.join(told['seen'])}"
    most = 320 if plan["processes"] == "pid_max" else 0
    if not 0 < told["children"] < _PROBE_PROCESSES + most:
        return f"the number of processes is not bounded by {plan['processes']}"
    for wanted in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
        if told["status"] and wanted not in told["status"]:
            return f"not in force: {wanted}"
    plan["proc"] = "private" if told["status"] else "empty"
    return None


def _probe() -> dict[str, Any]:
    if sys.platform != "linux" or not supported_machine():
        raise SandboxUnavailable(
            f"the sandbox needs Linux on x86_64 or aarch64, this is {platform.platform()}",
            "score code on such a machine",
        )
    abilities = client.zygote().abilities
    pids = None
    reasons: list[str] = []
    for plan in _candidates(abilities["cgroups"], abilities["landlock"]):
        if plan["processes"] == "cgroup":
            plan["wanted"] = "memory,cpuacct,pids"
            pids = pids or client.zygote(plan["wanted"]).abilities["cgroups"]
            if "pids" not in pids:
                continue
        if (reason := _try(plan)) is None:
            client.close_all(but=plan["wanted"])
            return plan
        reasons.append(f"{plan['user']}/{plan['processes']}: {reason}")
    client.close_all()
    raise SandboxUnavailable(
        "no sandbox on this machine (" + "; ".join(dict.fromkeys(reasons)) + ")", _hint()
    )


def _hint() -> str:
    """Return what is most likely in the way."""

    def read(path: str) -> str:
        with contextlib.suppress(OSError), open(path) as file:
            return file.read().strip()
        return ""

    if read("/proc/sys/user/max_user_namespaces") == "0":
        return "user namespaces are off: sysctl user.max_user_namespaces=15000"
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "user namespaces are off: sysctl kernel.unprivileged_userns_clone=1"
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor forbids it: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return (
        "in a container allow namespaces (docker run --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --cap-add SYS_ADMIN), or run on the host; "
        "`isolation: process` is for programs you trust"
    )


def plan_for(isolation: Isolation) -> dict[str, Any]:
    """Return the plan of this machine, found once per process; SandboxUnavailable if there is none.

    Forked children inherit it.
    """
    global _found, _why_not
    if isolation == "process":
        return {"isolation": "process", "groups": False, "wanted": "memory,cpuacct", "user": ""}
    if isolation != "sandbox":
        raise ValueError(f'isolation is "sandbox" or "process", got {isolation!r}')
    with _lock:
        if _why_not is not None:
            raise _why_not
        if _found is None:
            try:
                _found = _probe()
            except SandboxUnavailable as problem:
                _why_not = problem
                raise
        return _found


_PROCESSES = {
    "rlimit": "RLIMIT_NPROC, per run",
    "cgroup": "pids cgroup",
    "pid_max": "kernel.pid_max of the PID namespace (300 more than asked for)",
}


def describe() -> dict[str, str]:
    """Return what is in force on this machine, layer by layer; SandboxUnavailable if nothing is."""
    plan = plan_for("sandbox")
    abilities = client.zygote(plan["wanted"]).abilities
    version = f"cgroup v{abilities['cgroup_version']}"
    counted = [name for name in ("memory", "cpuacct") if name in abilities["cgroups"]]
    landlock = plan["landlock"]
    return {
        "namespaces": "pid, mount, network, ipc, uts, cgroup"
        + (", user" if plan["nested"] or plan["user"] == "namespace" else ""),
        "user": "one of its own for each run" if plan["user"] == "own" else "the caller's, mapped",
        "seccomp": "deny list, and every call newer than it",
        "landlock": f"ABI {landlock}" if landlock else "not in this kernel (mounts alone isolate)",
        "proc": "own processes only" if plan["proc"] == "private" else "empty",
        "processes": _PROCESSES[plan["processes"]],
        "memory": version if "memory" in counted else "sampled every 10 ms, and RLIMIT_AS",
        "cpu": version if "cpuacct" in counted else "sampled every 10 ms, and RLIMIT_CPU",
    }


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def environment(isolation: Isolation) -> dict[str, str]:
    """Return the whole environment of a program: nothing of the caller's gets in."""
    return dict(_ENVIRONMENT)
