"""One side of benchmarks/grpo_step.py: a process that takes a GRPO step whenever it is told to.

It is started by grpo_step.py with a file of settings, answers commands on standard input with one
line of JSON each, and holds its engine and trainer between them: `start`, `step`, `end`; or
`curve` and `memory`, which do all their steps at once.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SETTING: dict[str, Any] = {}
"""What grpo_step.py asks for; see `Setting` there."""
ANSWERS: Any = None
MARGIN = 0.08
"""Share of the GPU's memory below which a side gives back what it keeps for its next step."""


def main() -> None:
    """Take up the settings, then wait for commands."""
    global ANSWERS
    # Libraries print where they like; the answers have a way of their own.
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    SETTING.update(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    import torch

    if SETTING["device"] == "cpu":
        torch.set_num_threads(SETTING["threads"])
    side = SETTING["side"]
    if side != "raw":
        prepare_imports(side)
    answer(event="loaded")
    command = listen()
    if command == "memory":
        memory(side)
    elif side == "raw":
        raw()
    elif side == "ours":
        ours(curve if command == "curve" else steps)
    else:
        stock(curve if command == "curve" else steps)


def listen() -> str:
    """Return the next command; ends the process where there is none."""
    line = sys.stdin.readline().strip()
    if line in ("", "end"):
        sys.stderr.flush()
        os._exit(0)  # an engine takes its time to end, and the next one waits
    return line


def answer(**values: Any) -> None:
    ANSWERS.write(json.dumps(values) + "\n")
    ANSWERS.flush()


def prepare_imports(side: str) -> None:
    """Import what takes long before the side's turn to start."""
    if SETTING["engine"] == "vllm":
        from r1pipe.rollout.vllm_support import require_vllm

        require_vllm()
    if side == "ours":
        from r1pipe.stages.trl_imports import keep_vllm_out_of_trl

        keep_vllm_out_of_trl()
    import r1pipe.stages.grpo  # noqa: F401


def typed_stage(**trainer: Any) -> Any:
    """Return the stage that both sides run, with changes to its trainer's settings."""
    from pydantic import TypeAdapter

    from r1pipe.registry import REWARDS, register_reward
    from r1pipe.schema import Stage

    if "spread" not in REWARDS.names():
        register_reward("spread")(spread)
    stage = {**SETTING["stage"], "trainer": {**SETTING["stage"]["trainer"], **trainer}}
    return TypeAdapter(Stage).validate_python(stage)


def spread(completions: list[str], **columns: Any) -> list[float]:
    """Differ between completions that mean nothing, at the cost of reading them once."""
    return [(sum(map(ord, text)) % 11) / 10 for text in completions]


def stage_context(stage: Any) -> Any:
    from r1pipe.stages.context import Progress, StageContext

    workdir = Path(SETTING["folder"]) / SETTING["side"]
    workdir.mkdir(parents=True, exist_ok=True)
    return StageContext("grpo", stage, workdir, Progress(workdir / "progress.json"))


def ours(drive: Callable[[Any], None]) -> None:
    """Run the stage as a recipe does, up to where it would train."""
    from r1pipe.stages import grpo
    from r1pipe.stages.context import Outcome

    def train(trainer: Any, context: Any, started: float) -> Outcome:
        trainer.checkpoint_folder = context.checkpoints
        drive(trainer)
        return Outcome("model")

    grpo.run_training = train
    grpo.run(stage_context(typed_stage(**SETTING["ours"])))


def stock(drive: Callable[[Any], None]) -> None:
    """Build TRL's own trainer with the same model, rows, rewards and settings."""
    from functools import partial

    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    from r1pipe.data.prompts import render_prompt
    from r1pipe.data.sources import load_data
    from r1pipe.models.loading import load_causal_lm, load_tokenizer
    from r1pipe.rewards.building import build_rewards
    from r1pipe.stages.rollouts import keep_tables_silent
    from r1pipe.stages.telemetry import SYNC, SecondsByPhase
    from r1pipe.stages.training import trainer_config

    keep_tables_silent(grpo_trainer)
    stage = typed_stage(**SETTING["stock"])
    tokenizer = load_tokenizer(stage.init_from, stage.load)
    funcs, weights = build_rewards(stage.rewards, partial(render_prompt, tokenizer=tokenizer))
    args = trainer_config(GRPOConfig, stage_context(stage), reward_weights=weights)
    data = load_data(stage.data, stage.seed, need=("prompt",))
    data = data.remove_columns([c for c in ("completion",) if c in data.column_names])

    class Stock(SecondsByPhase, GRPOTrainer):
        """TRL's trainer with a clock beside it."""

    trainer = Stock(
        model=load_causal_lm(stage.init_from, stage.load),
        reward_funcs=list(funcs),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
    )
    if args.use_vllm:
        plain = trainer.vllm_generation.sync_weights

        def sync_weights() -> None:
            if SETTING["device"] == "cpu":
                return  # TRL's way into vLLM ends in an AttributeError there
            with trainer.clock.phase(SYNC):
                plain()

        trainer.vllm_generation.sync_weights = sync_weights
    drive(trainer)


def steps(trainer: Any) -> None:
    """Train, one optimizer step a command; its time ends where the next one would begin."""
    from transformers import TrainerCallback

    class Baton(TrainerCallback):
        def __init__(self) -> None:
            self.watch: Watch | None = None

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.watch is None:
                answer(event="ready", **memory_figures())
            else:
                answer(event="step", **self.watch.stop())
            listen()
            self.watch = Watch(trainer)

    trainer.add_callback(Baton())
    trainer.train()


def curve(trainer: Any) -> None:
    """Train to the end and tell every step's mean reward."""
    started = time.perf_counter()
    trainer.train()
    history = [row for row in trainer.state.log_history if "reward" in row]
    answer(
        event="curve",
        rewards=[row["reward"] for row in history],
        lengths=[row["completions/mean_length"] for row in history],
        seconds=time.perf_counter() - started,
    )
    listen()


class Watch:
    """Seconds and tokens of one step, by phase."""

    def __init__(self, trainer: Any) -> None:
        import torch

        self.clock = trainer.clock
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.clock.switch("other")
        self.totals, self.tokens = dict(self.clock.totals), self.clock.tokens
        self.wall, self.own = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, Any]:
        import torch

        self.clock.switch("other")
        taken = {"seconds": time.perf_counter() - self.wall}
        taken["cpu_seconds"] = time.process_time() - self.own
        found = self.clock.totals
        phases = {name: found[name] - self.totals.get(name, 0.0) for name in found}
        figures = memory_figures()
        if torch.cuda.is_available() and SETTING["shared"]:
            free, whole = torch.cuda.mem_get_info()
            if free < MARGIN * whole:  # the other side's turn, on the same GPU
                torch.cuda.empty_cache()
        tokens = self.clock.tokens - self.tokens
        return {**taken, "phases": phases, "tokens": tokens, **figures}


def memory_figures() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    peak, now = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    return {"peak_gib": round(peak / 2**30, 2), "now_gib": round(now / 2**30, 2)}


def raw() -> None:
    """Write the same prompts with vLLM alone: ids in, ids out, nothing asked of it but tokens."""
    from r1pipe.data.sources import load_data
    from r1pipe.models.loading import load_tokenizer
    from r1pipe.rollout.vllm_support import require_vllm

    vllm = require_vllm()
    stage = typed_stage()
    tokenizer, trainer = load_tokenizer(stage.init_from, stage.load), stage.trainer
    rows, groups = SETTING["rows"], trainer["num_generations"]
    prompts = load_data(stage.data, stage.seed, need=("prompt",))["prompt"][: rows // groups]
    ids = [tokenizer(text).input_ids for text in prompts for _ in range(groups)]
    options: dict[str, Any] = {"max_num_seqs": rows, "max_model_len": SETTING["context"]}
    if SETTING["device"] == "cuda":
        options["gpu_memory_utilization"] = SETTING["share"]
    llm = vllm.LLM(model=stage.init_from, dtype=SETTING["decoded_in"], **options)
    sampling = vllm.SamplingParams(
        temperature=1.0,
        max_tokens=trainer["max_completion_length"],
        detokenize=False,
        **(trainer.get("generation_kwargs") or {}),
    )
    answer(event="ready")
    while listen() == "step":
        started, own = time.perf_counter(), time.process_time()
        found = llm.generate([{"prompt_token_ids": each} for each in ids], sampling, use_tqdm=False)
        tokens = sum(len(out.outputs[0].token_ids) for out in found)
        taken = time.perf_counter() - started
        own = time.process_time() - own
        phases = {"generate": taken}
        answer(event="step", seconds=taken, cpu_seconds=own, phases=phases, tokens=tokens)


def memory(side: str) -> None:
    """Find by doubling the largest batch whose update fits, completions made up."""
    import torch

    from r1pipe.errors import UserError

    device = SETTING["device"]
    if device == "cuda":  # what an engine beside the trainer would have
        torch.cuda.set_per_process_memory_fraction(1 - SETTING["share"])
    rows, found = SETTING["least"], []
    while rows <= SETTING["most"]:
        started = time.perf_counter()
        try:
            peak = one_update(side, rows)
        except (torch.OutOfMemoryError, UserError) as error:
            if isinstance(error, UserError) and "out of memory" not in str(error):
                raise
            found.append({"rows": rows, "fits": False, "error": str(error).splitlines()[0]})
            break
        seconds = time.perf_counter() - started
        found.append({"rows": rows, "fits": True, "seconds": round(seconds, 2), **peak})
        answer(event="tried", **found[-1])
        rows *= 2
    answer(event="memory", tried=found)
    listen()


def one_update(side: str, rows: int) -> dict[str, float]:
    """Take one whole step of `rows` completions on one device, and return its peak."""
    import torch

    changes = {"per_device_train_batch_size": rows, "num_generations": min(16, rows)}
    changes |= {"max_steps": 1, "gradient_accumulation_steps": 1, "steps_per_generation": 1}
    SETTING[side] = {**SETTING[side], **changes}

    def drive(trainer: Any) -> None:
        trainer.rollout_func = made_up
        trainer.train()

    try:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        (ours if side == "ours" else stock)(drive)
        return memory_figures()
    finally:
        # A traceback holds the frames in which the tensors are.
        error = sys.exc_info()[1]
        while error is not None:
            error.__traceback__ = None
            error = error.__context__
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def made_up(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
    """Stand in for an engine: completions of the full length, of any tokens."""
    ids, _, _ = trainer._tokenize_prompts(prompts)
    drawn = random.Random(trainer.state.global_step)
    most, length = SETTING["vocabulary"], trainer.max_completion_length
    written = [[drawn.randrange(300, most) for _ in range(length)] for _ in prompts]
    return {"prompt_ids": ids, "completion_ids": written, "logprobs": None}


if __name__ == "__main__":
    main()
