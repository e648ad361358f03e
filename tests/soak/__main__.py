"""Sessions with the op library, of changing batches, sizes and threads, many at once."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
from pathlib import Path

import numpy as np
from native_chains import Layer, layer_nodes, model_of_layers, serialized
from native_models import session
from native_nodes import feed_of

from bitexport.graph.passes.chain_signs import chain_signs
from bitexport.runtimes import op_library_path

CHANNELS = 72
MODELS = ([Layer(40)], [Layer(40), Layer(33, op="BinaryConvClip"), Layer(40)])
SESSIONS = 6
WORKERS = 3
SHAPES = ((5, 5), (14, 14), (23, 9))
LARGEST_BATCH = 9
# Arenas of the allocator and of ONNX Runtime grow until every size was seen.
WARM_UP = 0.3
ALLOWED_GROWTH = 8 << 20  # bytes from then to the end


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) << 10 for x in lines if x.startswith("VmRSS:"))


class Served:
    """A node of ours, or some that hand signs on, with the answers when nothing else ran."""

    def __init__(self, library: Path, threads: int, layers: list[Layer]) -> None:
        nodes = layer_nodes(CHANNELS, layers)
        graph = model_of_layers(nodes)
        if len(chain_signs(graph)) != len(layers) - 1:
            raise AssertionError("no chain")
        self.model = serialized(graph)
        self.library, self.threads = library, threads
        self.session = session(self.model, library, threads)
        self.feeds = [feed_of(nodes[0], (LARGEST_BATCH, CHANNELS, *size))["X"] for size in SHAPES]
        self.answers = [self.session.run(None, {"X": x})[0] for x in self.feeds]

    def infer(self, rng: random.Random) -> None:
        """One inference of a batch; its answer must be the one of before, to the bit."""
        i, batch = rng.randrange(len(SHAPES)), rng.randint(1, LARGEST_BATCH)
        (y,) = self.session.run(None, {"X": self.feeds[i][:batch]})
        if not np.array_equal(y, self.answers[i][:batch]):
            raise AssertionError("another answer than before")

    def renew(self) -> None:
        """Another session in place of this one."""
        self.session = session(self.model, self.library, self.threads)


def soak(count: int) -> tuple[int, int]:
    """Run ``count`` inferences; (bytes after warming up, bytes at the end)."""
    library = op_library_path()
    served = [Served(library, 1 + i % 2, MODELS[i // 2 % 2]) for i in range(SESSIONS)]
    problems: list[BaseException] = []

    def work(seed: int, inferences: int) -> None:
        rng = random.Random(seed)
        try:
            for i in range(inferences):
                rng.choice(served).infer(rng)
                if seed % WORKERS == 0 and i % 50 == 49:
                    rng.choice(served).renew()
        except BaseException as error:
            problems.append(error)

    def round_of(seed: int, inferences: int) -> int:
        share = -(-inferences // WORKERS)
        threads = [
            threading.Thread(target=work, args=(seed * WORKERS + i, share)) for i in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        gc.collect()
        return resident()

    before = round_of(0, int(WARM_UP * count))
    return before, round_of(1, count - int(WARM_UP * count))


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    count = parser.parse_args().count
    before, after = soak(count)
    grown = after - before
    sys.stdout.write(
        f"{count} inferences in {SESSIONS} sessions and {WORKERS} threads: "
        f"{before >> 20} MiB, then {after >> 20} MiB\n"
    )
    return int(grown > ALLOWED_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
