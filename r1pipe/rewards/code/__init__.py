"""Code reward: programs run in a sandbox, verdicts formed outside of it."""

from r1pipe.rewards.code.reward import code_reward, row_problems
from r1pipe.rewards.code.sessions import SandboxFailed
from r1pipe.rewards.code.testing import BadTests, read_tests
from r1pipe.rewards.code.verdict import TestResult, Verdict, verify

__all__ = [
    "BadTests",
    "SandboxFailed",
    "TestResult",
    "Verdict",
    "code_reward",
    "read_tests",
    "row_problems",
    "verify",
]
