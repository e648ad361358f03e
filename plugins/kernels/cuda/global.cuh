// From the code of a block to a __global__ function and its launch.

#ifndef BITEXPORT_KERNELS_CUDA_GLOBAL_CUH_
#define BITEXPORT_KERNELS_CUDA_GLOBAL_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_exec.cuh"

namespace bitexport {
namespace cuda {

// Run<Block>::block(args, exec, number) is the block's code; Run<Block>::on(arch) is false where a
// GPU of that architecture (as __CUDA_ARCH__) does not have its instructions. The launchers never
// choose such a kernel; were it launched nevertheless, it would fail and not compute wrongly.
template <typename Run, typename Block, typename Args>
__global__ __launch_bounds__(Block::kThreads) void run_block(const __grid_constant__ Args args) {
#if defined(__CUDA_ARCH__)
  if constexpr (Run::on(__CUDA_ARCH__)) {
    extern __shared__ __align__(128) std::uint8_t shared[];
    DeviceExec<typename Block::Thread> exec(shared);
    Run::block(args, exec, static_cast<std::int64_t>(blockIdx.x));
  } else {
    __trap();
  }
#endif
}

// The code of this launch alone: cudaGetLastError would also give away an error from before.
template <typename Run, typename Block, typename Args>
cudaError_t launch_blocks(const Args& args, std::int64_t blocks, cudaStream_t stream) {
  if (blocks == 0) return cudaSuccess;
  const auto function = reinterpret_cast<const void*>(&run_block<Run, Block, Args>);
  constexpr std::uint32_t kWithoutAsking = 48 << 10;
  if constexpr (Block::kSharedBytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        function, cudaFuncAttributeMaxDynamicSharedMemorySize, int{Block::kSharedBytes});
    if (error != cudaSuccess) return error;
  }
  void* parameters[] = {const_cast<Args*>(&args)};
  return cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)),
                          dim3(static_cast<unsigned>(Block::kThreads)), parameters,
                          Block::kSharedBytes, stream);
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_GLOBAL_CUH_
