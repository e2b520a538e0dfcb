"""Rewards made of rewards: a gate that has to be open, a weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from r1pipe.errors import Problem
from r1pipe.rewards.completions import LooksAt

Reward = Callable[..., list[float | None]]


class gated:
    """`reward` where `gate` is at least `least`, else 0; a reward below 0 stays as it is.

    So accuracy counts only in completions that keep the form. A row that the gate does not apply
    to (None) is open.
    """

    def __init__(self, reward: Reward, gate: Reward, least: float = 1.0) -> None:
        self.__name__ = name_of(reward)
        self._reward, self._gate, self._least = reward, gate, least

    @property
    def best(self) -> float | None:
        return getattr(self._reward, "best", None)

    @property
    def like(self) -> str:
        return getattr(self._reward, "like", self.__name__)

    @property
    def looks_at(self) -> LooksAt | None:
        return widest([self._reward, self._gate])

    def row_problems(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        """Return what either finds wrong with the gold data."""
        return [*_row_problems(self._reward, rows), *_row_problems(self._gate, rows)]

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        values = self._reward(completions=completions, **columns)
        gates = self._gate(completions=completions, **columns)
        return [
            value if value is None or gate is None or gate >= self._least else min(value, 0.0)
            for value, gate in zip(values, gates, strict=True)
        ]


class weighted:
    """The weighted sum of several rewards as one; None where none of them applies.

    `normalise`: `none` is the plain sum (R1, Nature 645:633, Methods, adds its rewards so);
    `weights` divides by the weights of those that apply to the row, so that rows of different
    kinds are paid on one scale.
    """

    def __init__(
        self,
        rewards: Mapping[str, tuple[Reward, float]] | Sequence[tuple[Reward, float]],
        normalise: Literal["none", "weights"] = "none",
        name: str = "weighted",
    ) -> None:
        pairs = rewards.values() if isinstance(rewards, Mapping) else rewards
        self.__name__ = name
        self._rewards = [(reward, float(weight)) for reward, weight in pairs]
        if not self._rewards:
            raise ValueError("no rewards to add up")
        if normalise == "weights" and any(weight <= 0 for _, weight in self._rewards):
            raise ValueError("normalise: weights needs weights above 0")
        self._normalise = normalise

    def bind_render(self, render: Callable[[Any], str]) -> None:
        """Let the rewards inside see prompts as the model reads them."""
        for reward, _ in self._rewards:
            if hasattr(reward, "bind_render"):
                reward.bind_render(render)  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def best(self) -> float | None:
        parts = [getattr(reward, "best", None) for reward, _ in self._rewards]
        weights = [weight for _, weight in self._rewards]
        if any(part is None for part in parts) or min(weights) < 0:
            return None
        total = sum(w * b for w, b in zip(weights, parts, strict=True) if b is not None)
        return total / sum(weights) if self._normalise == "weights" else total

    @property
    def looks_at(self) -> LooksAt | None:
        return widest([reward for reward, _ in self._rewards])

    def row_problems(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        """Return what any of them finds wrong with the gold data."""
        return [found for reward, _ in self._rewards for found in _row_problems(reward, rows)]

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        totals: list[float | None] = [None] * len(completions)
        shares = [0.0] * len(completions)
        for reward, weight in self._rewards:
            for index, value in enumerate(reward(completions=completions, **columns)):
                if value is None:
                    continue
                totals[index] = (totals[index] or 0.0) + weight * value
                shares[index] += weight
        if self._normalise == "none":
            return totals
        return [t if t is None else t / share for t, share in zip(totals, shares, strict=True)]


def weighted_terms(
    terms: dict[str, Any], normalise: Literal["none", "weights"] = "none"
) -> weighted:
    """The weighted sum of several rewards as one; None where none of them applies.

    `terms` is written as the recipe's own rewards are, each with its weight and options;
    `normalise`: `none` is the plain sum, `weights` divides by the weights of those that apply.
    """
    from r1pipe.rewards.building import build_rewards

    functions, weights = build_rewards(_typed(terms))
    return weighted(list(zip(functions, weights, strict=True)), normalise)


def _option_problems(
    where: str, terms: Mapping[str, Any], normalise: str = "none"
) -> list[Problem]:
    from pydantic import ValidationError

    from r1pipe.rewards.building import check_reward_terms

    try:
        typed = _typed(terms)
    except ValidationError as error:
        return [
            Problem(".".join([f"{where}.terms", *map(str, item["loc"])]), item["msg"])
            for item in error.errors()
        ]
    problems = check_reward_terms(typed, where=f"{where}.terms.")
    present = [term for term in typed.values() if term is not None]
    if not present:
        problems.append(Problem(f"{where}.terms", "no rewards to add up"))
    elif normalise == "weights" and any(term.weight <= 0 for term in present):
        what = "normalise: weights needs weights above 0"
        problems.append(Problem(f"{where}.terms", what))
    return problems


def _typed(terms: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import TypeAdapter

    from r1pipe.schema import Rewards

    return TypeAdapter(Rewards).validate_python(dict(terms))


setattr(weighted_terms, "option_problems", _option_problems)  # noqa: B010  (functions have none)


def name_of(reward: Any) -> str:
    """Return the name that metrics use for a reward."""
    return getattr(reward, "__name__", type(reward).__name__)


def widest(rewards: Sequence[Any]) -> LooksAt | None:
    """Return what several rewards together look at."""
    views = {getattr(reward, "looks_at", None) for reward in rewards}
    if None in views:
        return None
    return "prompt" if "prompt" in views else "row"


def _row_problems(reward: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    check = getattr(reward, "row_problems", None)
    return check(rows) if check is not None else []
