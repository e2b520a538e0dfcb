"""What vLLM's models do with weights that arrive while they run: names, packing, heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from r1pipe.rollout.vllm_support import on_gpu


def has_own_head(model: nn.Module) -> bool:
    """Whether the output head's weight is another tensor than the embedding's."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    head = weights.get("lm_head.weight")
    return head is not None and head is not weights.get("model.embed_tokens.weight")


def with_head(tensors: Iterable[tuple[str, Tensor]], head: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights, with the embedding as output head where that is tied and `head` wanted.

    Some of vLLM's models (DeepSeek-V3's) always have a head of their own.
    """
    embedding = None
    for name, tensor in tensors:
        head = head and name != "lm_head.weight"
        if name.endswith("embed_tokens.weight") and ".layers." not in name:
            embedding = tensor
        yield name, tensor
    if head and embedding is not None:
        yield "lm_head.weight", embedding


def takes_weights_directly(model: nn.Module) -> bool:
    """Whether vLLM uses the loaded tensors as they are: a GPU, and nothing packed or derived.

    Experts may be laid out anew for their kernels, latent attention keeps products of its weights,
    quantised weights are rounded: those go the long way, through vLLM's reloading.
    """
    if not on_gpu():
        return False
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        name = type(method).__name__
        if method is not None and name not in (
            "UnquantizedLinearMethod",
            "UnquantizedEmbeddingMethod",
        ):
            return False
        if hasattr(module, "kv_lora_rank"):
            return False
    return True


def forget_packed_experts(model: nn.Module) -> None:
    """Let vLLM pack the experts' weights again: on a CPU it does so once, then copies them raw."""
    if on_gpu():  # CUDA graphs hold on to the kernels, which copy into their own layout
        return
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def pack_tied_heads(model: nn.Module) -> None:
    """Pack an output head again that shares its weight with the embedding, on a CPU.

    vLLM loads the shared weight as the embedding's; the head's packed copy would stay.
    """
    if on_gpu():
        return
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
            module.quant_method.process_weights_after_loading(module)  # pyright: ignore
