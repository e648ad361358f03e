// The kernels of the implicit GEMM.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_GLOBAL_CUH_
#define BITEXPORT_KERNELS_CUDA_CONV_GLOBAL_CUH_

#include "kernels/cuda/conv_main_loop.h"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/global.cuh"

namespace bitexport {
namespace cuda {

template <typename Block>
struct RunConv {
  static constexpr bool on(int arch) {
    switch (Block::kOp) {
      case MmaOp::kXorPopc:
        return arch < 900;
      case MmaOp::kAndPopc:
        return 900 <= arch && arch < 1000;
      case MmaOp::kBfloat:
        return arch >= 800;
      default:
        return true;
    }
  }
  template <typename Exec>
  static __device__ __forceinline__ void block(const ConvArgs& args, Exec& exec,
                                               std::int64_t number) {
    ConvMainLoop<Block, Exec>(args, exec, number).run();
  }
};

// To be given to a visit function of tactics.h.
struct LaunchConv {
  const ConvPlan& plan;
  cudaStream_t stream;
  cudaError_t& error;

  template <typename Block>
  void operator()(TypeTag<Block>) const {
    error = launch_blocks<RunConv<Block>, Block>(plan.conv, plan.conv_blocks, stream);
  }
};

template <MmaOp op>
cudaError_t launch_binary(const ConvPlan& plan, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  visit_binary_block<op>(plan.tactic.tile, plan.chunk_bytes, LaunchConv{plan, stream, error});
  return error;
}

template <WeightSource source>
cudaError_t launch_real(const ConvPlan& plan, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  visit_real_block<source>(plan.type, plan.tactic.tile, LaunchConv{plan, stream, error});
  return error;
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_GLOBAL_CUH_
