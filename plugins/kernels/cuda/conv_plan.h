// How a tactic computes a problem: the kernels to launch, in order, and what each is told.
//
// Made on the host by plain C++; launchers and the tests' emulator follow the same plan.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_PLAN_H_
#define BITEXPORT_KERNELS_CUDA_CONV_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/direct.h"
#include "kernels/cuda/problem.h"
#include "kernels/cuda/prologue.h"
#include "kernels/cuda/tactics.h"

namespace bitexport {
namespace cuda {

// The kernel that prepares X. The number of blocks is PrologueArgs::blocks.
enum class Prepare { kNothing, kSignsOfFloats, kSignsOfHalves, kSignBytes, kHalves, kBfloats };

struct ConvPlan {
  WeightKind kind;
  DataType type;
  Tactic tactic;
  int chunk_bytes;

  Prepare prepare;
  PrologueArgs prologue;
  std::int64_t correction_blocks;  // after the prologue's own blocks

  bool expands;
  ExpandArgs expand;

  // The main kernel: blocks of the implicit GEMM, or threads of the direct one.
  ConvArgs conv;
  std::int64_t conv_blocks;
  DirectArgs direct;

  std::size_t workspace_bytes;
};

// Fills in `plan`; false where the tactic does not take the problem. Where `accumulators` is not
// null they are written in place of Y. Pointers are not followed.
bool make_conv_plan(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                    std::int32_t* accumulators, ConvPlan* plan);

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_PLAN_H_
