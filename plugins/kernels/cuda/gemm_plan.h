// How a tactic computes a linear layer: by warps for few rows of X, or as a 1x1 convolution.

#ifndef BITEXPORT_KERNELS_CUDA_GEMM_PLAN_H_
#define BITEXPORT_KERNELS_CUDA_GEMM_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/codebook_gemm.h"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/problem.h"

namespace bitexport {
namespace cuda {

struct GemmPlan {
  DataType type;

  bool by_conv;
  ConvProblem conv_problem;
  ConvBuffers conv_buffers;
  int conv_tactic;

  int block_batch;  // rows of X that a block takes: 1, 2, 4 or 8
  int step;         // weights of a centroid that are read at once: 1, 4 or 8
  GemmArgs args;
  std::int64_t blocks;
};

// Fills in `plan`; false where the tactic does not take the problem.
bool make_gemm_plan(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                    GemmPlan* plan);

// As gemm_tactics in launch.h.
int list_gemm_tactics(const GemmProblem& problem, int compute_capability, int* tactics,
                      int capacity);

// Calls visit(TypeTag<GemmBlock<...>>).
template <typename T, int kStep, typename Visit>
bool visit_gemm_batch(int batch, Visit visit) {
  switch (batch) {
    case 1:
      visit(TypeTag<GemmBlock<T, 1, kStep>>{});
      return true;
    case 2:
      visit(TypeTag<GemmBlock<T, 2, kStep>>{});
      return true;
    case 4:
      visit(TypeTag<GemmBlock<T, 4, kStep>>{});
      return true;
    case 8:
      visit(TypeTag<GemmBlock<T, 8, kStep>>{});
      return true;
    default:
      return false;
  }
}

template <typename T, typename Visit>
bool visit_gemm_step(int batch, int step, Visit visit) {
  if (step == 8) return visit_gemm_batch<T, 8>(batch, visit);
  if (step == 4) return visit_gemm_batch<T, 4>(batch, visit);
  return visit_gemm_batch<T, 1>(batch, visit);
}

template <typename Visit>
bool visit_gemm_block(DataType type, int batch, int step, Visit visit) {
  return type == DataType::kFloat16 ? visit_gemm_step<std::uint16_t>(batch, step, visit)
                                    : visit_gemm_step<float>(batch, step, visit);
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_GEMM_PLAN_H_
