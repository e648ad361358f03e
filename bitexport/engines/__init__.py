"""Device engines: what is wanted, the model for the builder, the engine and its description."""

from bitexport.engines.build import EngineReport, build_engine
from bitexport.engines.request import EngineRequest
from bitexport.engines.trtexec import trtexec_line

__all__ = ["EngineReport", "EngineRequest", "build_engine", "trtexec_line"]
