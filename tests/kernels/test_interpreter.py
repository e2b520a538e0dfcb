"""The Triton kernels through Triton's interpreter."""

from pathlib import Path

import pytest

from tests.interpreting import check_interpreted

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.slow
def test_kernels_interpreted_equal_the_reference():
    check_interpreted(Path(__file__).with_name("interpreted.py"))
