#include "kernels/cuda/direct.h"
#include "kernels/cuda/global.cuh"
#include "kernels/cuda/kernels.h"

namespace bitexport {
namespace cuda {

namespace {

struct DirectBlock {
  static constexpr int kThreads = kPrologueThreads;
  static constexpr std::uint32_t kSharedBytes = 0;
  struct Thread {};
};

template <WeightKind kind, typename T, typename Sum>
struct RunDirect {
  static constexpr bool on(int) { return true; }
  template <typename Exec>
  static __device__ __forceinline__ void block(const DirectArgs& args, Exec& exec,
                                               std::int64_t number) {
    exec.each([&](int tid, auto&) {
      direct_element<kind, T, Sum>(args, number * DirectBlock::kThreads + tid);
    });
  }
};

template <WeightKind kind, typename T, typename Sum>
cudaError_t launch_sum(const ConvPlan& plan, cudaStream_t stream) {
  const std::int64_t blocks = ceil_div<std::int64_t>(plan.direct.elements, DirectBlock::kThreads);
  return launch_blocks<RunDirect<kind, T, Sum>, DirectBlock>(plan.direct, blocks, stream);
}

template <WeightKind kind, typename T>
cudaError_t launch_type(const ConvPlan& plan, cudaStream_t stream) {
  if constexpr (kind == WeightKind::kBinary) {
    return launch_sum<kind, T, std::int32_t>(plan, stream);
  } else if (plan.tactic.reference) {
    return launch_sum<kind, T, double>(plan, stream);
  } else {
    return launch_sum<kind, T, float>(plan, stream);
  }
}

template <WeightKind kind>
cudaError_t launch_kind(const ConvPlan& plan, cudaStream_t stream) {
  return plan.type == DataType::kFloat16 ? launch_type<kind, std::uint16_t>(plan, stream)
                                         : launch_type<kind, float>(plan, stream);
}

}  // namespace

cudaError_t launch_direct(const ConvPlan& plan, cudaStream_t stream) {
  switch (plan.kind) {
    case WeightKind::kSign:
      return launch_kind<WeightKind::kSign>(plan, stream);
    case WeightKind::kBinary:
      return launch_kind<WeightKind::kBinary>(plan, stream);
    case WeightKind::kCodebook8:
      return launch_kind<WeightKind::kCodebook8>(plan, stream);
    case WeightKind::kCodebook16:
      return launch_kind<WeightKind::kCodebook16>(plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace bitexport
