#include "kernels/cuda/codebook_gemm.h"
#include "kernels/cuda/global.cuh"
#include "kernels/cuda/kernels.h"

namespace bitexport {
namespace cuda {

namespace {

template <typename Block>
struct RunGemm {
  static constexpr bool on(int) { return true; }
  template <typename Exec>
  static __device__ __forceinline__ void block(const GemmArgs& args, Exec& exec,
                                               std::int64_t number) {
    run_gemm<Block>(args, exec, number);
  }
};

}  // namespace

cudaError_t launch_gemm(const GemmPlan& plan, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  visit_gemm_block(plan.type, plan.block_batch, plan.step, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    error = launch_blocks<RunGemm<Block>, Block>(plan.args, plan.blocks, stream);
  });
  return error;
}

}  // namespace cuda
}  // namespace bitexport
