"""Mutated files through the command line: never a crash, a hang, a blow-up, code run, half a file.

    make fuzz COUNT=100000          every target in turn; findings lie in build/fuzz
    make fuzz-replay FILE=PATH      one of them again
    make fuzz-ops COUNT=20000       nodes for the op library, which is under ASan and UBSan
    make fuzz-qonnx COUNT=10000     random QONNX files, see ``qonnx``

``worker`` forks, limits and judges; ``targets`` names what is fuzzed; the other modules mutate.
"""
