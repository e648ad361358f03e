// The symbol of the CUDA op library that ONNX Runtime looks for: every op for the CUDA execution
// provider, and those of the CPU library beside them.
//
// An op that is registered hides its function body, also from the execution providers that it has
// no kernel for. So where nothing could run the CUDA kernels, only those of the CPU are offered.

#include <string_view>
#include <vector>

#include "core/op_spec.h"
#include "ort/binding.h"
#include "ort/cuda/conv.h"
#include "ort/cuda/gemm.h"
#include "ort/cuda/platform.h"
#include "ort/domain.h"

namespace bitexport {
namespace ort {
namespace gpu {
namespace {

constexpr const char* kCpu = "CPUExecutionProvider";

// Whether this ONNX Runtime was built with our execution provider.
bool has_provider(const Api& api) {
  char** names = nullptr;
  int count = 0;
  check(api, api.GetAvailableProviders(&names, &count));
  bool found = false;
  for (int i = 0; i < count; ++i) found = found || std::string_view(names[i]) == provider();
  check(api, api.ReleaseAvailableProviders(names, count));
  return found;
}

void add_ops(const Api& api, TensorType activations, std::vector<OpDefinition>& ops) {
  for (const OpSpec& spec : kDeviceOps) {
    ops.push_back(spec.kind == OpKind::kConv ? define_op<Conv>(api, spec, activations, provider())
                                             : define_op<Gemm>(api, spec, activations, provider()));
  }
}

std::vector<OpDefinition> define_ops(const Api& api) {
  std::vector<OpDefinition> ops;
  const bool on_device = has_provider(api) && has_device();
  // Chains have kernels for the CPU alone: beside a GPU their bodies are quicker.
  const Rows<OpSpec> cpu_ops = on_device ? kDeviceOps : Rows<OpSpec>(kOps);
  if (provider() != std::string_view(kCpu)) ops = define_cpu_ops(api, cpu_ops);
  if (on_device) {
    add_ops(api, TensorType::kFloat, ops);
    add_ops(api, TensorType::kFloat16, ops);
  }
  return ops;
}

}  // namespace
}  // namespace gpu
}  // namespace ort
}  // namespace bitexport

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const bitexport::ort::ApiBase* base) {
  using namespace bitexport::ort;
  return register_ops(options, *base, kStreamApiVersion, gpu::define_ops);
}
