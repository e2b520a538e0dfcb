"""Other verifiers of mathematics behind one call each, in a child process that may be killed."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

LIMIT_SECONDS = 3.0
"""Wall clock after which a peer's case counts as hanging; three times our own limit."""
Pair = tuple[str, str]
_DELIMITED = re.compile(r"\\boxed|\$|\\\(|\\\[")
_PROSE = re.compile(r"(?:^|\s)[A-Za-z]{2,}\s+[A-Za-z]{2,}(?:\s|$)")


def delimited(text: str) -> str:
    """Return a text the way these verifiers want it: boxed, unless it is delimited or a sentence.

    Undelimited, they cut most of mathematics short.
    """
    as_it_is = _DELIMITED.search(text) or _PROSE.search(text)
    return text if as_it_is else f"\\boxed{{{text}}}"


def math_verify_alone(answer: str, gold: str) -> bool:
    """math-verify as its README shows it, gold and answer delimited."""
    from math_verify import parse, verify

    return bool(verify(parse(delimited(gold)), parse(delimited(answer))))


def trl_accuracy(answer: str, gold: str) -> bool:
    """`trl.rewards.accuracy_reward`; None (gold it cannot read) is no reward."""
    from trl.rewards import accuracy_reward

    completion = [[{"role": "assistant", "content": delimited(answer)}]]
    return accuracy_reward(completion, solution=[delimited(gold)]) == [1.0]


def judge(
    verifier: Callable[[str, str], bool], pairs: Sequence[Pair]
) -> list[tuple[bool | None, float]]:
    """Return (verdict, seconds) of each (answer, gold); None where it raised or was killed."""
    verdicts: list[tuple[bool | None, float]] = []
    child: Any = None
    connection: Connection | None = None
    for pair in pairs:
        if child is None or connection is None:
            child, connection = _start(verifier)
        started = time.perf_counter()
        connection.send(pair)
        answered = connection.poll(LIMIT_SECONDS)
        seconds = time.perf_counter() - started
        try:
            verdict = connection.recv() if answered else None
        except EOFError:
            answered, verdict = False, None
        verdicts.append((verdict, seconds))
        if not answered:
            child.kill()
            child.join()
            child = None
    if child is not None:
        child.kill()
    return verdicts


def _start(verifier: Callable[[str, str], bool]) -> tuple[Any, Connection]:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_serve, args=(verifier, theirs), daemon=True
    )
    child.start()
    theirs.close()
    verdict = ours.recv() if ours.poll(60) else None  # the first answer waits for the imports
    assert verdict is not None
    return child, ours


def _serve(verifier: Callable[[str, str], bool], connection: Connection) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    connection.send(_verdict(verifier, "1", "1"))
    while True:
        connection.send(_verdict(verifier, *connection.recv()))


def _verdict(verifier: Callable[[str, str], bool], answer: str, gold: str) -> bool | None:
    try:
        return verifier(answer, gold)
    except BaseException:  # its time-outs are no Exceptions
        return None
