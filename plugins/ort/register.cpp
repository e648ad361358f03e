// The symbol of the op library that ONNX Runtime looks for.

#include "ort/domain.h"

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const bitexport::ort::ApiBase* base) {
  using namespace bitexport::ort;
  return register_ops(options, *base, kApiVersion, define_cpu_ops);
}
