"""vLLM's version and its errors are put into the user's terms, without vLLM being here."""

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r1pipe.errors import StageFailed, UserError
from r1pipe.rollout import vllm_errors, vllm_support
from r1pipe.rollout.vllm_errors import explain
from r1pipe.rollout.vllm_support import (
    batch_options,
    graphed,
    plain_errors,
    process_unchanged,
    require_rotary_size,
    require_vllm,
    routes_options,
)
from tests.vllm import families


@pytest.mark.parametrize("version", ["0.21.0", "0.32.0", "0.11.2+cu129"])
def test_an_unsupported_version_names_the_supported_range(version, monkeypatch):
    monkeypatch.setattr(vllm_support, "installed_version", lambda: version)
    with pytest.raises(UserError, match=r">=0\.22\.0,<=0\.31\.0") as caught:
        require_vllm()
    assert version in str(caught.value) and caught.value.problems[0].where == "rollout.engine"


def test_without_vllm_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setattr(vllm_support, "installed_version", lambda: None)
    with pytest.raises(UserError, match="make vllm"):
        require_vllm()


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        (
            "Free memory on device cuda:0 (31.25/139.80 GiB) on startup is less than desired GPU "
            "memory utilization (0.9, 125.82 GiB). Decrease GPU memory utilization or reduce GPU "
            "memory used by other processes.",
            "rollout.gpu_memory_utilization",
            "lower it to 0.20",
        ),
        (
            "To serve at least one request with the model's max seq len (131072), (16.0 GiB KV "
            "cache is needed, which is larger than the available KV cache memory (2.5 GiB). Based "
            "on the available memory, the estimated maximum model length is 20480. Try ...",
            "rollout.max_model_length",
            "16.0 GiB needed, 2.5 GiB there\n  hint: set `rollout.max_model_length` to 20480 or "
            "less, or raise `rollout.gpu_memory_utilization` to 0.60",
        ),
        (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "rollout.gpu_memory_utilization",
            "raise it to 0.60",
        ),
        (
            "CUDA out of memory. Tried to allocate 9.80 GiB. GPU 0 has a total capacity of 139.80 "
            "GiB of which 512.00 MiB is free. Process 1 has 139.30 GiB memory in use.",
            "rollout.gpu_memory_utilization",
            "9.80 GiB were asked for, 0.50 of 140 GiB are free\n  hint: lower it to 0.41, or "
            "set `rollout.sleep: true`",
        ),
        (
            "CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please",
            "rollout.max_num_seqs",
            "set it to 512",
        ),
        (
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. ",
            "data.overlong",
            "5000 tokens is longer than the engine's context of 4096",
        ),
        (
            "User-specified max_model_len (9000) is greater than the derived max_model_len "
            "(max_position_embeddings=8192 or model_max_length=None in model's config.json).",
            "rollout.max_model_length",
            "lower it to 8192",
        ),
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB",
            "rollout.gpu_memory_utilization",
            "lower it to 0.40",
        ),
        (
            "Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0",
            "rollout.engine",
            "rollout=compact",
        ),
        (
            "No valid attention backend found for cuda with AttentionSelectorConfig(head_size=80, "
            "dtype=torch.float32, use_mla=True). Reasons: {TRITON_MLA: [dtype not supported]}.",
            "rollout.precision",
            "in float32\n  hint: set it to `bfloat16`",
        ),
        (
            "No valid MLA prefill backend found with MLAPrefillSelectorConfig(dtype=torch.float16",
            "rollout.engine",
            "rollout=compact",
        ),
        (
            "If V headdim is different from Q/K dim, we only support Q/K headdim in (128, 192] and "
            "V headdim in (96, 128], or (Q/K <= 64 and V <= 512).",
            "rollout.engine",
            "qk_rope_head_dim and v_head_dim",
        ),
        (
            "gather_and_maybe_dequant_cache only support the head_dim to 320 or 576 for better",
            "rollout.vllm.enable_prefix_caching",
            "false",
        ),
        (
            "Model architectures ['FooForCausalLM'] are not supported for now. Supported: ...",
            "rollout.engine",
            "rollout=transformers",
        ),
    ],
)
def test_errors_name_the_setting_that_mends_them(text, where, said, monkeypatch):
    monkeypatch.setattr(vllm_errors, "on_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, int(139.8 * 2**30)))
    problem = explain(text, families.rollout(gpu_memory_utilization=0.5))
    assert problem is not None and problem.where == where
    assert said in str(problem)


def test_on_a_cpu_the_memory_of_the_cache_is_the_environment_s():
    text = "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    problem = explain(text, families.rollout())
    assert problem is not None and problem.where == "VLLM_CPU_KVCACHE_SPACE"
    text = (
        "max seq len (131072), (16.2 GiB KV cache is needed, which is larger than the available KV "
        "cache memory (1.0 GiB)."
    )
    problem = explain(text, families.rollout())
    assert problem is not None and "VLLM_CPU_KVCACHE_SPACE to 17 (GiB)" in str(problem)


def test_an_error_no_setting_mends_stops_the_stage_in_one_line(capsys):
    with pytest.raises(StageFailed, match="writing: vLLM failed: RuntimeError: engine died"):  # noqa: SIM117
        with plain_errors(families.rollout(), "writing"):
            raise RuntimeError("engine died\nand more")
    assert "and more" in capsys.readouterr().err


def test_starting_an_engine_leaves_the_process_as_it_was():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    wanted = (torch.rand(1).item(), random.random(), np.random.rand(), torch.set_num_threads)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    precision = torch.get_float32_matmul_precision()
    with process_unchanged():
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        torch.set_num_threads = None
        torch.set_float32_matmul_precision("medium")
    assert torch.get_float32_matmul_precision() == precision
    found = (torch.rand(1).item(), random.random(), np.random.rand(), torch.set_num_threads)
    assert found == wanted


LATENT = {"max_position_embeddings": 1024, "qk_rope_head_dim": 16}
ASKED = {"max_num_batched_tokens": 512}


@pytest.mark.parametrize(
    ("gpu", "asked", "config", "wanted"),
    [
        (True, {"max_num_seqs": 512}, {}, {}),
        (True, {"max_num_seqs": 600}, {}, {"max_cudagraph_capture_size": 608, "tokens": 608}),
        (True, {"max_num_seqs": 600, "cudagraph_capture_sizes": [8]}, {}, {"tokens": 608}),
        (False, {"max_num_seqs": 600}, {}, {"tokens": 600}),
        (
            True,
            {},
            {**LATENT, "kv_lora_rank": 64},
            {"enable_prefix_caching": False, "enable_chunked_prefill": False, "tokens": 1024},
        ),
        (
            True,
            {"max_model_len": 256, "enable_prefix_caching": True},
            {**LATENT, "kv_lora_rank": 64},
            {"enable_prefix_caching": True, "enable_chunked_prefill": False},
        ),
        (True, {}, {**LATENT, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, {}),
        (False, {}, {**LATENT, "kv_lora_rank": 64}, {}),
    ],
)
def test_options_of_a_batch_follow_from_rows_and_latents(gpu, asked, config, wanted, monkeypatch):
    monkeypatch.setattr(vllm_support, "on_gpu", lambda: gpu)
    found = batch_options({**ASKED, **asked}, SimpleNamespace(**config))
    wanted = {"max_num_batched_tokens": wanted.pop("tokens", 512), **wanted}
    assert {**ASKED, **asked, **found} == {**asked, **wanted}


def test_a_rotary_part_too_small_for_a_gpu_is_named(monkeypatch):
    small = SimpleNamespace(kv_lora_rank=24, qk_rope_head_dim=8)
    monkeypatch.setattr(vllm_support, "on_gpu", lambda: False)
    require_rotary_size(small)
    monkeypatch.setattr(vllm_support, "on_gpu", lambda: True)
    for fits in ({"kv_lora_rank": 64, "qk_rope_head_dim": 16}, {"hidden_size": 8}):
        require_rotary_size(SimpleNamespace(**fits))
    with pytest.raises(UserError, match=r"qk_rope_head_dim is 8; [\s\S]*needs 16"):
        require_rotary_size(small)


def test_a_full_batch_has_a_graph_of_its_own(monkeypatch):
    monkeypatch.setattr(vllm_support, "on_gpu", lambda: True)
    assert [graphed(rows) for rows in (1, 16, 100, 512, 600)] == [16, 16, 112, 512, 608]
    monkeypatch.setattr(vllm_support, "on_gpu", lambda: False)
    assert graphed(100) == 100


def test_routes_are_asked_for_in_the_words_of_the_version(monkeypatch):
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    monkeypatch.setattr(vllm_support, "find_spec", lambda name: None)
    assert routes_options() == {"enable_return_routed_experts": True}
    assert "VLLM_USE_V2_MODEL_RUNNER" not in os.environ
    monkeypatch.setattr(vllm_support, "find_spec", lambda name: object())
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "")  # to be put back
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER")
    assert routes_options()["enable_prefix_caching"]
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
