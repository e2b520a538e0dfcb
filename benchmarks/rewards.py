"""Speed of the rewards: comparisons, hanging comparisons, languages, programs in the sandbox.

    python benchmarks/rewards.py

Wall-clock figures of this machine with all its cores; the language reward is on one.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from r1pipe.rewards import accuracy_reward, code_reward, killable, language_consistency

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "rewards"
HANGS = ("spin", "ignore_signals", "power", "eat", "sleep")


def main() -> None:
    """Measure each and print one line for it."""
    comparisons()
    hanging()
    languages()
    programs()


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def comparisons(count: int = 10_000) -> None:
    """Time fractions that have to be compared as values, none of them seen before."""
    texts = [
        f"<think>so</think><answer>\\frac{{{2 * i}}}{{{2 * i + 4}}}</answer>" for i in range(count)
    ]
    gold = [f"\\dfrac{{{i}}}{{{i + 2}}}" for i in range(count)]
    accuracy_reward(texts[:1], solution=["x"])
    spent = seconds(lambda: accuracy_reward(texts, solution=gold))
    print(f"accuracy_reward: {count / spent:,.0f} comparisons a second")


def hanging(count: int = 1024, hangs: int = 64) -> None:
    """Time a batch in which some calls never end: they spin, sleep, ignore signals, eat memory."""
    sys.path.append(str(TESTS))
    killable.shut_down()
    killable.TRUSTED = (*killable.TRUSTED, "slow_functions:")
    calls: list[tuple[object, ...]] = [("work", 0.003, index) for index in range(count)]
    for place, index in enumerate(random.Random(0).sample(range(count), hangs)):
        calls[index] = (HANGS[place % len(HANGS)], index)
    outcomes: list[object] = []
    spent = seconds(lambda: outcomes.extend(killable.run_all("slow_functions:any_of", calls)))
    answered = sum(isinstance(outcome, killable.Done) for outcome in outcomes)
    others = f"{answered} of {count - hangs} others answered"
    print(f"{hangs} hanging calls of {count}: {spent:.1f} s, {others}")
    killable.shut_down()


def languages(length: int = 2000, count: int = 300) -> None:
    """Time texts of 2,000 characters, put together from the pure cases of each language."""
    cases = [json.loads(line) for line in (TESTS / "cases" / "language.jsonl").open()]
    rates = []
    for language in sorted({case["language"] for case in cases}):
        pure = [c["text"] for c in cases if c["language"] == language and c["low"] >= 0.9]
        shuffled = random.Random(0)
        texts = []
        for _ in range(count):
            text = ""
            while len(text) < length:
                text += shuffled.choice(pure) + " "
            texts.append(text[:length])
        language_consistency(texts[0], language)
        started = time.process_time()
        for text in texts:
            language_consistency(text, language)
        rates.append((60 * count / (time.process_time() - started), language))
    told = ", ".join(f"{language} {rate:,.0f}" for rate, language in rates)
    print(f"language_consistency, texts of {length} characters a minute: {told}")
    print(f"  slowest: {min(rates)[1]}, {min(rates)[0]:,.0f}")


def programs(count: int = 100) -> None:
    """Time trivial programs by kind of test, all different, then one that hangs."""
    kinds = {
        "stdin/stdout": [{"stdin": "3 4\n", "stdout": "7\n"}],
        "calls": [{"call": "add", "args": [3, 4], "returns": 7}] * 2,
        "asserts": [{"assert": "assert add(3, 4) == 7"}, {"assert": "assert add(0, 1) == 1"}],
    }
    source = "def add(a, b):\n    return a + b\n"
    for kind, tests in kinds.items():
        main = "print(add(*map(int, input().split())))\n" if kind == "stdin/stdout" else ""
        texts = [
            f"<think>so</think><answer>```python\n{source}{main}# {index}\n```</answer>"
            for index in range(count)
        ]
        code_reward(texts[:1], verification=[tests])
        spent = seconds(lambda t=texts, v=tests: code_reward(t, verification=[v] * count))
        print(f"code_reward, {kind}: {count / spent:.0f} programs a second")
    hang = "<think>so</think><answer>```python\nwhile True: pass\n```</answer>"
    spent = seconds(lambda: code_reward([hang], verification=[kinds["calls"]], timeout=1.0))
    print(f"code_reward: a program that hangs, limit 1 s: {spent:.2f} s")


if __name__ == "__main__":
    main()
