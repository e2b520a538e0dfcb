"""FP8 training of linear layers, gated MLPs and routed experts: functions, modules, conversion."""

from .experts import fp8_experts, fp8_grouped_linear, offsets_of
from .functions import fp8_gated_mlp, fp8_linear
from .modules import FP8Linear, Report, Selection, convert_to_fp8, why_no_fp8, why_no_grouped
from .weights import invalidate

__all__ = [
    "FP8Linear",
    "Report",
    "Selection",
    "convert_to_fp8",
    "fp8_experts",
    "fp8_gated_mlp",
    "fp8_grouped_linear",
    "fp8_linear",
    "invalidate",
    "offsets_of",
    "why_no_fp8",
    "why_no_grouped",
]
