"""Compile kernels for sm_90 without a GPU and read what the assembler made of them."""

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

INSTRUCTIONS = ("QGMMA", "LDL", "STL", "FFMA", "FMUL", "UTMALDG", "UTMASTG", "REDG", "USETMAXREG")


class _NoGpu:
    """The part of a driver that compiling ahead of time asks for."""

    launcher_cls = staticmethod(lambda *args, **kwargs: None)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    class utils:
        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {"max_shared_mem": 232448, "multiprocessor_count": 132}

        @staticmethod
        def load_binary(*args):
            return 0, 0, 0, 0, 1024


def without_gpu() -> None:
    triton.runtime.driver.set_active(_NoGpu())


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int
    shared: int
    count: Counter


def _tool(name: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return str(path)


def resources(kernel) -> Resources:
    """Registers, stack and shared bytes, and counts of instructions, of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        dump = _tool("cuobjdump")
        path = os.environ["PATH"] + os.pathsep + str(Path(_tool("nvdisasm")).parent)

        def run(flag: str) -> str:
            command = [dump, flag, file.name]
            env = {**os.environ, "PATH": path}
            return subprocess.run(
                command, env=env, capture_output=True, text=True, check=True
            ).stdout

        usage, code = run("-res-usage"), run("-sass")
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    count = Counter(re.findall(rf"\b({'|'.join(INSTRUCTIONS)})\b", code))
    return Resources(int(found[1]), int(found[2]), kernel.metadata.shared, count)
