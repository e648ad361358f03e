#include "ort/cuda/gemm.h"

#include <limits>
#include <string>

#include "core/packing.h"
#include "kernels/cuda/launch.h"

namespace bitexport {
namespace ort {
namespace gpu {
namespace {

using cuda::GemmBuffers;
using cuda::GemmProblem;
using In = CodebookInput;

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

Choice choose(const GemmProblem& problem, const Device& device) {
  Choice choice{};
  require_kernel(cuda::gemm_tactics(problem, device.compute_capability, &choice.tactic, 1), device);
  choice.workspace_bytes = cuda::gemm_workspace_bytes(problem, choice.tactic);
  return choice;
}

}  // namespace

Gemm::Gemm(const OpSpec&, const KernelInfo& info) {
  info.integers("wshape", wshape_, 2);
  if (wshape_[0] < 1 || wshape_[1] < 1 || wshape_[0] > kMost || wshape_[1] > kMost) {
    throw Failure("every number of wshape must be from 1 to 2^31 - 1, got " +
                  to_string({wshape_[0], wshape_[1]}) + "; export the model again");
  }
}

void Gemm::compute(KernelContext& context) const {
  const Tensor x = context.input(In::kX);
  if (x.shape.size() != 2 || x.shape[1] != wshape_[1] || x.shape[0] > kMost) {
    throw Failure("expected X of shape [N, " + std::to_string(wshape_[1]) + "], got " +
                  to_string(x.shape));
  }
  const Codebook codebook = codebook_of(context, CodeBits::k16, wshape_[0], wshape_[1]);
  GemmProblem problem{};
  problem.batch = static_cast<std::int32_t>(x.shape[0]);
  problem.in_features = static_cast<std::int32_t>(wshape_[1]);
  problem.out_features = static_cast<std::int32_t>(wshape_[0]);
  problem.entries = codebook.entries;
  problem.depth = codebook.depth;
  problem.type = data_type(x);
  const auto per_feature = [&](int place, const char* name) {
    return required(context, place, name, TensorType::kFloat, {1, wshape_[0]}).as<float>();
  };
  GemmBuffers buffers{};
  buffers.x = x.data;
  buffers.codes = codebook.codes.as<std::uint32_t>();
  buffers.codebook = codebook.centroids.data;
  buffers.scale = per_feature(In::kS, "S");
  buffers.bias = per_feature(In::kB, "B");
  const Tensor y = context.output(0, {x.shape[0], wshape_[0]});
  if (problem.batch == 0) return;
  require_alignment(x, "X");
  require_alignment(y, "Y");
  buffers.y = y.data;
  const Device device = current_device();
  const Choice choice = choice_.get(x.shape, device, [&] { return choose(problem, device); });
  const Workspace workspace(context, device, choice.workspace_bytes);
  buffers.workspace = workspace.data();
  check_cuda(cuda::gemm(problem, buffers, choice.tactic, stream_of(context)), "the linear layer");
}

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport
