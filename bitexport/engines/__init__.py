"""Device engines: what is wanted, the model for the builder, the engine and its description."""

from bitexport.engines.build import EngineReport, build_engine
from bitexport.engines.read import EngineFile, is_engine, read_engine
from bitexport.engines.request import EngineRequest
from bitexport.engines.trtexec import trtexec_line

__all__ = [
    "EngineFile",
    "EngineReport",
    "EngineRequest",
    "build_engine",
    "is_engine",
    "read_engine",
    "trtexec_line",
]
