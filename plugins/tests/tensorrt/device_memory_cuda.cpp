#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "tests/tensorrt/device_memory.h"

namespace bitexport_test {
namespace {

void check(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(attempt) + " failed with " + cudaGetErrorName(error) + " (" +
                           cudaGetErrorString(error) + ")");
}

int attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "asking for the current GPU");
  check(cudaDeviceGetAttribute(&value, which, device), "asking for a GPU's attribute");
  return value;
}

}  // namespace

void* device_allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "allocating GPU memory");
  return memory;
}

void device_free(void* memory) { cudaFree(memory); }

void copy_to_device(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
}

void copy_from_device(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copying from the GPU");
}

void device_synchronize() { check(cudaDeviceSynchronize(), "running the kernels"); }

int device_compute_capability() {
  return attribute(cudaDevAttrComputeCapabilityMajor) * 10 +
         attribute(cudaDevAttrComputeCapabilityMinor);
}

}  // namespace bitexport_test
