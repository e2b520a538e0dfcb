"""Tests whose programs need the sandbox are skipped, with the reason, where it cannot be had."""

from __future__ import annotations

import pytest

from r1pipe import sandbox


@pytest.fixture(scope="session")
def sandboxed() -> None:
    try:
        sandbox.require("sandbox")
    except sandbox.SandboxUnavailable as problem:
        pytest.skip(str(problem))
