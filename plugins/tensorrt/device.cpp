#include "tensorrt/device.h"

#include <string>

#include "tensorrt/log.h"

namespace bitexport {
namespace trt {

void check_cuda(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return;
  throw Failure(std::string(attempt) + " failed with " + cudaGetErrorName(error) + " (" +
                cudaGetErrorString(error) + ")");
}

int compute_capability() {
  int device = 0;
  int major = 0;
  int minor = 0;
  check_cuda(cudaGetDevice(&device), "asking for the current GPU");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "asking for the GPU's compute capability");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "asking for the GPU's compute capability");
  return major * 10 + minor;
}

}  // namespace trt
}  // namespace bitexport
