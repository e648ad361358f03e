#include <cuda_runtime_api.h>

#include <cstdlib>

#include "tests/tensorrt/host_kernels.h"

namespace bitexport_test {

HostDevice& host_device() {
  static HostDevice device = [] {
    HostDevice initial;
    const char* const capability = std::getenv("BITEXPORT_TEST_CAPABILITY");
    if (capability != nullptr) initial.compute_capability = std::atoi(capability);
    return initial;
  }();
  return device;
}

}  // namespace bitexport_test

// ---- The CUDA runtime, as far as plugins ask it -------------------------------------------------

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 2;
  return bitexport_test::host_device().query_error;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const int capability = bitexport_test::host_device().compute_capability;
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return device == 2 ? cudaSuccess : cudaErrorInvalidDevice;
}

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorNoDevice ? "cudaErrorNoDevice" : "cudaErrorLaunchFailure";
}

const char* cudaGetErrorString(cudaError_t) { return "played by the test"; }

}  // extern "C"
