#include "ort/cuda/platform.h"

#include <cuda_runtime_api.h>

namespace bitexport {
namespace ort {
namespace gpu {

const char* provider() { return "CUDAExecutionProvider"; }

bool has_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

OrtStatus* memory_of(const Api& api, int id, OrtMemoryInfo** out) {
  return api.CreateMemoryInfo("Cuda", AllocatorType::kDevice, id, MemoryType::kDefault, out);
}

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport
