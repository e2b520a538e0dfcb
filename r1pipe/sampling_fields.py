"""What is wrong with the sampling of a GRPO stage, before anything heavy is imported."""

from __future__ import annotations

from typing import Any

from r1pipe.errors import Problem, did_you_mean


def sampling_problems(key: str, stage: dict[str, Any]) -> list[Problem]:
    """Return the problems of `dynamic_sampling`, `difficulty_filter` and `group_replay`.

    `key` is the stage's place in the config. Values of a wrong type are left to the schema.
    """
    problems = []
    rewards = stage.get("rewards")
    known = [n for n, term in rewards.items() if term] if isinstance(rewards, dict) else None
    for section in ("dynamic_sampling", "difficulty_filter"):
        name = _enabled(stage, section).get("reward")
        if isinstance(name, str) and known is not None and name not in known:
            what = f"`{name}` is not among this stage's rewards"
            where = f"{key}.{section}.reward"
            problems.append(Problem(where, what, did_you_mean(name, known)))
    trainer = stage.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    replay = _enabled(stage, "group_replay")
    if replay and not _enabled(stage, "dynamic_sampling"):
        what = "kept groups fill what dynamic sampling leaves open, and it is off"
        hint = f"set `{key}.dynamic_sampling.enabled=true` too"
        problems.append(Problem(f"{key}.group_replay.enabled", what, hint))
    age, apart = replay.get("max_age"), steps_between_generations(trainer)
    if isinstance(age, int) and apart is not None and age < apart:
        what = (
            f"{apart} optimizer steps pass from one generation to the next (steps_per_generation "
            f"x num_iterations / gradient_accumulation_steps): no group kept is younger"
        )
        problems.append(Problem(f"{key}.group_replay.max_age", what, f"{apart} or more"))
    if trainer.get("sync_ref_model") is True and trainer.get("beta") == 0:
        what = "without the KL term (`beta: 0`) there is no reference to keep in step"
        hint = f"set `{key}.trainer.sync_ref_model=false`, or a `beta`"
        problems.append(Problem(f"{key}.trainer.sync_ref_model", what, hint))
    return problems + _partial_problems(key, stage, trainer)


def _partial_problems(key: str, stage: dict[str, Any], trainer: dict[str, Any]) -> list[Problem]:
    """Return what of a stage does not go with partial rollouts."""
    if not _enabled(stage, "partial_rollouts"):
        return []
    found = []

    def say(where: str, what: str, hint: str) -> None:
        found.append(Problem(f"{key}.{where}", f"partial rollouts {what}", hint))

    rollout = stage.get("rollout")
    rollout = rollout if isinstance(rollout, dict) else {}
    engine, server = rollout.get("engine"), rollout.get("vllm_mode") == "server"
    if engine == "transformers" or (engine == "vllm" and server):
        say("rollout", "need an engine that can be stopped", "`rollout=vllm_colocate` or `compact`")
    if engine == "vllm" and rollout.get("logprobs") in ("rescore", "none"):
        what = "need each token's log-probability from the policy that drew it"
        say("rollout.logprobs", what, "set it to `engine`")
    if rollout.get("tensor_parallel_size", 1) != 1:
        say("rollout.tensor_parallel_size", "stop each rank's engine by itself", "set it to 1")
    if trainer.get("vllm_importance_sampling_correction") is False:
        what = "train on tokens of earlier policies, which have to be weighed"
        say("trainer.vllm_importance_sampling_correction", what, "set it to true")
    top_p = trainer.get("top_p", 1.0)
    if isinstance(top_p, int | float) and top_p < 1:
        say("trainer.top_p", "know no ratio for what top-p leaves out", "set it to 1")
    if stage.get("router_replay", "none") != "none":
        say("router_replay", "have no experts of one policy to repeat", "set it to `none`")
    for name in ("dynamic_sampling", "difficulty_filter"):
        if _enabled(stage, name):
            say(name, "choose the groups of a batch themselves", "set its `enabled` to false")
    return found


def pass_rate_problems(key: str, stage: dict[str, Any]) -> list[Problem]:
    """Return whether the range of pass rates of a sampling stage is empty."""
    wanted = stage.get("pass_rate")
    wanted = wanted if isinstance(wanted, dict) else {}
    low, high = wanted.get("min"), wanted.get("max")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low <= high:
        return []
    what = f"no share is at least {low} and at most {high}"
    return [Problem(f"{key}.pass_rate.min", what, "swap them")]


def steps_between_generations(trainer: dict[str, Any]) -> int | None:
    """Return the optimizer steps that one batch of completions serves, None when it is not told."""
    accumulated = trainer.get("gradient_accumulation_steps", 1)
    steps = trainer.get("steps_per_generation") or accumulated
    iterations = trainer.get("num_iterations", 1)
    if not all(isinstance(value, int) and value > 0 for value in (accumulated, steps, iterations)):
        return None
    return max(1, steps * iterations // accumulated)


def _enabled(stage: dict[str, Any], section: str) -> dict[str, Any]:
    found = stage.get(section)
    return found if isinstance(found, dict) and found.get("enabled") is True else {}
