"""DeepSeek-V3 as a causal language model that trains with balancing and multi-token prediction.

The layers compute what transformers' do, with their own weights' names, so that checkpoints and
numbers are interchangeable; this module adds what training as in the report needs, and decoding on
latents. Shapes: B batch, T tokens, D hidden features, V vocabulary, E experts.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as stock

from r1pipe.models.deepseek.attention import LatentAttention
from r1pipe.models.deepseek.auxiliary import Trace, add_auxiliary_losses, ask_for_no_router_logits
from r1pipe.models.deepseek.checkpoint_loading import PublicCheckpoints
from r1pipe.models.deepseek.configuration import DeepseekConfig
from r1pipe.models.deepseek.experts import MixtureOfExperts, Router, recorded, routers_of
from r1pipe.models.deepseek.layers import FeedForward, RMSNorm
from r1pipe.models.deepseek.packing import causal_mask, packed_positions, segments
from r1pipe.models.deepseek.pieces import causal_lm_loss
from r1pipe.models.deepseek.speculation import new_tokens, require_greedy, speculate


class DecoderLayer(stock.DeepseekV3DecoderLayer):
    """Latent attention, then a dense network or experts, each on a normalised residual stream."""

    def __init__(self, config: DeepseekConfig, layer_idx: int) -> None:
        # The parent's own would build stock parts, to be thrown away.
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = LatentAttention(config, layer_idx)
        dense = layer_idx < config.first_k_dense_replace
        self.mlp = FeedForward(config) if dense else MixtureOfExperts(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._route = layer_idx - config.first_k_dense_replace

    def forward(
        self, hidden_states: Tensor, routed_experts: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Run the layer; `routed_experts` (B, T, layers with experts, K) replays a choice."""
        if routed_experts is None or not isinstance(self.mlp, MixtureOfExperts):
            return super().forward(hidden_states, **kwargs)
        # An argument of the layer, so that gradient checkpointing replays it once more.
        with self.mlp.gate.replaying(routed_experts[:, :, self._route].flatten(0, 1)):
            return super().forward(hidden_states, **kwargs)


class SharedHead(nn.Module):
    """The norm before the output head that an MTP module shares with the main model."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MtpLayer(DecoderLayer):
    """One multi-token prediction module (V3 report, eq. 21-23).

    Its weights carry the public names: it stands in `model.layers` after the main layers.
    """

    def __init__(self, config: DeepseekConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def forward(self, hidden_states: Tensor, next_embeds: Tensor, **kwargs: Any) -> Tensor:
        """Return the module's representation (B, T, D), normalised for the output head.

        Position i joins the embedding of the token ahead with the representation before this
        module: embedding first, as the public weights expect; the report's eq. 21 writes it second.
        """
        joined_BTD = torch.cat([self.enorm(next_embeds), self.hnorm(hidden_states)], dim=-1)
        return self.shared_head.norm(super().forward(self.eh_proj(joined_BTD), **kwargs))


class DeepseekPreTrainedModel(PublicCheckpoints, stock.DeepseekV3PreTrainedModel):
    """Loading, saving and initialisation, shared by the backbone and the language model."""

    config: DeepseekConfig
    config_class = DeepseekConfig
    _no_split_modules = ["DecoderLayer", "MtpLayer"]  # noqa: RUF012  the library's own form
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": DecoderLayer,
        "attentions": LatentAttention,
    }

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for its decorator in this file, which inherits it

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True


class DeepseekModel(DeepseekPreTrainedModel, stock.DeepseekV3Model):
    """The backbone: embedding, main layers, final norm; MTP modules follow in `layers`."""

    def __init__(self, config: DeepseekConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        main, extra = config.num_hidden_layers, config.num_nextn_predict_layers
        self.layers = nn.ModuleList(
            [DecoderLayer(config, i) for i in range(main)]
            + [MtpLayer(config, main + k) for k in range(extra)]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = stock.DeepseekV3RotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.trace: Trace | None = None
        self.post_init()

    @property
    def mtp_layers(self) -> list[MtpLayer]:
        """The MTP modules, nearest prediction first."""
        return [layer for layer in self.layers if isinstance(layer, MtpLayer)]

    @property
    def routers(self) -> list[Router]:
        """Every router, in the order of the layers, MTP modules last."""
        return routers_of(self.layers)  # an adapter may stand around one

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the main layers; packed sequences are kept apart, cached or not.

        Sequences are packed when `position_ids` start anew or `cu_seq_lens_q` says where. In
        training, what the auxiliary losses need is left in `trace`.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.training and torch.is_grad_enabled() and past_key_values is None:
            use_cache = False  # nobody continues a text from a training step
        assert inputs_embeds is not None
        fresh = past_key_values is None or past_key_values.get_seq_length() == 0
        shape = inputs_embeds.shape[:2]
        packing = None
        if fresh:
            packing = packed_positions(shape, position_ids, attention_mask, kwargs)
        if packing is not None and position_ids is None:
            position_ids = packing
        padding = attention_mask
        if packing is not None:
            block = causal_mask(self.config, inputs_embeds, packing, padding)
            attention_mask = padding if block is None else block
        # By keyword: transformers' decorators look for some of them there.
        inputs = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(**inputs, **kwargs)
        self.trace = None
        with recorded(self.routers) as choices:
            outputs = super().forward(**inputs, **kwargs)
        if position_ids is None:
            position_ids = torch.arange(shape[1], device=inputs_embeds.device)[None]
        apart = segments(shape, packing, padding, inputs_embeds.device)
        hidden: Any = outputs.last_hidden_state
        routed = [(choice, apart) for choice in choices]
        rows = shape[0] if packing is None else None
        self.trace = Trace(hidden, inputs_embeds, attention_mask, position_ids, apart, routed, rows)
        return outputs


class DeepseekForCausalLM(DeepseekPreTrainedModel, stock.DeepseekV3ForCausalLM):
    """DeepSeek-V3 with its output head; in training its loss has the auxiliary losses in it.

    They are also in `aux_loss` of the output, weighted, where TRL's trainers read them.
    """

    def __init__(self, config: DeepseekConfig) -> None:
        if not isinstance(config, DeepseekConfig):
            config = DeepseekConfig.from_stock(config)
        PreTrainedModel.__init__(self, config)
        self.model = DeepseekModel(config)
        self.vocab_size = config.vocab_size
        self.auxiliary_losses: dict[str, Tensor] = {}
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        first_mtp = config.num_hidden_layers
        after = first_mtp + config.num_nextn_predict_layers
        # Copies of the shared embedding and head beside each MTP module; modules not asked for.
        self._keys_to_ignore_on_load_unexpected = [
            r"model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight",
            *(rf"model\.layers\.{n}\." for n in range(after, after + 8)),
        ]
        # Hooks, because TRL puts a forward of its own in front of this class's.
        self.register_forward_pre_hook(ask_for_no_router_logits, with_kwargs=True)
        self.register_forward_hook(add_auxiliary_losses, with_kwargs=True)
        self.post_init()

    @property
    def loss_function(self) -> Any:
        """The loss of transformers' causal language models; on a GPU in fewer passes."""
        on_gpu = self.lm_head.weight.is_cuda
        return causal_lm_loss if on_gpu else PreTrainedModel.loss_function.fget(self)  # pyright: ignore

    @loss_function.setter
    def loss_function(self, value: Any) -> None:
        self._loss_function = value

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but `use_mtp=True` drafts with this model's own modules, live.

        Greedy only, for any batch; raises UserError naming what it cannot honour.
        """
        config = copy.deepcopy(generation_config or self.generation_config)
        rest = config.update(**kwargs)
        if not config.use_mtp:
            return cast(Any, super()).generate(inputs, generation_config, *args, **kwargs)
        ids: Any = rest.pop("input_ids", None) if inputs is None else inputs
        mask = rest.pop("attention_mask", None)
        given = {k: v for k, v in rest.items() if v is not None}
        given |= {f"argument {n}": v for n, v in enumerate(args, start=3) if v is not None}
        require_greedy(config, ids, given)
        ends = config.eos_token_id
        ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
        pad = config.pad_token_id if config.pad_token_id is not None else (ends or [0])[0]
        if mask is None and config.pad_token_id is not None and pad not in ends:
            mask = (ids != pad).long()
        return speculate(self, ids, mask, new_tokens(config, ids), ends, pad).sequences

    def add_mtp_layers(self, count: int) -> None:
        """Append `count` MTP modules with fresh weights, where the checkpoint had none."""
        config, backbone = self.config, self.model
        start = len(backbone.layers)
        reference = self.lm_head.weight
        with torch.no_grad():
            for index in range(start, start + count):
                layer = MtpLayer(config, index).to(device=reference.device, dtype=reference.dtype)
                layer.train(self.training)
                layer.apply(self._init_weights)
                backbone.layers.append(layer)
        config.num_nextn_predict_layers += count


for _name in ("DeepseekModel", "DeepseekForCausalLM"):
    # Per-expert matrices on disk, fused tensors in memory: transformers converts by class name.
    _mapping: Any = get_checkpoint_conversion_mapping("deepseek_v3")
    register_checkpoint_conversion_mapping(_name, _mapping, overwrite=True)
