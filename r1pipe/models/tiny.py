"""Tiny Qwen3 models and their tokenizer, built in code, for a CPU to train in minutes."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from r1pipe.data import arithmetic, general, traces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN = "<pad>", "<eos>", "<unk>"
# Added, but not special: `decode(skip_special_tokens=True)` keeps them, and the rewards read them.
TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
MAX_POSITIONS = 1024  # tokens; a few-shot prompt with two of the longest traces fits

# hidden_size, intermediate_size (both in features), layers, attention heads, key-value heads
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "nano": (32, 80, 2, 4, 2),
    "xs": (64, 192, 2, 4, 2),
    "s": (96, 288, 3, 6, 3),
    "m": (128, 384, 4, 8, 4),
    "l": (128, 384, 4, 4, 2),
}
HEAD_DIMS = {"nano": 8, "l": 32}
"""Features of a head where they are not 16; vLLM's CPU attention begins at 32."""
HEAD_DIM = 16
INIT_STD = 0.05  # wider than Qwen3's 0.02: these layers are narrow
ROPE_THETA = 10_000.0


def vocabulary() -> list[str]:
    """All tokens in the order of their ids; the tag tokens come last."""
    merged_results = [f"={number:02d} " for number in range(90)]
    merged_operands = [f"{sign}{digit}" for sign in "+-*" for digit in range(10)]
    prompt_words = [word for words in arithmetic.PROMPT_WORDS.values() for word in [words]]
    prompt_words += [word for words in general.PROMPT_WORDS.values() for word in words.values()]
    trace_words = [word for words in traces.TRACE_WORDS.values() for word in words.values()]
    number_words = [
        *general.ENGLISH_SMALL,
        *general.ENGLISH_TENS,
        "hundred",
        *general.CHINESE_DIGITS,
        "十",
        "百",
    ]
    plain = [*"0123456789", *"+-*/=r \n"]
    words = [*plain, *merged_results, *merged_operands, *prompt_words, *trace_words, *number_words]
    return list(dict.fromkeys([PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, *words, *TAG_TOKENS]))


def split_pattern() -> str:
    """The pattern whose matches are the tokens: the longest word that fits, else one character."""
    words = [word for word in vocabulary() if len(word) > 1 and not word.startswith("<")]
    # An operand inside a trace is one token with its sign; in a prompt, digits stay single.
    merged_operands = r"[+\-*]\d(?=[+\-*=])"
    longest_first = sorted(
        (w for w in words if not re.fullmatch(r"[+\-*]\d", w)), key=len, reverse=True
    )
    return "|".join([*map(re.escape, longest_first), merged_operands, r"[\s\S]"])


@cache
def _backend() -> str:
    """The tokenizer as JSON: building it from parts takes longer than reading it back."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    plain = [token for token in vocabulary() if token not in TAG_TOKENS]
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(plain)}, unk_token=UNKNOWN_TOKEN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(split_pattern()), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer.to_str()


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the demo's text; decoding gives the text back exactly."""
    from tokenizers import Tokenizer
    from transformers import AddedToken, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()),
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAG_TOKENS])
    return tokenizer


def tiny_config(size: str) -> Qwen3Config:
    """The Qwen3 configuration of one size name."""
    from transformers import Qwen3Config

    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, received {size!r}")
    hidden, intermediate, layers, heads, key_value_heads = SIZES[size]
    tokens = vocabulary()
    return Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=HEAD_DIMS.get(size, HEAD_DIM),
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        pad_token_id=tokens.index(PAD_TOKEN),
        eos_token_id=tokens.index(EOS_TOKEN),
        bos_token_id=None,
    )


def build_tiny_model(size: str, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised float32 model, the same weights for the same seed."""
    import torch
    from transformers import Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(tiny_config(size))
    # `generate` must sample from the whole distribution: a top-k of 50 would cut into 200 tokens.
    model.generation_config.do_sample = True
    model.generation_config.top_k = 0
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id
    return model


def tiny_qwen3(size: str, seed: int) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Return the model of `build_tiny_model` with its tokenizer: the registered architecture."""
    return build_tiny_model(size, seed), build_tiny_tokenizer()
