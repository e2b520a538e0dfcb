"""From the terms of a recipe to reward functions: names, options and columns checked, gates set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from r1pipe.errors import Problem, StageFailed, UserError, did_you_mean
from r1pipe.registry import REWARDS
from r1pipe.rewards.combining import gated
from r1pipe.rewards.completions import LooksAt, opens_thinking
from r1pipe.schema import RewardTerm

RewardFunction = Callable[..., list[float | None]]
"""`(completions, prompts=..., **columns)`: one float per completion, None = does not apply."""
Render = Callable[[Any], str]
"""The prompt as the model reads it: messages through the chat template."""
Parameters = Mapping[str, inspect.Parameter]


class NamedReward:
    """A reward under its registered name, given the columns it takes, its values checked.

    `__name__` is what TRL calls its metric and its column in the completion tables.
    """

    def __init__(self, name: str, function: RewardFunction, options: Mapping[str, Any]) -> None:
        self.__name__ = name
        self._function, self._options = function, dict(options)
        self._render: Render | None = None
        self._opened: dict[str, bool] = {}
        parameters = inspect.signature(function).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = None if takes_all else frozenset(parameters)
        self._detects = "prefilled" in parameters and options.get("prefilled") is None

    def bind_render(self, render: Render) -> None:
        """Let this reward, and those it is made of, see prompts as the model reads them."""
        self._render = render
        if hasattr(self._function, "bind_render"):
            self._function.bind_render(render)  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def best(self) -> float | None:
        """What the best completion earns; None where no one value is the best."""
        return getattr(self._function, "best", 1.0 if self.like != self.__name__ else None)

    @property
    def looks_at(self) -> LooksAt | None:
        """What it needs to know of a batch to judge one completion; None: all of it."""
        return getattr(self._function, "looks_at", None)

    @property
    def like(self) -> str:
        """The name that `r1pipe check` knows this reward's duties by."""
        return getattr(self._function, "like", self.__name__)

    def row_problems(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        """Return (index, what is wrong) of the rows whose gold data this reward cannot use."""
        check = getattr(self._function, "row_problems", None)
        return check(rows, **self._options) if check is not None else []

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Raise StageFailed on a list of the wrong length and on a value that is not finite."""
        taken = {k: v for k, v in columns.items() if self._takes is None or k in self._takes}
        options = dict(self._options)
        if self._detects and self._render is not None and columns.get("prompts"):
            options["prefilled"] = [self._opens(prompt) for prompt in columns["prompts"]]
        values = self._function(completions=completions, **{**taken, **options})
        if isinstance(values, str) or not hasattr(values, "__len__"):
            kind = type(values).__name__
            raise StageFailed(f"the reward `{self.__name__}` gave a {kind} instead of a list")
        if len(values) != len(completions):
            raise StageFailed(
                f"the reward `{self.__name__}` gave {len(values)} values "
                f"for {len(completions)} completions"
            )
        return [self._checked(value, index, columns) for index, value in enumerate(values)]

    def _opens(self, prompt: Any) -> bool:
        # A prompt comes once per completion of its group, and again every epoch.
        key = prompt if isinstance(prompt, str) else repr(prompt)
        if key not in self._opened:
            assert self._render is not None
            self._opened[key] = opens_thinking(self._render(prompt))
        return self._opened[key]

    def _checked(self, value: Any, index: int, columns: Mapping[str, Any]) -> float | None:
        if value is None:
            return None
        if isinstance(value, Real) and math.isfinite(value):
            return float(value)
        ids = columns.get("id")
        row = f"row `{ids[index]}`" if ids is not None else f"completion {index} of the batch"
        wrong = "instead of a finite number" if isinstance(value, Real) else "instead of a number"
        raise StageFailed(f"the reward `{self.__name__}` is {value!r} {wrong}, {row}")


def build_rewards(
    terms: Mapping[str, RewardTerm | None], render: Render | None = None
) -> tuple[list[RewardFunction], list[float]]:
    """Return the rewards and their weights, in the order given; terms that are None are left out.

    A registered function of TRL's signature is the reward itself; a registered class (or function
    without a parameter `completions`) is called with the term's options and returns the reward.
    `render` tells the rewards what a chat template does to a prompt. Raises UserError with every
    problem.
    """
    if problems := check_reward_terms(terms, where="reward."):
        raise UserError(problems)
    built: dict[str, NamedReward] = {}
    for name, term in terms.items():
        if term is None:
            continue
        registered, options = REWARDS.get(name), term.model_extra or {}
        if is_factory(registered):
            built[name] = NamedReward(name, registered(**options), {})
        else:
            built[name] = NamedReward(name, registered, options)
        if render is not None:
            built[name].bind_render(render)
    functions: list[RewardFunction] = []
    weights: list[float] = []
    for name, reward in built.items():
        term = terms[name]
        assert term is not None
        functions.append(reward if term.gate is None else gated(reward, built[term.gate]))
        weights.append(float(term.weight))
    return functions, weights


def check_reward_terms(terms: Mapping[str, RewardTerm | None], where: str = "") -> list[Problem]:
    """Return what is wrong with these terms: names, gates, option names and option types.

    `where` is put in front of each key: `stages.rl.rewards.` makes full dotted keys of them.
    Builds no reward, so a reward that loads a model costs nothing here.
    """
    problems: list[Problem] = []
    present = [name for name, term in terms.items() if term is not None]
    for name, term in terms.items():
        if term is None:
            continue
        if not math.isfinite(term.weight):
            problems.append(Problem(f"{where}{name}.weight", f"{term.weight} is not a number"))
        if term.gate is not None and (term.gate not in present or term.gate == name):
            hint = did_you_mean(term.gate, [other for other in present if other != name])
            what = f"`{term.gate}` is not another reward of this recipe"
            problems.append(Problem(f"{where}{name}.gate", what, hint))
        try:
            registered = REWARDS.get(name)
        except UserError as error:
            problems += [Problem(f"{where}{name}", p.what, p.hint) for p in error.problems]
            continue
        problems += _check_options(f"{where}{name}", registered, term.model_extra or {})
    return problems


def is_factory(registered: Any) -> bool:
    """True for what makes a reward from options, False for what is a reward."""
    if inspect.isclass(registered):
        return True
    return "completions" not in inspect.signature(registered).parameters


def options_of(registered: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the options by name, and whether others are taken as well (`**options`).

    What a factory takes are options. Of a reward, those parameters are that can only be named, or
    that have a default other than None: what remains are columns of the data.
    """
    parameters = inspect.signature(registered).parameters
    factory = is_factory(registered)
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and (factory or _is_option(parameter))
    }
    return named, factory and any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def columns_of(registered: Any) -> list[str]:
    """Return the columns of the data that a reward names in its signature."""
    if is_factory(registered):
        return []
    options, _ = options_of(registered)
    parameters = inspect.signature(registered).parameters.values()
    given = {"completions", "prompts", "completion_ids", "trainer_state", *options}
    return [p.name for p in parameters if p.name not in given and p.kind is not p.VAR_KEYWORD]


def _is_option(parameter: inspect.Parameter) -> bool:
    if parameter.kind is parameter.KEYWORD_ONLY:
        return True
    return parameter.default is not parameter.empty and parameter.default is not None


def _check_options(where: str, registered: Any, options: Mapping[str, Any]) -> list[Problem]:
    accepted, open_ended = options_of(registered)
    hints = _annotations_of(registered)
    problems = []
    for name, value in options.items():
        if name not in accepted:
            if open_ended:
                continue
            hint = did_you_mean(name, accepted) or "it has no options beside `weight` and `gate`"
            problems.append(Problem(f"{where}.{name}", "this reward has no such option", hint))
        elif name in hints:
            problems += _check_type(f"{where}.{name}", hints[name], value)
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in options:
            problems.append(Problem(f"{where}.{name}", "this reward needs the option"))
    check = getattr(registered, "option_problems", None)
    return problems or (check(where, **options) if check is not None else [])


def _annotations_of(registered: Any) -> dict[str, Any]:
    function = registered if inspect.isfunction(registered) else None
    if inspect.isclass(registered):
        function = registered.__init__
    try:
        return get_type_hints(function) if function is not None else {}
    except (NameError, TypeError):  # annotations that exist for a type checker only
        return {}


def _check_type(where: str, annotation: Any, value: Any) -> list[Problem]:
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:  # a type only its owner can check
        return []
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        return [Problem(where, f"{item['msg']}; got {value!r}") for item in error.errors()]
    return []
