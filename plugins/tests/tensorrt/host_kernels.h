// A double of the CUDA kernels that computes on host memory, and of the device that they run on.
//
// It stands in for kernels/cuda where no GPU is: what a plugin passes through launch.h can then be
// checked, and a failing device be played.

#ifndef BITEXPORT_TESTS_TENSORRT_HOST_KERNELS_H_
#define BITEXPORT_TESTS_TENSORRT_HOST_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

namespace bitexport_test {

// Tactics of the double. Some take some problems only, as tactics of kernels do.
inline constexpr int kAnyTactic = 3;
inline constexpr int kBatchTactic = 7;      // takes batches of two and more
inline constexpr int kVectorTactic = 0x51;  // takes NHWC8

struct HostDevice {
  int compute_capability = 90;             // or BITEXPORT_TEST_CAPABILITY of the environment
  cudaError_t query_error = cudaSuccess;   // of asking for the device
  cudaError_t launch_error = cudaSuccess;  // of a launch
  bool has_tactics = true;

  struct Launch {
    int tactic;
    cudaStream_t stream;
    const void* workspace;
  };
  std::vector<Launch> launches;
};

HostDevice& host_device();

// Scratch of a tactic: most for a batch of one, as where sums are split.
std::size_t host_workspace_bytes(int tactic, int batch);

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_HOST_KERNELS_H_
