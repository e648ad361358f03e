#include "kernels/cuda/global.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/prologue.h"

namespace bitexport {
namespace cuda {

namespace {

struct OnAnyGpu {
  static constexpr bool on(int) { return true; }
};

// Blocks after those that work on X work on the table of corrections: one launch for both.
template <typename Exec>
__device__ __forceinline__ bool corrects(const PrologueArgs& args, Exec& exec,
                                         std::int64_t number) {
  if (number < args.blocks) return false;
  write_corrections(args, exec, number - args.blocks);
  return true;
}

// A block of the transposing kinds has the registers of the table's blocks, which are the more.
template <typename Unit>
struct PrologueBlock : TransposeBlock<Unit> {
  using Thread = CorrectionsBlock::Thread;
};

template <typename Unit>
struct RunTranspose : OnAnyGpu {
  template <typename Exec>
  static __device__ __forceinline__ void block(const PrologueArgs& args, Exec& exec,
                                               std::int64_t number) {
    if (!corrects(args, exec, number)) transpose_tile<Unit>(args, exec, number);
  }
};

struct RunBytes : OnAnyGpu {
  template <typename Exec>
  static __device__ __forceinline__ void block(const PrologueArgs& args, Exec& exec,
                                               std::int64_t number) {
    if (!corrects(args, exec, number)) binarize_bytes(args, exec, number);
  }
};

struct ExpandBlock {
  static constexpr int kThreads = kPrologueThreads;
  static constexpr std::uint32_t kSharedBytes = 0;
  struct Thread {};
};

struct RunExpand : OnAnyGpu {
  template <typename Exec>
  static __device__ __forceinline__ void block(const ExpandArgs& args, Exec& exec,
                                               std::int64_t number) {
    exec.each([&](int tid, auto&) { expand_codes(args, number * ExpandBlock::kThreads + tid); });
  }
};

template <typename Unit>
cudaError_t launch_transpose(const ConvPlan& plan, std::int64_t blocks, cudaStream_t stream) {
  return launch_blocks<RunTranspose<Unit>, PrologueBlock<Unit>>(plan.prologue, blocks, stream);
}

cudaError_t launch_prepare(const ConvPlan& plan, cudaStream_t stream) {
  const std::int64_t blocks = plan.prologue.blocks + plan.correction_blocks;
  switch (plan.prepare) {
    case Prepare::kNothing:
      return cudaSuccess;
    case Prepare::kSignsOfFloats:
      return launch_transpose<SignUnit<float>>(plan, blocks, stream);
    case Prepare::kSignsOfHalves:
      return launch_transpose<SignUnit<std::uint16_t>>(plan, blocks, stream);
    case Prepare::kSignBytes:
      return launch_blocks<RunBytes, CorrectionsBlock>(plan.prologue, blocks, stream);
    case Prepare::kHalves:
      return launch_transpose<HalfUnit>(plan, blocks, stream);
    case Prepare::kBfloats:
      return launch_transpose<BfloatUnit>(plan, blocks, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_prologue(const ConvPlan& plan, cudaStream_t stream) {
  const cudaError_t error = launch_prepare(plan, stream);
  if (error != cudaSuccess || !plan.expands) return error;
  const std::int64_t blocks = ceil_div<std::int64_t>(plan.expand.vectors, ExpandBlock::kThreads);
  return launch_blocks<RunExpand, ExpandBlock>(plan.expand, blocks, stream);
}

}  // namespace cuda
}  // namespace bitexport
