"""The model's configuration: DeepSeek-V3's names and published values, checked when it is made."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import DeepseekV3Config
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from r1pipe.errors import Problem, UserError, did_you_mean
from r1pipe.models.consistency import inconsistent

PUBLIC_ARCHITECTURE = "DeepseekV3ForCausalLM"
"""What stock transformers and vLLM call this architecture; written to every config.json."""

DERIVED = ("head_dim", "qk_head_dim")
"""Written to config.json by transformers, and made from the other fields when it is read: a value
left over from before another field was changed would turn the rotary embedding wrong."""


@strict
class DeepseekConfig(DeepseekV3Config):
    """Shape of a DeepSeek-V3 model and the coefficients of its training.

    Defaults are DeepSeek-V3's; "V3" below is its technical report, arXiv 2412.19437, with the
    section or equation. Raises UserError naming every field that is unknown or does not fit.
    """

    vocab_size: int = 129_280
    """Tokens of the vocabulary; the public checkpoint's (V3 4.1 says 128K)."""
    hidden_size: int = 7168
    """d, features of the residual stream (V3 4.2)."""
    intermediate_size: int = 18_432
    """Features inside the dense layers' feed-forward networks (public config.json)."""
    moe_intermediate_size: int = 2048
    """Features inside one expert (V3 4.2)."""
    num_hidden_layers: int = 61
    """Transformer layers, MTP modules not counted (V3 4.2)."""
    num_attention_heads: int = 128
    """n_h (V3 4.2)."""
    num_key_value_heads: int | None = None
    """Equals `num_attention_heads`: every head has its own keys, expanded from one latent."""
    n_shared_experts: int = 1
    """N_s, experts that see every token (V3 eq. 12)."""
    n_routed_experts: int = 256
    """N_r (V3 eq. 12)."""
    num_experts_per_tok: int = 8
    """K_r, routed experts per token (V3 eq. 14)."""
    n_group: int = 8
    """Groups the experts are split into, one per node (V3 2.1.2, node-limited routing)."""
    topk_group: int = 4
    """M, groups a token may be sent to; the best by the sum of their two highest scores."""
    first_k_dense_replace: int = 3
    """Leading layers with a dense network instead of experts (V3 4.2)."""
    norm_topk_prob: bool = True
    """Gates of the chosen experts sum to one (V3 eq. 13)."""
    routed_scaling_factor: float = 2.5
    """Multiplies the gates (public config.json)."""
    q_lora_rank: int | None = 1536
    """d_c', the query latent (V3 eq. 6); None projects queries directly, as Moonlight does."""
    kv_lora_rank: int = 512
    """d_c, the key-value latent, which is what is cached (V3 eq. 1)."""
    qk_nope_head_dim: int = 128
    """Per-head key features without position (d_h, V3 4.2)."""
    qk_rope_head_dim: int = 64
    """d_h^R, features of the decoupled rotary key, shared by all heads (V3 eq. 3)."""
    v_head_dim: int = 128
    """Per-head value features (d_h, V3 4.2)."""
    initializer_range: float = 0.006
    """Standard deviation of fresh weights (V3 4.2)."""
    max_position_embeddings: int = 4096
    """Context of pre-training (V3 4.2); YaRN extends it to 128K in two phases (V3 4.3)."""

    scoring_func: str = "sigmoid"
    """How router logits become affinities (V3 eq. 15); nothing else is implemented."""
    topk_method: str = "noaux_tc"
    """Public name of top-K on biased scores (V3 eq. 16); vLLM reads it."""
    moe_layer_freq: int = 1
    """Every layer after the dense ones has experts."""
    moe_router_dtype: str = "float32"
    """Routing is computed in float32; vLLM reads it."""

    bias_update_speed: float = 0.001
    """gamma, what a bias moves per optimizer step (V3 4.2; 0 for the last 500 B tokens)."""
    balance_factor: float = 0.0001
    """alpha, weight of the sequence-wise balance loss (V3 eq. 17, 4.2); 0 leaves it out."""
    mtp_loss_weight: float = 0.3
    """lambda, weight of the MTP losses (V3 eq. 25; 4.2: 0.3 for 10 T tokens, then 0.1)."""
    num_nextn_predict_layers: int = 1
    """D, MTP modules: tokens predicted beyond the next one (V3 2.2, 4.2); 0 for none."""
    output_router_logits: bool = False
    """Set by TRL's trainers when they want `aux_loss`; the model computes its own."""
    router_aux_loss_coef: float = 1.0
    """What TRL multiplies `aux_loss` with. It is already weighted, so leave it at 1."""
    absorbed_decoding: bool = True
    """Decode on the cached latents, without expanding them to keys and values."""

    def __post_init__(self, **kwargs: Any) -> None:
        if "num_mtp_layers" in kwargs:
            self.num_nextn_predict_layers = kwargs.pop("num_mtp_layers")
        for derived in DERIVED:
            kwargs.pop(derived, None)
        problems = _misspelt(type(self), kwargs)
        super().__post_init__(**kwargs)
        problems += inconsistent(self)
        if self.hidden_act not in ACT2FN:
            what = (
                f"received {self.hidden_act!r}, expected an activation of transformers, as 'silu'"
            )
            problems.append(Problem("hidden_act", what))
        rope: Any = (self.rope_parameters or {}).get("rope_type", "default")
        if rope not in (known := ("default", *ROPE_INIT_FUNCTIONS)):
            hint = did_you_mean(str(rope), known)
            problems.append(Problem("rope_parameters.rope_type", f"received {rope!r}", hint))
        if problems:
            raise UserError(problems)

    @classmethod
    def from_stock(cls, stock: PreTrainedConfig, **changes: Any) -> DeepseekConfig:
        """Return the same architecture as transformers' own configuration, with `changes`."""
        return cls.from_dict({**stock.to_dict(), **changes})

    def to_stock(self) -> DeepseekV3Config:
        """Return transformers' own configuration; it carries fields it does not know along."""
        return DeepseekV3Config.from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as config.json holds them: under the public architecture's name."""
        content = super().to_dict()
        content.pop("auto_map", None)  # names Python files, which are not saved
        if content.get("architectures"):
            content["architectures"] = [PUBLIC_ARCHITECTURE]
        return content


def _misspelt(cls: type[DeepseekConfig], unknown: dict[str, Any]) -> list[Problem]:
    """Return a problem for each name that is nearly a field's; others are carried along.

    Public checkpoints hold names that mean nothing here (`ep_size`, `seq_aux`), so that a name is
    unknown does not make it wrong; that it almost is a known one does.
    """
    names = [field.name for field in fields(cls)]
    problems = []
    for name in unknown:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        if close and not hasattr(cls, name):
            what = f"no such field of a DeepSeek model; received {unknown[name]!r}"
            problems.append(Problem(name, what, f"did you mean `{close[0]}`?"))
    return problems
