"""GPU benchmarks: the TensorRT plugins against cuDNN through torch, without TensorRT."""
