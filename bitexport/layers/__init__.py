"""Torch layers with 1-bit and product-quantized weights, and their way into a spec.

The architectures in ``bitexport.models`` are built from these layers; training trains them and
export reads them, so what was trained is what is shipped.
"""

from bitexport.layers.adapters import float32_bytes, register_layer, spec_of
from bitexport.layers.binary_conv import BinaryConv2d, SignInputConv2d
from bitexport.layers.codebook import CodebookConv2d, CodebookConvTranspose2d, CodebookLinear
from bitexport.layers.estimator import SignEstimator, StraightThrough
from bitexport.layers.modes import evaluating
from bitexport.layers.rounding import rounded_to_int8
from bitexport.layers.sign_conv import SignConv2d
from bitexport.layers.zeros import ones_for_zeros

__all__ = [
    "BinaryConv2d",
    "CodebookConv2d",
    "CodebookConvTranspose2d",
    "CodebookLinear",
    "SignConv2d",
    "SignEstimator",
    "SignInputConv2d",
    "StraightThrough",
    "evaluating",
    "float32_bytes",
    "ones_for_zeros",
    "register_layer",
    "rounded_to_int8",
    "spec_of",
]
