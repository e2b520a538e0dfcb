"""Run by `test_dense_layer` in a process with TRITON_INTERPRET=1: its kernels on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1pipe.models import dense_layer
from r1pipe_kernels.layers import ops, triton_impl
from r1pipe_kernels.testing.interpreter import correct
from tests.models.stock_models import stock_model

SHAPES = [(1, 1), (3, 64), (2, 1500), (11, 100)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: Any) -> None:
    correct()
    monkeypatch.setattr(triton_impl, "PROGRAMS", 4)  # some have three rows, some two


@pytest.fixture(params=SHAPES, ids=str)
def numbers(request: Any) -> Any:
    """Draws tensors of a shape; wide ones, whose squares differ."""
    rows, width = request.param
    drawn = torch.Generator().manual_seed(rows * width)

    def draw(dtype: torch.dtype, columns: int = 1, whole: bool = True) -> torch.Tensor:
        shape = (rows, width * columns) if whole else (width,)
        return (2 * torch.randn(shape, generator=drawn)).to(dtype)

    return draw


def compare(monkeypatch: Any, function: Any, *given: Any) -> None:
    want = function(*given)
    with monkeypatch.context() as kernels:
        kernels.setenv("R1PIPE_KERNELS_BACKEND", "triton")
        got = function(*given)
    both = [(each,) if isinstance(each, torch.Tensor) else each for each in (want, got)]
    for w, g in zip(*both, strict=True):
        assert w.shape == g.shape and w.dtype == g.dtype
        near = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}[w.dtype]
        torch.testing.assert_close(g, w, atol=near, rtol=near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_norm(stream: Any, dtype: Any, numbers: Any, monkeypatch: Any) -> None:
    x, weight = numbers(stream), numbers(torch.float32, whole=False)
    compare(monkeypatch, ops.norm_forward, x, weight, 1e-6, dtype)
    _, scale = ops.norm_forward(x, weight, 1e-6, dtype)
    given = (numbers(dtype), x, scale, weight, numbers(stream))
    compare(monkeypatch, ops.norm_backward, *given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate(dtype: Any, numbers: Any, monkeypatch: Any) -> None:
    both = numbers(dtype, 2)
    compare(monkeypatch, ops.gate_forward, both)
    compare(monkeypatch, ops.gate_backward, numbers(dtype), both)


def test_a_layer_of_kernels_computes_what_plain_torch_does(monkeypatch: Any) -> None:
    model: Any = stock_model("qwen2")
    dense_layer.fuse_layers(model)
    monkeypatch.setattr(dense_layer, "DEVICES", {"cpu"})
    ids = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))

    def passed() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    want = passed()
    monkeypatch.setenv("R1PIPE_KERNELS_BACKEND", "triton")
    for w, g in zip(want, passed(), strict=True):
        torch.testing.assert_close(g, w, atol=1e-5, rtol=1e-3)
