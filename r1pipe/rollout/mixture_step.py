"""One token per row through a DeepSeekMoE layer, over weights joined once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from r1pipe.rollout.weights import core_of, parameter_of, weight_of

# Shape legend: B rows, C hidden features, E routed experts, K experts per row, I features inside a
# routed expert, S features inside the shared experts, M = E / n_group.

Experts = Literal["dense", "grouped"]
"""`dense`: all experts as one wide network whose inner features are multiplied by the gates, the
shared ones by one: two products, every shape static. `grouped`: rows sorted by expert, and a
product per expert (`torch.nn.functional.grouped_mm`)."""

WASTE = {
    ("cpu", torch.float32): 1_000_000,
    ("cpu", torch.bfloat16): 20_000_000,
    ("cuda", torch.bfloat16): 6_000_000_000,
}
"""Multiplications by zero gates per product that cost what sorting the rows does. On a GPU that is
a dozen kernels and two grouped products, some 60 us whatever the rows; in that time a plain product
does 36 TFLOP at 600 TFLOP/s, and there are three, of two operations a multiplication."""


class MixtureStep:
    """Norm, router, routed and shared experts, added to the residual stream."""

    def __init__(
        self, moe: Any, norm: Tensor, eps: float, dtype: torch.dtype, experts: Experts | None
    ) -> None:
        """`norm` (C): the weight of the norm in front, which has `eps`.

        `experts`: the way to compute them; None takes the one that is faster for the rows given.
        """
        self.eps = eps
        folded = dtype == torch.float32
        self.norm = None if folded else norm.to(dtype)
        scale = norm if folded else torch.ones_like(norm)
        self.router = _Router(moe.gate, scale)
        self.route: Tensor | None = None  # [B, K], what the last rows were given
        routed_in = parameter_of(moe.experts, "gate_up_proj")
        routed_out = parameter_of(moe.experts, "down_proj")
        shared = moe.shared_experts
        shared_in = [weight_of(shared.gate_proj), weight_of(shared.up_proj)]
        shared_out = weight_of(shared.down_proj)
        count, width, inner = routed_out.shape
        everything = (routed_in, routed_out, shared_in, shared_out, scale, dtype)
        kind = norm.device.type
        if experts is None and kind != "cpu" and dtype != torch.bfloat16:
            experts = "dense"  # groups are multiplied one by one, by the host
        self.dense = None if experts == "grouped" else _Dense(*everything)
        self.grouped = None if experts == "dense" else _Grouped(*everything)
        spared = (count - self.router.top_k) * inner * width
        waste = WASTE.get((kind, dtype), WASTE.get((kind, torch.bfloat16), 0))
        self.dense_rows = waste // max(spared, 1)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Residual stream [B, C] in and out."""
        normed = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.eps)
        chosen, gates = self.router(normed)
        self.route = chosen
        if self.grouped is None or (self.dense is not None and len(hidden) <= self.dense_rows):
            assert self.dense is not None
            return self.dense(hidden, normed, chosen, gates)
        return self.grouped(hidden, normed, chosen, gates)


class _Router:
    def __init__(self, gate: Any, scale: Tensor) -> None:
        core = core_of(gate)
        self.weight = (parameter_of(gate, "weight").float() * scale.float()).t().contiguous()
        self.bias = core.e_score_correction_bias.detach().float()
        self.top_k, self.scaling = core.top_k, core.routed_scaling_factor
        self.groups, self.top_groups = core.num_group, core.topk_group
        self.normalised = core.norm_topk_prob

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts and their gates [B, K]: V3 report, eq. 12-16."""
        scores = (normed.float() @ self.weight).sigmoid_()
        biased = scores + self.bias
        if self.top_groups < self.groups:
            split = biased.view(len(normed), self.groups, -1)  # [B, n_group, M]
            best = split.topk(2, dim=-1)[0].sum(dim=-1).topk(self.top_groups, dim=-1)[1]
            kept = torch.full_like(split[..., 0], -torch.inf).scatter_(1, best, 0.0)
            biased = (split + kept[..., None]).flatten(1)
        chosen = biased.topk(self.top_k, dim=-1, sorted=False)[1]
        gates = scores.gather(1, chosen)
        if self.normalised:
            gates /= gates.sum(dim=-1, keepdim=True) + 1e-20
        return chosen, gates if self.scaling == 1 else gates.mul_(self.scaling)


class _Dense:
    def __init__(
        self,
        routed_in: Tensor,
        routed_out: Tensor,
        shared_in: list[Tensor],
        shared_out: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.count, width, self.inner = routed_out.shape
        gates, ups = (part.reshape(-1, width) for part in routed_in.split(self.inner, dim=1))
        parts = [gates, shared_in[0], ups, shared_in[1]]
        self.into = (torch.cat(parts) * scale).to(dtype).t().contiguous()
        outs = torch.cat([routed_out.transpose(1, 2).reshape(-1, width), shared_out.t()])
        self.out = outs.to(dtype).contiguous()

    def __call__(self, hidden: Tensor, normed: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        left, right = (normed @ self.into).chunk(2, dim=-1)
        inner = F.silu(left).mul_(right)
        weights = gates.new_zeros(len(hidden), self.count).scatter_(1, chosen, gates)
        routed = inner[:, : self.count * self.inner].unflatten(1, (self.count, self.inner))
        routed.mul_(weights[:, :, None].to(hidden.dtype))
        return torch.addmm(hidden, inner, self.out)


class _Grouped:
    def __init__(
        self,
        routed_in: Tensor,
        routed_out: Tensor,
        shared_in: list[Tensor],
        shared_out: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.count = len(routed_in)
        self.into = (torch.cat(shared_in) * scale).to(dtype).t().contiguous()
        self.out = shared_out.to(dtype).t()
        self.routed_in = (routed_in * scale).to(dtype).contiguous().transpose(1, 2)  # [E, C, 2I]
        self.routed_out = routed_out.to(dtype).contiguous().transpose(1, 2)  # [E, I, C]

    def __call__(self, hidden: Tensor, normed: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        flat = chosen.flatten()
        order = flat.argsort()
        # Counted without reading anything back, so that a CUDA graph can hold it.
        counts = torch.zeros(self.count, dtype=torch.int32, device=flat.device)
        counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        ends = counts.cumsum(0, dtype=torch.int32)
        top_k = chosen.shape[1]
        left, right = F.grouped_mm(normed[order // top_k], self.routed_in, offs=ends).chunk(2, -1)
        inner = F.silu(left).mul_(right)
        inner *= gates.flatten()[order, None].to(inner.dtype)
        out = F.grouped_mm(inner, self.routed_out, offs=ends)
        back = torch.empty_like(out).index_copy_(0, order, out)
        left, right = (normed @ self.into).chunk(2, dim=-1)
        hidden = torch.addmm(hidden, F.silu(left).mul_(right), self.out)
        return hidden.add_(back.view(len(hidden), top_k, -1).sum(dim=1))
