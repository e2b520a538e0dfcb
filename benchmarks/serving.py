"""What a generation server costs: its tokens a second over the same engine here, and its syncs.

    python benchmarks/serving.py [--rows 64] [--tokens 128] [--hidden 64] [--megabytes 128]

Both sides of every comparison run in turn, in one go; medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from r1pipe.rollout.checkpoint_names import checkpoint_tensors
from r1pipe.rollout.engine import make_engine
from r1pipe.rollout.remote import sending
from r1pipe.rollout.remote.taking import take_weights
from tests.serving import running
from tests.stages import tiny

WAYS = ("in the process", "shared memory", "loopback HTTP")


def model(hidden: int, layers: int, vocabulary: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        num_key_value_heads=max(1, hidden // 64),
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def saved(folder: Path, made: Qwen3ForCausalLM) -> str:
    made.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def interleaved(
    rounds: int, *sides: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median seconds of each side, by `clock`; each runs once before anything counts."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for place, side in enumerate(sides):
            started = clock()
            side()
            if turn:
                seconds[place].append(clock() - started)
    return [median(each) for each in seconds]


def processor_seconds(server: running.Running) -> float:
    """Return the processor time that this process, the server and its engine have had so far."""
    ticks = 0
    for pid in (server.process.pid, *server.engine_pids()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def writing(folder: Path, rows: int, tokens: int, hidden: int, rounds: int) -> None:
    path = saved(folder / "small", model(hidden, 4, 25))
    asked = running.sampling(max_tokens=tokens)
    prompts = running.prompts(rows)
    with running.serving(path, folder / "server") as server:
        remote = make_engine(server.rollout(), path, running.load())
        rollout = server.rollout(engine="compact", vllm_mode="colocate")
        own = make_engine(rollout, path, running.load())
        written = remote.write(prompts, asked, seed=1, logprobs=True)
        assert written == own.write(prompts, asked, seed=1, logprobs=True)
        count = sum(map(len, written.ids))
        here, there = interleaved(
            rounds,
            lambda: own.write(prompts, asked, seed=1, logprobs=True),
            lambda: remote.write(prompts, asked, seed=1, logprobs=True),
        )
        remote.close()
    print(f"{rows} completions, {count} tokens, with log-probabilities:")
    print(f"  in the process {count / here:9.0f} tokens/s  {1e3 * here:8.1f} ms")
    print(f"  by the server  {count / there:9.0f} tokens/s  {1e3 * there:8.1f} ms")
    print(f"  ratio {here / there:.3f}, {1e3 * (there - here):.1f} ms a request more")


def syncing(folder: Path, megabytes: int, rounds: int) -> None:
    layers = max(1, round(megabytes * 2**20 / 4 / (13 * 512 * 512)))
    made = model(512, layers, 25)
    path = saved(folder / "large", made)
    size = sum(t.numel() * t.element_size() for _, t in checkpoint_tensors(made))
    shared = sending.shared_folder
    with running.serving(path, folder / "server2") as server:
        remote: Any = make_engine(server.rollout(), path, running.load())
        other = model(512, layers, 25)

        def send(beside: bool) -> None:
            sending.shared_folder = shared if beside else lambda *said: None
            remote.load(checkpoint_tensors(made))

        sides = (
            lambda: take_weights(other, checkpoint_tensors(made)),
            lambda: send(True),
            lambda: send(False),
        )
        seconds = interleaved(rounds, *sides)
        worked = interleaved(rounds, *sides, clock=lambda: processor_seconds(server))
        remote.close()
    print(f"new weights, {size / 2**20:.0f} MiB in float32:")
    for name, each, work in zip(WAYS, seconds, worked, strict=True):
        rate = size / 2**30 / each
        print(f"  {name:15} {each:6.3f} s  {rate:5.2f} GiB/s  processors {work:6.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        writing(Path(folder), asked.rows, asked.tokens, asked.hidden, asked.rounds)
        syncing(Path(folder), asked.megabytes, asked.rounds)


if __name__ == "__main__":
    main()
