"""`load.fused`: who gets Liger's kernels, what they compute, and that nothing else is changed."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from r1pipe.errors import UserError
from r1pipe.models import fused
from r1pipe.models.dense_layer import is_fused
from r1pipe.models.loading import hf_defaults, load_causal_lm
from r1pipe.rollout.llama_step import fits
from r1pipe.schema import Load
from tests.interpreting import check_interpreted
from tests.models.stock_models import KINDS, stock_model
from tests.stages import tiny

IDS = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))


def load(**changes: Any) -> Load:
    return Load.model_validate({**hf_defaults(), "dtype": "float32", **changes})


class LigerRMSNorm(nn.Module):
    """As in Liger's file, told by its name; the result says that it was called."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return 2 * type(self).forward(self, hidden_states)


class LigerSwiGLUMLP(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * type(self).forward(self, x)


class LigerExperts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("routed experts stay as they are")


def liger_rotary_pos_emb(*args: Any) -> Any:
    raise AssertionError("only its name is looked at")


def bind(module: nn.Module, kind: type[nn.Module]) -> None:
    """What Liger does to a module that exists."""
    vars(module)["forward"] = MethodType(kind.forward, module)
    vars(module)["_get_name"] = MethodType(lambda self: kind.__name__, module)


def patch_as_liger(
    rope: bool = True,
    cross_entropy: bool = False,
    fused_linear_cross_entropy: bool = True,
    rms_norm: bool = True,
    swiglu: bool = True,
    layer_norm: bool = True,
    geglu: bool = True,
    model: Any = None,
) -> None:
    """Liger's function for an architecture, with what it replaces for the whole process."""
    assert rope and rms_norm and swiglu
    assert not (cross_entropy or fused_linear_cross_entropy or layer_norm or geglu)
    file: Any = sys.modules[type(model).__module__]
    for name in vars(file).copy():
        if name.endswith("RMSNorm"):
            setattr(file, name, LigerRMSNorm)
        if name.endswith("MLP"):
            setattr(file, name, LigerSwiGLUMLP)
    file.apply_rotary_pos_emb = liger_rotary_pos_emb
    nn.LayerNorm = LigerRMSNorm  # pyright: ignore[reportAttributeAccessIssue]
    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.casting_mode = "llama"
            bind(module, LigerRMSNorm)
        if name.endswith("mlp"):
            bind(module, LigerSwiGLUMLP)


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU and a package of Liger's shape; its table of architectures."""
    known = dict.fromkeys(("qwen2", "qwen3", "deepseek_v3"), patch_as_liger)
    there: Any = ModuleType(fused.LIGER)
    there.MODEL_TYPE_TO_APPLY_LIGER_FN = known
    monkeypatch.setitem(sys.modules, fused.LIGER, there)
    monkeypatch.setattr(fused, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fused, "unable", lambda: None)
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    for file in (modeling_qwen2, modeling_qwen3):
        monkeypatch.setattr(file, fused.ROTARY, getattr(file, fused.ROTARY))
    return known


def refusal(model: Any) -> str:
    """What `true` says; null leaves the model as it is and says nothing."""
    before = {name: vars(module).copy() for name, module in model.named_modules()}
    assert fused.apply_fused(model, load()) is model
    assert all(vars(module) == before[name] for name, module in model.named_modules())
    with pytest.raises(UserError) as caught:
        fused.apply_fused(model, load(fused=True))
    return str(caught.value)


def test_a_model_of_a_known_kind_on_a_gpu_is_fused(liger, capsys) -> None:
    for wanted in (None, True):
        model = fused.apply_fused(stock_model("qwen3"), load(fused=wanted))
        said = capsys.readouterr().err
        pieces = "9 norms, 2 MLPs, 2 rotary embeddings by liger-kernel"
        assert said == f"fused: 2 layers; {pieces}\n"
        assert is_fused(model.model.norm)
        assert not is_fused(model.model.layers[0].self_attn.q_proj)


def test_false_is_never(liger) -> None:
    model = fused.apply_fused(stock_model("qwen2"), load(fused=False))
    assert not any(is_fused(module) for module in model.modules())


def test_reasons_against(liger, monkeypatch, capsys) -> None:
    model = stock_model("qwen2")
    # Gemma's layers are no others' here: what is left is Liger's say.
    other = stock_model("qwen2")
    monkeypatch.setattr(other.config, "model_type", "gemma")
    monkeypatch.setattr(fused, "fuse_layers", lambda model: 0)
    assert "does not know models of the kind `gemma`" in refusal(other)
    with monkeypatch.context() as less:
        less.setattr(torch.cuda, "is_available", lambda: False)
        assert "there is none" in refusal(model)
    with monkeypatch.context() as less:
        less.setattr(fused, "find_spec", lambda name: None)
        assert "pip install r1pipe[gpu]" in refusal(model)
    with monkeypatch.context() as more:
        more.setenv("ACCELERATE_USE_FSDP", "true")
        assert "shards" in refusal(model)
    with monkeypatch.context() as more:
        more.setattr(type(model), "__module__", "transformers_modules.somewhere")
        assert "no class of transformers" in refusal(model)
    with monkeypatch.context() as less:
        less.setitem(sys.modules, fused.LIGER, None)
        assert "cannot be imported" in refusal(model)
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as less:
        less.setattr(fused, "unable", lambda: "no C compiler")
        assert "Triton cannot run kernels here: no C compiler" in refusal(model)
    assert capsys.readouterr().err.startswith("not fused, which is slower: Triton")


def test_our_own_class_is_refused_by_its_class(liger) -> None:
    from r1pipe.models.deepseek import DeepseekForCausalLM

    own = object.__new__(DeepseekForCausalLM)
    nn.Module.__init__(own)
    own.config = SimpleNamespace(model_type="deepseek_v3")
    assert "fused kernels of its own" in refusal(own)


def test_a_patch_that_fails_leaves_the_model_as_it_was(liger, capsys, monkeypatch) -> None:
    def half(rms_norm: bool = True, model: Any = None) -> None:
        patch_as_liger(True, False, False, True, True, False, False, model)
        raise TypeError("no such field")

    liger["qwen2"] = half
    monkeypatch.setattr(fused, "fuse_layers", lambda model: 0)
    norm, rotary = modeling_qwen2.Qwen2RMSNorm, modeling_qwen2.apply_rotary_pos_emb
    model = fused.apply_fused(stock_model("qwen2"), load(fused=None))
    assert "transformers' own pieces stay" in capsys.readouterr().err
    assert not any("forward" in vars(module) for module in model.modules())
    assert modeling_qwen2.Qwen2RMSNorm is norm and modeling_qwen2.apply_rotary_pos_emb is rotary
    with pytest.raises(UserError, match="no such field"):
        fused.apply_fused(model, load(fused=True))


def test_no_other_model_of_the_process_changes(liger) -> None:
    before = (modeling_qwen2.Qwen2RMSNorm, modeling_qwen2.Qwen2MLP, nn.LayerNorm)
    first = stock_model("qwen2")
    want = first(IDS).logits
    fused.fuse(stock_model("qwen2"))
    later = stock_model("qwen2")
    assert before == (modeling_qwen2.Qwen2RMSNorm, modeling_qwen2.Qwen2MLP, nn.LayerNorm)
    assert torch.equal(first(IDS).logits, want) and torch.equal(later(IDS).logits, want)
    assert not any("forward" in vars(module) for module in [*first.modules(), *later.modules()])


@pytest.fixture
def rotations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the fused rotation, which here is the plain one."""
    calls: list[Any] = []
    plain = modeling_qwen2.apply_rotary_pos_emb

    def rotated(*args: Any) -> Any:
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(fused, "rotated", rotated)
    return calls


def test_a_fused_model_on_the_cpu_computes_as_before(liger, rotations) -> None:
    model = stock_model("qwen3")
    want = model(IDS).logits
    fused.fuse(model)
    assert torch.equal(model(IDS).logits, want) and rotations == []
    assert torch.equal(copy.deepcopy(model)(IDS).logits, want)


def test_where_its_tensors_are_a_fused_model_and_no_other_uses_the_kernels(
    liger, rotations, monkeypatch
) -> None:
    plain, model = stock_model("qwen2"), stock_model("qwen2")
    want = plain(IDS).logits
    fused.fuse(model)
    fused.fuse(model)  # a second time is none
    monkeypatch.setattr(fused, "DEVICES", {"cpu"})
    assert not torch.equal(model(IDS).logits, want) and len(rotations) == 2
    assert torch.equal(plain(IDS).logits, want) and len(rotations) == 2
    copied = copy.deepcopy(model)
    assert torch.equal(copied(IDS).logits, model(IDS).logits)
    assert copied.model.norm.forward.__self__ is copied.model.norm
    x = torch.randn(2, 64)
    norm, mlp = model.model.norm, model.model.layers[0].mlp
    assert torch.equal(norm(x), 2 * type(norm).forward(norm, x))
    assert torch.equal(mlp(x), 3 * type(mlp).forward(mlp, x))
    for other in (x.double(), x[:0]):  # kernels do not take these
        module = norm.to(other.dtype)
        assert torch.equal(module(other), type(norm).forward(module, other))


def test_a_compiled_model_is_its_own(liger, rotations, monkeypatch) -> None:
    model = stock_model("qwen2")
    want = model(IDS).logits
    fused.fuse(model)
    monkeypatch.setattr(fused, "DEVICES", {"cpu"})
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(model(IDS).logits, want) and rotations == []


def test_experts_and_other_activations_stay(liger) -> None:
    model = stock_model("qwen2", hidden_act="gelu")
    expert = model.model.layers[1].mlp

    def patch(rms_norm: bool = True, swiglu: bool = True, model: Any = None) -> None:
        bind(model.model.layers[0].mlp, LigerSwiGLUMLP)
        bind(expert, LigerExperts)

    liger["qwen2"] = patch
    assert fused.fuse(model) == (0, 0, 0)
    assert not any("forward" in vars(module) for module in model.modules())
    assert "Liger" not in repr(model)
    assert "fuses no layer" in refusal(model)


def test_what_is_saved_is_what_a_plain_model_saves(liger, tmp_path: Path) -> None:
    plain, model = stock_model("qwen3"), stock_model("qwen3")
    fused.fuse(model)
    plain.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "fused")
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "fused")]
    want, got = (load_file(file) for file in files)
    assert want.keys() == got.keys() and all(torch.equal(want[n], got[n]) for n in want)
    texts = [(tmp_path / name / "config.json").read_text() for name in ("plain", "fused")]
    assert texts[0] == texts[1]


def test_a_fused_model_keeps_its_decoding_step(liger) -> None:
    model = stock_model("qwen3")
    assert fits(model)
    fused.fuse(model)
    assert fits(model)
    model.model.norm.forward = lambda x: x
    assert not fits(model)


def test_models_are_fused_where_they_are_loaded(liger, tmp_path: Path) -> None:
    name = tiny.save_model(tmp_path / "init", hidden=32)
    assert is_fused(load_causal_lm(name, load(fused=None)).model.norm)
    assert not is_fused(load_causal_lm(name, load(fused=False)).model.norm)
    with pytest.MonkeyPatch.context() as less:
        less.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match=r"model\.load\.fused.*GPU"):
            load_causal_lm(name, load(fused=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton works here")
def test_a_machine_on_which_triton_fails_says_so() -> None:
    assert "Error" in str(fused.unable())


def test_layers_are_fused_without_liger(liger, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    model = fused.apply_fused(stock_model("qwen2"), load(fused=True))
    assert capsys.readouterr().err == "fused: 2 layers\n"
    assert all(is_fused(layer) for layer in model.model.layers)
    assert not is_fused(model.model.norm)


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("triton") and find_spec("liger_kernel")),
    reason="triton or liger-kernel is not installed",
)
def test_liger_s_kernels_interpreted_equal_transformers_layers() -> None:
    check_interpreted(Path(__file__).with_name("interpreted_fused.py"))


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and find_spec("liger_kernel")),
    reason="no CUDA device, or liger-kernel is not installed",
)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_fused_models_compute_what_plain_ones_do(kind: str) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    plain = stock_model(kind, **shape).cuda()
    other = fused.apply_fused(copy.deepcopy(plain), load(fused=True))
    ids = torch.randint(97, (3, 100), device="cuda")

    def passed(model: Any, amp: bool) -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        return [out.logits.detach().float(), *(p.grad.clone() for p in model.parameters())]

    exact, got = passed(plain, False), passed(other, False)
    half, fused_half = passed(plain, True), passed(other, True)
    for e, g, h, f in zip(exact, got, half, fused_half, strict=True):
        size = e.norm().clamp_min(1e-6)
        assert float((g - e).norm() / size) < 1e-3  # of biases of keys little is left
        assert float((f - e).norm() / size) < 3 * float((h - e).norm() / size) + 2e-3
    attention = other.model.layers[0].self_attn
    assert is_fused(attention) and is_fused(other.model.norm)
    cpu = copy.deepcopy(other).cpu()
    assert torch.allclose(cpu(ids.cpu()).logits, exact[0].cpu(), atol=1e-3)
