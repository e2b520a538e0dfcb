"""Every way of isolating that this machine can do, not only the one it prefers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from r1pipe import sandbox
from r1pipe.sandbox import client, plan

HERE = Path(__file__).parent
PLANS = [
    "own-nested/cgroup",
    "own-nested/pid_max-without-cgroups",
    "own-flat/rlimit",
    "namespace/cgroup",
    "namespace/pid_max-without-cgroups",
]
HOSTILE = [
    "become root",
    "climb out through init's root",
    "daemon that stays",
    "children counted",
    "memory in children",
    "split CPU time among children",
    "raise its own limits",
    "no capabilities",
    "signal init",
]


def _programs(name: str) -> dict[str, Any]:
    cases = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    return {case["name"]: case for case in cases}


@pytest.fixture(params=PLANS)
def other_plan(
    request: pytest.FixtureRequest, available: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    way, bound = request.param.split("/")
    abilities = client.zygote().abilities
    for candidate in plan._candidates(abilities["cgroups"], abilities["landlock"]):
        name = candidate["user"]
        if name == "own":
            name += "-nested" if candidate["nested"] else "-flat"
        if (name, candidate["processes"]) != (way, bound.removesuffix("-without-cgroups")):
            continue
        if bound.endswith("-without-cgroups"):
            candidate["groups"] = False
        if bound == "cgroup":
            candidate["wanted"] = "memory,cpuacct,pids"
            if "pids" not in client.zygote(candidate["wanted"]).abilities["cgroups"]:
                pytest.skip("no pids cgroup")
        if reason := plan._try(candidate):
            pytest.skip(reason)
        monkeypatch.setattr(plan, "_found", candidate)
        return request.param
    pytest.skip("not possible as this user")


def test_each_way_contains_and_works(other_plan: str, boxed) -> None:
    hostile, honest = _programs("hostile.yaml"), _programs("honest.yaml")
    outside = ["/nowhere", str(os.getpid()), os.getcwd(), "1", "name"]
    for name in HOSTILE:
        case = hostile[name]
        limits = {"wall_s": 0.8, "cpu_s": 0.6} if "cpu" in case["ends"] else {}
        result = boxed(case["program"], *outside, **limits)
        assert result.status in case["ends"], (name, result)
        assert b"ESCAPED" not in result.stdout, (name, result)
    for name in ("process pool", "temporary files", "who and where", "200 MB"):
        assert boxed(honest[name]["program"]).stdout == b"ok\n", name


def test_the_callers_places_are_hidden_below_visible_ones(
    available: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = next(p for p in ("/usr/share", "/usr/include", "/usr/games") if os.path.isdir(p))
    monkeypatch.setattr(plan, "_private", lambda: [place])
    changed = plan.plan_for("sandbox") | {"visible": plan.visible()}
    monkeypatch.setattr(plan, "_found", changed)
    text = f"import os; print(os.listdir({place!r}), len(os.listdir('/usr')) > 1)"
    assert sandbox.run([sandbox.PYTHON, "-c", text]).stdout == b"[] True\n"


def test_a_prefix_around_the_home_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    home = os.path.join(os.path.realpath(plan.sys.base_prefix), "home")
    monkeypatch.setattr(plan, "_private", lambda: [home])
    shown = [inside for inside, outside in plan.visible() if outside]
    assert not any(plan._within(home, inside) for inside in shown if inside != "/usr")
