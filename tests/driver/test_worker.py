"""What a worker notes of the machine it ran on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from r1pipe import worker
from r1pipe.doctor_machine import Gpu, processor_name


def test_the_processor_is_named_as_linux_names_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A 9000 @ 2 GHz\nmodel name\t: B\n")
    assert processor_name(cpuinfo) == "A 9000 @ 2 GHz"
    cpuinfo.write_text("processor\t: 0\n")  # aarch64 has no such line
    assert processor_name(cpuinfo) == processor_name(tmp_path / "none") == platform.machine()


def test_a_worker_that_needed_no_gpu_names_those_it_could_have_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = tuple(Gpu(f"card {n}", "1 GiB", "1", 9.0) for n in range(3))
    monkeypatch.setattr(worker, "read_gpus", lambda: (cards, None))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert worker.machine()["gpus"] == ["card 0", "card 1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    noted = worker.machine()
    assert noted["gpus"] == [] and noted["threads"] == torch.get_num_threads()
