"""Compare an exported model with its torch reference, and find where they part."""

from bitexport.comparison.detections import compare_detections
from bitexport.comparison.figures import (
    BitComparison,
    Comparison,
    Divergence,
    Tolerance,
    relative_l2,
)
from bitexport.comparison.layers import (
    compare_bits,
    first_divergence,
    refuse_overflow,
    zero_activation_shares,
)
from bitexport.comparison.outputs import (
    ReferenceRun,
    compare_logits,
    compare_outputs,
    reference_logits,
    reference_run,
    sample_input,
)

__all__ = [
    "BitComparison",
    "Comparison",
    "Divergence",
    "ReferenceRun",
    "Tolerance",
    "compare_bits",
    "compare_detections",
    "compare_logits",
    "compare_outputs",
    "first_divergence",
    "reference_logits",
    "reference_run",
    "refuse_overflow",
    "relative_l2",
    "sample_input",
    "zero_activation_shares",
]
