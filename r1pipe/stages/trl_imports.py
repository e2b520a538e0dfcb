"""What TRL imports of its own accord, and need not."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def keep_vllm_out_of_trl() -> None:
    """Spare a worker the import of vLLM, which TRL does wherever vLLM is installed (3 s).

    Our own engine imports it when it starts. Has to be called before a TRL trainer is imported.
    """
    # TRL's package is a lazy module, on which its submodules are no attributes.
    utilities: Any = import_module("trl.import_utils")
    utilities.is_vllm_available = lambda min_version=None: False
