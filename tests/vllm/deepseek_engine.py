"""Stock vLLM on a list of checkpoints: what it generates, and what it gives the prompts' tokens.

Run as a program: `python deepseek_engine.py JOBS.json ANSWERS.json`, one engine after the other.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_PLUGINS": "",  # none: what is exported needs none
    "HF_HUB_OFFLINE": "1",
}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Serve `job["folder"]` with `job["options"]`; return greedy tokens and log-probabilities."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = LLM(
        model=job["folder"],
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=8,
        disable_log_stats=False,
        **job["options"],
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=job["max_tokens"],
        prompt_logprobs=0,
        ignore_eos=True,
        detokenize=False,
    )
    prompts: Any = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    result = {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [
            [given[token].logprob for token, given in zip(ids[1:], seen[1:], strict=True)]
            for ids, seen in zip(
                job["prompts"], (output.prompt_logprobs for output in outputs), strict=True
            )
        ],
        "counters": {
            metric.name.removeprefix("vllm:"): metric.value
            for metric in engine.get_metrics()
            if "spec_decode" in metric.name and hasattr(metric, "value")
        },
    }
    del engine
    gc.collect()
    cleanup_dist_env_and_memory()
    return result


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([answer(job) for job in jobs]))
