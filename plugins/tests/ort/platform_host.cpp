// The host as the platform of the CUDA side: its ops run in ONNX Runtime's own CPU provider.

#include "ort/cuda/platform.h"

namespace bitexport {
namespace ort {
namespace gpu {

const char* provider() { return "CPUExecutionProvider"; }

bool has_device() { return true; }

OrtStatus* memory_of(const Api& api, int, OrtMemoryInfo** out) {
  return api.CreateCpuMemoryInfo(AllocatorType::kDevice, MemoryType::kDefault, out);
}

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport
