"""Routing replay: which experts a forward pass used, recorded, and forced upon a later one.

R2 replays what the old policy chose, R3 what the rollout engine chose (GSPO, arXiv 2507.18071;
Rollout Routing Replay, arXiv 2510.11370): else a router that flips between two passes over the same
tokens shows up as a change of the policy. Only the choice is replayed; gates come from the present
router's scores, with gradient. Modules for multi-token prediction always choose themselves.

Shapes: B batch, T tokens, L main layers with experts, K experts per token, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from r1pipe.models.deepseek.experts import Choice, recorded
from r1pipe.models.deepseek.modeling import DeepseekModel

UNKNOWN = -1
"""Stands for an expert nobody recorded: the router then chooses itself."""
ROUTES_DTYPE = torch.int16
"""Routes of a 32K-token sequence through V3's 58 layers take 29 MB in it."""


def backbone_of(model: nn.Module) -> DeepseekModel | None:
    """Return the backbone inside `model`, wrapped or not (PEFT, DDP, FSDP, DeepSpeed), or None."""
    return next((module for module in model.modules() if isinstance(module, DeepseekModel)), None)


def routed_layers(model: nn.Module) -> int:
    """Return L, how many main layers choose among experts; 0 for any other architecture."""
    backbone = backbone_of(model)
    if backbone is None:
        return 0
    return max(backbone.config.num_hidden_layers - backbone.config.first_k_dense_replace, 0)


@dataclass
class Flips:
    """How often the routers of replayed passes would have chosen other experts.

    A flip is a token in one layer whose set of experts differs from the replayed one. Inputs of a
    layer come from replayed layers before it, so that flips do not pile up.
    """

    flipped: int = 0
    replayed: int = 0
    """Tokens times layers for which a route was known."""

    @property
    def share(self) -> float:
        return self.flipped / max(self.replayed, 1)


@contextmanager
def replay_routes(model: nn.Module, routes_BTLK: Tensor) -> Iterator[Flips]:
    """Make the forward passes inside the block use these experts; yields the flips seen.

    `routes_BTLK` are aligned with the tokens of the pass; a row of K with an `UNKNOWN` in it is
    chosen live. The backward pass may come after the block, gradient checkpointing included.
    Raises ValueError when the routes are not this model's.
    """
    backbone = _required_backbone(model)
    _check(backbone, routes_BTLK)
    flips, open_records = Flips(), ExitStack()
    choices: list[Choice] = []

    def hand_over(
        module: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal choices
        embeds = kwargs.get("inputs_embeds")
        tokens = (args[0] if args else kwargs["input_ids"]) if embeds is None else embeds
        if tuple(tokens.shape[:2]) != tuple(routes_BTLK.shape[:2]):
            what = f"routes of {tuple(routes_BTLK.shape[:2])} tokens"
            raise ValueError(f"{what} for a forward pass over {tuple(tokens.shape[:2])}")
        choices = open_records.enter_context(recorded(backbone.routers))
        return args, {**kwargs, "routed_experts": routes_BTLK.to(tokens.device)}

    def look(module: Any, args: Any, output: Any) -> None:
        open_records.close()
        _count_flips(flips, choices, routes_BTLK)

    hooks = [
        backbone.register_forward_pre_hook(hand_over, with_kwargs=True),
        backbone.register_forward_hook(look),
    ]
    try:
        yield flips
    finally:
        open_records.close()
        for hook in hooks:
            hook.remove()


class RouteRecorder:
    """Collects the routes of the forward passes inside `record_routes`."""

    def __init__(self) -> None:
        self._passes: list[Tensor] = []

    def add(self, routes_BTLK: Tensor) -> None:
        self._passes.append(routes_BTLK.to(ROUTES_DTYPE))

    def take(self) -> Tensor:
        """Return the routes (B, T, L, K) of the passes since the last call, batches joined.

        `UNKNOWN` stands at padding. The passes must have had the same number of columns.
        """
        passes, self._passes = self._passes, []
        if not passes:
            raise ValueError("no forward pass was recorded")
        return torch.cat(passes)

    def sequences(self) -> list[Tensor]:
        """Return each row's routes (tokens, L, K) over all passes, its padding left out.

        For a loop such as `generate`, which reads the prompts and then feeds every row each token
        it drew, the last one excepted. Raises ValueError when rows came or went.
        """
        passes, self._passes = self._passes, []
        if len({len(routes) for routes in passes}) > 1:
            raise ValueError("rows came or went between the recorded passes")
        if not passes:
            return []
        whole = torch.cat([routes.cpu() for routes in passes], dim=1)
        return [row[(row != UNKNOWN).flatten(1).all(dim=-1)] for row in whole]


@contextmanager
def record_routes(model: nn.Module) -> Iterator[RouteRecorder]:
    """Record which experts every forward pass inside the block uses; gradients are not touched."""
    backbone = _required_backbone(model)
    recorder = RouteRecorder()
    open_records = ExitStack()
    choices: list[Choice] = []

    def start(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal choices
        choices = open_records.enter_context(recorded(backbone.routers))

    def finish(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        open_records.close()
        shape = output.last_hidden_state.shape[:2]
        routes = torch.stack([choice.experts_TK for choice in choices], dim=1)
        routes = routes.to(ROUTES_DTYPE).view(*shape, *routes.shape[1:])
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            hidden = ~mask[:, -shape[1] :].bool().to(routes.device)
            routes = routes.masked_fill(hidden[..., None, None], UNKNOWN)
        recorder.add(routes)

    hooks = [
        backbone.register_forward_pre_hook(start, with_kwargs=True),
        backbone.register_forward_hook(finish, with_kwargs=True),
    ]
    try:
        yield recorder
    finally:
        open_records.close()
        for hook in hooks:
            hook.remove()


def aligned_routes(sequences: Sequence[Tensor], real_BT: Tensor, routed: int, top_k: int) -> Tensor:
    """Return the routes of N = B sequences as (B, T, L, K), laid over a padded batch.

    The real tokens of a row stand together (prompt left-padded, completion right-padded). Engines
    record no route for the token they drew last: it, padding, and what else is missing is
    `UNKNOWN`; routes beyond the last real token are dropped.
    """
    count, columns = real_BT.shape
    laid = torch.full((count, columns, routed, top_k), UNKNOWN, dtype=ROUTES_DTYPE)
    real = real_BT.bool().cpu()
    starts, lengths = real.int().argmax(dim=1).tolist(), real.sum(dim=1).tolist()
    for row, routes in enumerate(sequences):
        kept = min(len(routes), lengths[row])
        laid[row, starts[row] : starts[row] + kept] = routes[:kept].to(ROUTES_DTYPE)
    return laid.to(real_BT.device)


def routes_of_engine(routed_experts: Any, config: Any) -> Tensor:
    """Return (tokens, L, K) from what vLLM reports of one sequence.

    `routed_experts` [tokens, layers, K] is `CompletionOutput.routed_experts`: prompt and completion
    but for the last token, every main layer, dense ones with no meaning in them. A row with one
    expert twice was never recorded (vLLM's buffers start as zeros) and becomes `UNKNOWN`, as does
    one with an expert the model has not. Raises ValueError for another number of layers or experts.
    """
    given = torch.as_tensor(routed_experts.astype("int32"))
    first, layers = config.first_k_dense_replace, config.num_hidden_layers
    top_k = config.num_experts_per_tok
    if given.ndim != 3 or given.shape[1] not in (layers, layers - first) or given.shape[2] != top_k:
        expected = f"[tokens, {layers}, {top_k}]"
        raise ValueError(f"the engine's routes are {tuple(given.shape)}, expected {expected}")
    routes = given[:, first:] if given.shape[1] == layers else given
    ordered = routes.sort(dim=-1).values
    wrong = (ordered.diff(dim=-1) == 0).any(-1)
    wrong |= (ordered[..., 0] < 0) | (ordered[..., -1] >= config.n_routed_experts)
    return routes.masked_fill(wrong[..., None], UNKNOWN).to(ROUTES_DTYPE)


def _required_backbone(model: nn.Module) -> DeepseekModel:
    backbone = backbone_of(model)
    if backbone is None:
        raise ValueError(f"{type(model).__name__} has no routers whose choice could be replayed")
    return backbone


def _check(backbone: DeepseekModel, routes: Tensor) -> None:
    config = backbone.config
    expected = (routed_layers(backbone), config.num_experts_per_tok)
    if routes.ndim != 4 or tuple(routes.shape[2:]) != expected:
        what = f"routes are {tuple(routes.shape)}"
        raise ValueError(f"{what}, expected [batch, tokens, {expected[0]}, {expected[1]}]")
    if routes.numel() and int(routes.max()) >= config.n_routed_experts:
        raise ValueError(f"a route names expert {int(routes.max())} of {config.n_routed_experts}")


def _count_flips(flips: Flips, choices: list[Choice], routes_BTLK: Tensor) -> None:
    with torch.no_grad():
        known_TL = (routes_BTLK >= 0).all(dim=-1).flatten(0, 1)
        for layer, choice in enumerate(choices):
            used, live = choice.experts_TK.sort(dim=-1).values, choice.live_TK.sort(dim=-1).values
            known_T = known_TL[:, layer].to(used.device)
            flips.flipped += int(((used != live).any(dim=-1) & known_T).sum())
            flips.replayed += int(known_T.sum())
