"""Miniatures of public checkpoints, made with stock code and a quantiser of their own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from tests.models.deepseek.conftest import widened

KEPT = ("embed_tokens", "lm_head", "norm", "mlp.gate.", "eh_proj", "shared_head")

V3: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 136,
    "initializer_range": 0.02,
    "intermediate_size": 200,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 24,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 3,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 20,
    "vocab_size": 61,
}
"""The public config.json of DeepSeek-V3, sizes apart."""

MOONLIGHT: dict[str, Any] = {
    **{k: v for k, v in V3.items() if k not in ("rope_scaling", "auto_map", "ep_size")},
    "aux_loss_alpha": 0.001,
    "max_position_embeddings": 8192,
    "n_group": 1,
    "n_shared_experts": 2,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "rope_theta": 50000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-05,
    "routed_scaling_factor": 2.446,
    "topk_group": 1,
}
"""The public config.json of Moonlight-16B-A3B, sizes apart."""


def quantised(weight: Tensor, block: tuple[int, int], power_of_two: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales, one block after the other; blocks at the edges may be smaller."""
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    rows, columns = weight.shape
    scales = torch.empty(-(-rows // block[0]), -(-columns // block[1]))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = (
                slice(i * block[0], (i + 1) * block[0]),
                slice(j * block[1], (j + 1) * block[1]),
            )
            scale = max(float(weight[place].abs().max()), 1e-4) / 448
            if power_of_two:
                scale = 2.0 ** torch.tensor(scale).log2().ceil().item()
            scales[i, j] = scale
            codes[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales


def dequantised(codes: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    weight = codes.float()
    for row in range(weight.shape[0]):
        for column in range(0, weight.shape[1], block[1]):
            scale = scales[row // block[0], column // block[1]].float()
            weight[row, column : column + block[1]] *= scale
    return weight


class Miniature:
    """A checkpoint as the public ones are, made by stock code, and the stock model that equals it.

    Its weights are bfloat16 where V3's are, and FP8 elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        block: tuple[int, int] = (128, 128),
        scale_dtype: torch.dtype = torch.float32,
        power_of_two: bool = False,
        fp8: bool = True,
        shards: int = 3,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.block = folder, block
        stock, extra = DeepseekV3Config.from_dict(config), config["num_nextn_predict_layers"]
        # Further layers stand for the MTP modules, whose block is that of a main layer.
        deeper = DeepseekV3Config.from_dict(
            {**config, "num_hidden_layers": config["num_hidden_layers"] + extra}
        )
        source = widened(DeepseekV3ForCausalLM(deeper))
        source.save_pretrained(folder / "stock")
        weights = load_file(folder / "stock" / "model.safetensors")
        hidden, main = config["hidden_size"], config["num_hidden_layers"]
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        prefixes = tuple(f"model.layers.{main + k}." for k in range(extra))
        for prefix in prefixes:
            for name in ("enorm", "hnorm", "shared_head.norm"):
                weights[f"{prefix}{name}.weight"] = 1 + 0.1 * torch.randn(hidden)
            weights[f"{prefix}eh_proj.weight"] = torch.randn(hidden, 2 * hidden) / hidden
            weights[f"{prefix}embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
            weights[f"{prefix}shared_head.head.weight"] = head.clone()
        shared = ("embed_tokens.weight", "shared_head.head.weight")
        self.copies = {prefix + name for prefix in prefixes for name in shared}
        self.plain: dict[str, Tensor] = {}
        self.stored: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if "e_score_correction_bias" in name:
                self.stored[name] = self.plain[name] = weight
            elif any(part in name for part in KEPT) or not fp8:
                self.stored[name] = weight.bfloat16()
                self.plain[name] = self.stored[name].float()
            else:
                codes, scales = quantised(weight, block, power_of_two)
                scales = scales.to(scale_dtype)
                self.stored[name], self.stored[name + "_scale_inv"] = codes, scales
                self.plain[name] = dequantised(codes, scales, block)
        self.config = dict(config)
        if fp8:
            self.config["quantization_config"] = {
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "quant_method": "fp8",
                "weight_block_size": list(block),
            }
        self.write(shards)
        without = {n: w for n, w in self.plain.items() if not n.startswith(prefixes)}
        stock.save_pretrained(folder / "twin")
        save_file(without, folder / "twin" / "model.safetensors", metadata={"format": "pt"})
        self.twin: Any = DeepseekV3ForCausalLM.from_pretrained(
            folder / "twin", dtype=torch.float32
        ).eval()

    def write(self, shards: int = 3) -> None:
        """Write what is in `stored` and `config`, codes and scales in different files."""
        (self.folder / "config.json").write_text(json.dumps(self.config))
        names = list(self.stored)
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:06d}.safetensors"
            part = {name: self.stored[name] for name in names[number::shards]}
            save_file(part, self.folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def copy_to(self, folder: Path) -> Miniature:
        """Return the same checkpoint in another folder, there to be changed."""
        other = copy.copy(self)
        folder.mkdir(parents=True)
        other.folder, other.stored = folder, dict(self.stored)
        other.config = copy.deepcopy(self.config)
        other.write()
        return other
