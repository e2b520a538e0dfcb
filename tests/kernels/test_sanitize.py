"""Reports of a race detector are sorted by where they point, not by how many there are."""

import pytest

pytest.importorskip("triton")

from r1pipe_kernels.testing import sanitize


def report(*places):
    ends = [f"and Write access at gemm+0x10 in {file}:{line}" for file, line in places]
    lines = [f"=========     {end}" for end in ends]
    return "\n".join(["========= Error: Race reported between Read access", *lines, "========= "])


def test_only_reports_on_the_hand_over_alone_are_set_apart():
    heads = sorted(sanitize.handovers())
    kinds = {file for file, _ in heads}
    assert kinds == {"gluon_sm90.py", "control.py"} and len(heads) >= 8
    log = "\n".join(
        [
            "========= COMPUTE-SANITIZER",
            report(*heads[:2]),
            report(heads[0], ("gluon_sm90.py", 1)),
            report(("elsewhere.py", heads[0][1])),
            report(),
        ]
    )
    apart, others = sanitize.races(log)
    assert apart == 1
    assert len(others) == 3
