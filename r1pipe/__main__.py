"""The command line: `python -m r1pipe stage=grpo`, `r1pipe recipes/r1.yaml`, and small tools."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from r1pipe import __version__
from r1pipe.errors import EXIT_FAILED_STAGE, EXIT_USER_ERROR, Problem, UserError

HELP = f"""r1pipe {__version__}: one YAML recipe runs DeepSeek-R1's post-training chain at any size

usage:
  r1pipe RECIPE.yaml [key=value ...]     run a whole chain
  r1pipe stage=KIND [key=value ...]      run one stage: pretrain sft grpo sample distill eval
  r1pipe COMMAND                         recipes | recipes copy NAME | rewards | rewards NAME |
                                         check recipe=FILE | serve | doctor | report RUN_DIR

examples:
  r1pipe recipes/tiny_r1.yaml                                  the whole chain on a CPU, in minutes
  r1pipe recipes/r1.yaml dry_run=true                          the plan: stages, arrows, skip or run
  r1pipe stage=grpo model.path=Qwen/Qwen2.5-1.5B data.path=mine.jsonl data.columns.answer=solution
  r1pipe recipes/tiny_r1.yaml stages.r1_zero.trainer.learning_rate=1e-4 from_stage=r1_zero

overrides (Hydra's grammar; unknown keys are errors):
  dry_run=true            print the plan and exit: 0, or 2 with every config error at once
  model=NAME              tiny tiny_mla_moe mla_moe_30m mla_moe_300m deepseek_v3 deepseek_v3_base hf
  describe=true           print the model's parameters, cache and FLOPs per token, and exit
  until=NAME              run what NAME needs, and it  only=[NAME,...]   run just these stages
  from_stage=NAME         run again from there on
  launcher=NAME           local torchrun multi_gpu zero1 zero2 zero3 fsdp2 slurm
  tracker=NAME            none tensorboard trackio wandb
  rollout=NAME            compact transformers vllm_colocate vllm_server
  name=N output_root=DIR  results go to DIR/N/<stage>  jobs=N            stages side by side

options:
  -cd, --config-dir DIR   recipes directory            -cn, --config-name NAME  recipe in it
  --cfg job               print the composed config    -m, --multirun           Hydra sweeps
  -h, --help   --version

exit codes: 0 done, 1 a stage failed, 2 something in the request is wrong
"""
TRACEBACK_VARIABLE = "R1PIPE_TRACEBACK"
HYDRA_ONLY = ("-m", "--multirun", "--info", "-i", "--shell-completion", "-sc", "--hydra-help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors of the user's come without traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(arguments)
    except UserError as error:
        count = len(error.problems)
        print(f"error: {count} problem{'s' if count > 1 else ''}", file=sys.stderr)
        for problem in error.problems:
            print(f"- {problem}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        print(f"error: {type(error).__name__}: {error} ({where})", file=sys.stderr)
        print(f"  hint: {TRACEBACK_VARIABLE}=1 shows where it comes from", file=sys.stderr)
        return EXIT_FAILED_STAGE


def dispatch(arguments: list[str]) -> int:
    """Pick what the arguments ask for."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] == "recipes":
        from r1pipe.recipes import run_recipes

        return run_recipes(arguments[1:])
    if arguments[0] == "rewards":
        from r1pipe.reward_list import run_rewards

        return run_rewards(arguments[1:])
    if arguments[0] == "check":
        from r1pipe.check import run_check

        return run_check(arguments[1:])
    if arguments[0] == "doctor":
        from r1pipe.doctor import run_doctor

        return run_doctor(arguments[1:])
    if arguments[0] == "serve":
        from r1pipe.serving.command import run_serve

        return run_serve(arguments[1:])
    if arguments[0] == "report":
        return report_command(arguments[1:])
    from r1pipe.cli import run_command

    return run_command(arguments, hydra_flags=HYDRA_ONLY)


def report_command(arguments: list[str]) -> int:
    """Write the report of one run, or with several run directories the table over seeds."""
    from r1pipe import report

    missing = [name for name in arguments if not (Path(name) / "recipe.json").is_file()]
    if missing or not arguments:
        hint = "usage: r1pipe report RUN_DIR [RUN_DIR ...]"
        raise UserError([Problem(n, "not a run directory", hint) for n in missing or ["report"]])
    if len(arguments) > 1:
        print(report.seeds_table([Path(name) for name in arguments]))
        return 0
    report.print_gains(Path(arguments[0]))
    print(report.write_report(Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
