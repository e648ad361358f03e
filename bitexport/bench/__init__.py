"""Measure models side by side with their full-precision twins, and report it."""

from bitexport.bench.record import LayerTime, Report, Run, Skip
from bitexport.bench.suite import BenchOptions, bench

__all__ = ["BenchOptions", "LayerTime", "Report", "Run", "Skip", "bench"]
