"""One rank of a GRPO stage with the engine behind a server; run by torchrun, or alone.

Arguments: folder, name of the run, completions on each rank, URL and token file of the server.
"""

from __future__ import annotations

import sys
from pathlib import Path

from r1pipe.schema import Rollout
from tests.stages import tiny
from tests.stages.children import train


def main() -> None:
    folder, name, per_rank, url, token_file = sys.argv[1:]
    place = {"vllm_mode": "server", "server_url": url, "server_token_file": token_file}
    more = {"alarm_threshold": 1e-5, "server_timeout": 60.0}
    rollout = Rollout(**{**tiny.ROLLOUT, **place, **more})
    stage = tiny.grpo_stage(
        str(Path(folder) / "model"),
        max_steps=3,
        per_device_train_batch_size=int(per_rank),
        num_generations=4,
        max_completion_length=24,
        beta=0.0,
        save_strategy="no",
    )
    train(tiny.context(Path(folder) / name, stage.model_copy(update={"rollout": rollout})))


if __name__ == "__main__":
    main()
