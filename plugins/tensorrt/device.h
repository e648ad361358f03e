// The GPU that the calling thread uses.

#ifndef BITEXPORT_TENSORRT_DEVICE_H_
#define BITEXPORT_TENSORRT_DEVICE_H_

#include <cuda_runtime_api.h>

namespace bitexport {
namespace trt {

// Throws a Failure that says what was tried and how CUDA calls the error; nothing on success.
void check_cuda(cudaError_t error, const char* attempt);

// Major * 10 + minor of the current device.
int compute_capability();

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_DEVICE_H_
