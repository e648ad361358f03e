"""From a torch model with quantized layers to a small ONNX graph."""

from bitexport.graph.capture import Captured, ZeroWeights, capture
from bitexport.graph.engine_form import ImageInput, engine_form, image_input
from bitexport.graph.layers import LayerInfo, layers_of
from bitexport.graph.lowering import (
    LoweringOptions,
    computes_in_float16,
    float16_values,
    lower,
)
from bitexport.graph.qonnx import QonnxModel, read_qonnx
from bitexport.graph.records import Record
from bitexport.graph.traced import THRESHOLD_NAME, capture_traced, finish_traced

__all__ = [
    "THRESHOLD_NAME",
    "Captured",
    "ImageInput",
    "LayerInfo",
    "LoweringOptions",
    "QonnxModel",
    "Record",
    "ZeroWeights",
    "capture",
    "capture_traced",
    "computes_in_float16",
    "engine_form",
    "finish_traced",
    "float16_values",
    "image_input",
    "layers_of",
    "lower",
    "read_qonnx",
]
