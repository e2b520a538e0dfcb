"""Swapping layers: which ones, and that nothing but the arithmetic changes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from r1pipe_kernels.linear import FP8Linear, Selection, convert_to_fp8


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Model(nn.Module):
    def __init__(self, width=128, inner=256):
        super().__init__()
        self.embed_tokens = nn.Embedding(16, width)
        self.gate = nn.Linear(width, 16)
        self.q_proj = nn.Linear(width, width)
        self.narrow = nn.Linear(width, 24)
        self.odd = nn.Linear(width, 136)
        self.mlp = Mlp(width, inner)
        self.head = nn.Linear(width, 128, bias=False)

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        x = self.embed_tokens(ids)
        return self.head(self.mlp(self.q_proj(x)))


def test_what_is_converted_and_why_the_rest_is_not():
    model = Model()
    report = convert_to_fp8(model, Selection(min_features=64))
    assert report.converted == ["q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert report.kept == {
        "gate": "always kept (`*gate`)",
        "narrow": "fewer than 64 features",
        "odd": "a side that is no multiple of 16",
        "head": "the output head",
    }
    assert "fewer than 64 features: 1 (narrow)" in str(report)
    assert convert_to_fp8(model, Selection(min_features=64)).converted == []


@pytest.mark.parametrize(
    ("selection", "converted"),
    [
        (Selection(exclude=("*mlp*",), min_features=64), ["q_proj"]),
        (Selection(include=("*.up_proj",), min_features=64), ["mlp.up_proj"]),
        (Selection(include=("gate", "q_proj"), min_features=16), ["gate", "q_proj"]),
        (Selection(include=("head",), min_features=16), []),
        (Selection(include=("*",), exclude=("*",), min_features=16), []),
    ],
)
def test_patterns_choose_by_name(selection, converted):
    assert convert_to_fp8(Model(), selection).converted == converted


def test_a_swap_changes_no_parameter_and_no_name():
    model = Model()
    before = dict(model.named_parameters())
    names = list(model.state_dict())
    seen = []
    model.q_proj.register_forward_hook(lambda *_: seen.append(1))
    convert_to_fp8(model, Selection(min_features=64), lambda m: isinstance(m, Mlp))
    model(torch.arange(16)).sum().backward()
    assert seen and all(p is before[name] for name, p in model.named_parameters())
    assert list(model.state_dict()) == names and isinstance(model.q_proj, nn.Linear)
    trained = [p for n, p in before.items() if n.split(".")[0] in ("q_proj", "mlp")]
    assert len(trained) == 5 and all(p.grad is not None for p in trained)


def test_a_gated_mlp_runs_as_one_unless_a_layer_of_it_is_watched():
    model, ids = Model(), torch.arange(16)
    plain = copy.deepcopy(model)
    convert_to_fp8(model, Selection(min_features=64), lambda m: isinstance(m, Mlp))
    fused = model(ids)
    assert isinstance(model.mlp, Mlp) and type(model.mlp).__name__ == "FP8Mlp"
    seen = []
    hook = model.mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    parts = model(ids)
    assert seen == [1]
    hook.remove()
    error = lambda a, b: ((a - b).norm() / b.norm()).item()  # noqa: E731
    assert error(fused, plain(ids)) < 0.1 and error(parts, plain(ids)) < 0.1
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ids), fused)


def test_inner_features_that_no_block_divides_stay_layers():
    model = Model(inner=192)
    convert_to_fp8(model, Selection(min_features=64), lambda m: isinstance(m, Mlp))
    assert type(model.mlp) is Mlp and type(model.mlp.up_proj) is FP8Linear
    model(torch.arange(16)).sum().backward()


def test_a_layer_can_be_made_from_scratch():
    layer = FP8Linear(64, 32, device="cpu", dtype=torch.bfloat16)
    assert layer.weight.shape == (32, 64) and layer(torch.ones(2, 64).bfloat16()).shape == (2, 32)
    assert "fp8_block" in repr(layer)


def test_a_parametrised_weight_is_followed():
    layer = FP8Linear(64, 32, bias=False)
    x = torch.randn(3, 64)
    plain = layer(x)

    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(layer, "weight", Twice())
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, 2 * plain)
    assert layer.parametrizations.weight.original.grad is not None


def test_who_writes_through_the_layer_is_seen():
    """PEFT merges adapters so: no version of the parameter tells."""
    model, ids = Model(), torch.arange(16)
    convert_to_fp8(model, Selection(min_features=64), lambda m: isinstance(m, Mlp))
    before = model(ids)
    model.mlp.down_proj.weight.data *= 2
    assert torch.equal(model(ids), 2 * before)


SHARDED = """
import copy
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from r1pipe_kernels.linear import Selection, convert_to_fp8, weights
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:{port}", rank=0, world_size=1)
torch.manual_seed(0)
plain = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32))
convert_to_fp8(plain, Selection(min_features=16))
sharded = copy.deepcopy(plain)
mesh = dist.init_device_mesh("cpu", (1,))
for part in (sharded[0], sharded[2], sharded):
    fully_shard(part, mesh=mesh)
x = torch.randn(20, 64)
for model in (plain, sharded):
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model.losses = []
    for _ in range(4):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.losses.append(loss.item())
assert plain.losses == sharded.losses, (plain.losses, sharded.losses)
assert not weights._kept, "codes of sharded weights were kept"
"""


@pytest.mark.slow
def test_sharded_weights_train_alike_and_leave_no_codes(free_port):
    run = subprocess.run(
        [sys.executable, "-c", SHARDED.replace("{port}", str(free_port))],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "kernels"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
