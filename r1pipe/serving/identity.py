"""What makes two ends fit each other: version, architecture, vocabulary; and words where not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from r1pipe import __version__
from r1pipe.serving.protocol import BAD_REQUEST, OTHER_MODEL, OTHER_VERSION, PROTOCOL, Refusal

NOT_THE_FUNCTION = {
    "_name_or_path",
    "_attn_implementation",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "problem_type",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    # What training adds to the loss, none of it read while writing.
    "aux_loss_alpha",
    "balance_factor",
    "bias_frozen_from",
    "bias_update_speed",
    "initializer_range",
    "mtp_loss_weight",
    "router_aux_loss_coef",
    "seq_aux",
}
"""Fields of a config.json that do not change which token gets which probability."""


def identity_of(config: Any, tokenizer: Any) -> dict[str, Any]:
    """Return a model's identity as JSON: its architecture, and its vocabulary as a hash.

    `config` and `tokenizer` are transformers' own. Weights are not part of it.
    """
    fields = json.loads(json.dumps(config.to_dict(), default=str, sort_keys=True))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    text = json.dumps(vocabulary, ensure_ascii=False)
    return {
        "architecture": {k: v for k, v in fields.items() if k not in NOT_THE_FUNCTION},
        "vocabulary": hashlib.sha256(text.encode()).hexdigest()[:16],
        "vocabulary_size": len(vocabulary),
    }


def check_client(info: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise Refusal unless the client that says `asked` fits the server that knows `info`."""
    if asked.get("protocol") != PROTOCOL or asked.get("r1pipe") != __version__:
        theirs = f"r1pipe {asked.get('r1pipe')} (protocol {asked.get('protocol')})"
        what = f"the trainer is {theirs}, the server r1pipe {__version__} (protocol {PROTOCOL})"
        raise Refusal(409, OTHER_VERSION, what)
    own, other = info["identity"], asked.get("identity")
    if not isinstance(other, dict) or not isinstance(other.get("architecture"), dict):
        raise Refusal(400, BAD_REQUEST, "the client does not say which model it is about")
    if parted := differences(own["architecture"], other["architecture"]):
        what = f"the server has another model ({info['model']}): {parted}"
        raise Refusal(409, OTHER_MODEL, what)
    if own["vocabulary"] != other.get("vocabulary"):
        what = (
            f"the server's tokenizer has another vocabulary: {own['vocabulary']} "
            f"({own['vocabulary_size']} tokens), the trainer's is {other.get('vocabulary')} "
            f"({other.get('vocabulary_size')} tokens)"
        )
        raise Refusal(409, OTHER_MODEL, what)


def differences(own: Mapping[str, Any], other: Mapping[str, Any], most: int = 4) -> str:
    """Return the fields in which two configs differ, in words; nothing where they are equal."""
    names = [n for n in sorted({*own, *other}) if own.get(n) != other.get(n)]
    shown = [f"`{n}` is {_short(own.get(n))} here, {_short(other.get(n))} there" for n in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown[:most]) + more


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
