"""Chains of binary convolutions on the CPU: a model against itself without them, side by side.

    python benchmarks/cpu_chains.py MODEL.onnx [--threads 1] [--batch 1] [--seconds 10]

Both with our op library, then both in stock ONNX Runtime, which runs the function bodies. A third
session of the model without chains shows how far the same file lies from itself. They take turns in
one process; the figures are medians over the ratios of neighbouring runs. Exits where a logit
differs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
from cpu_native import make_session, milliseconds

from bitexport.graph.passes.chain_signs import has_chains, unchained


def main() -> None:
    """Time the sessions in turn and print what chains save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    model = ir.load(options.model)
    if not has_chains(model):
        raise SystemExit(f"error: no chains (got {options.model}, expected a model with some).")
    chained = options.model.read_bytes()
    plain = ir.to_proto(unchained(model)).SerializeToString()
    for native in (True, False):
        sessions = [
            make_session(data, options.threads, native=native) for data in (plain, chained, plain)
        ]
        given = sessions[0].get_inputs()[0]
        shape = [options.batch, *given.shape[1:]]
        feed = {given.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
        logits = [session.run(None, feed)[0] for session in sessions]
        if not np.array_equal(logits[0], logits[1]):
            raise SystemExit("error: the logits with and without chains differ (expected equal).")
        times: list[list[float]] = []
        end = time.monotonic() + options.seconds
        while time.monotonic() < end or len(times) < 5:
            times.append([milliseconds(session, feed) for session in sessions])
        with_chains, again = (
            100 * (statistics.median(row[i] / row[0] for row in times) - 1) for i in (1, 2)
        )
        print(
            f"{'op library' if native else 'stock'}: "
            f"{statistics.median(row[0] for row in times):.3f} ms without chains, with them "
            f"{with_chains:+.1f} % (without once more {again:+.1f} %), {len(times)} runs"
        )


if __name__ == "__main__":
    main()
