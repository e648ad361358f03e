#include "tests/tensorrt/host_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/reference.h"
#include "kernels/cuda/launch.h"
#include "tests/tensorrt/activations.h"

namespace bitexport_test {

std::size_t host_workspace_bytes(int tactic, int batch) {
  return tactic == kVectorTactic ? 0
                                 : 256u * static_cast<std::size_t>(tactic) / (batch < 4 ? 1 : 4);
}

namespace {

using bitexport::CodeBits;
using bitexport::ConvShape;
using bitexport::cuda::ConvBuffers;
using bitexport::cuda::ConvProblem;
using bitexport::cuda::DataType;
using bitexport::cuda::Layout;
using bitexport::cuda::WeightKind;
namespace reference = bitexport::reference;

int list_tactics(std::initializer_list<int> tactics, int* to, int capacity) {
  if (!host_device().has_tactics) return 0;
  std::copy_n(tactics.begin(), std::min<int>(capacity, static_cast<int>(tactics.size())), to);
  return static_cast<int>(tactics.size());
}

// Records a launch, and writes all of its workspace, so that a small one is found out.
cudaError_t start(int tactic, int batch, void* workspace, cudaStream_t stream) {
  host_device().launches.push_back({tactic, stream, workspace});
  const std::size_t bytes = host_workspace_bytes(tactic, batch);
  if (bytes > 0) std::memset(workspace, 0x3c, bytes);
  return host_device().launch_error;
}

Activations activations(const ConvShape& s, const ConvProblem& problem, bool of_output) {
  return {s.batch,
          of_output ? s.out_channels : s.in_channels,
          of_output ? s.vertical.out_size() : s.vertical.size,
          of_output ? s.horizontal.out_size() : s.horizontal.size,
          problem.type == DataType::kFloat16,
          problem.layout == Layout::kNhwc8};
}

std::vector<float> codebook_weight(const ConvProblem& problem, const ConvBuffers& buffers) {
  const ConvShape& s = problem.shape;
  std::vector<float> codebook;
  for (std::int64_t i = 0; i < std::int64_t{problem.entries} * problem.depth; ++i) {
    const auto* halves = static_cast<const std::uint16_t*>(buffers.codebook);
    codebook.push_back(bitexport::half_to_float(halves[i]));
  }
  std::vector<float> weight(static_cast<std::size_t>(s.weight_elements()));
  const CodeBits bits = problem.kind == WeightKind::kCodebook8 ? CodeBits::k8 : CodeBits::k16;
  const bool valid = reference::expand_codebook(
      buffers.weight, s.out_channels, s.weight_elements() / s.out_channels / problem.depth, bits,
      codebook.data(), problem.entries, problem.depth, weight.data());
  if (!valid) weight.assign(weight.size(), NAN);
  return weight;
}

std::vector<float> convolve(const ConvProblem& problem, const ConvBuffers& buffers) {
  const ConvShape& s = problem.shape;
  const std::vector<float> x = decode(activations(s, problem, false), buffers.x);
  std::vector<float> y(static_cast<std::size_t>(s.output_elements()));
  if (problem.kind == WeightKind::kBinary) {
    std::vector<std::int32_t> accumulators(y.size());
    reference::binary_conv(s, x.data(), buffers.threshold, buffers.weight, accumulators.data());
    reference::scale_and_shift(s, accumulators.data(), buffers.scale, buffers.bias, nullptr,
                               y.data());
  } else if (problem.kind == WeightKind::kSign) {
    reference::sign_conv(s, x.data(), buffers.weight, buffers.scale, buffers.bias, y.data());
  } else {
    const std::vector<float> weight = codebook_weight(problem, buffers);
    const auto at = [&](auto co, auto c, auto kh, auto kw) {
      const std::int64_t channel = std::int64_t{co} * s.in_channels_per_group() + c;
      const std::int64_t tap = std::int64_t{kh} * s.horizontal.kernel + kw;
      return weight[static_cast<std::size_t>(channel * s.taps() + tap)];
    };
    reference::real_conv(s, x.data(), at, buffers.scale, buffers.bias, y.data());
  }
  return y;
}

}  // namespace
}  // namespace bitexport_test

namespace bitexport {
namespace cuda {

using bitexport_test::host_workspace_bytes;
using bitexport_test::kAnyTactic;
using bitexport_test::kBatchTactic;
using bitexport_test::kVectorTactic;

int conv_tactics(const ConvProblem& problem, int compute_capability, int* tactics, int capacity) {
  if (compute_capability != bitexport_test::host_device().compute_capability) return 0;
  const bool is_batch = problem.shape.batch >= 2;
  if (problem.layout == Layout::kNhwc8) {
    return bitexport_test::list_tactics({kVectorTactic, kAnyTactic}, tactics, capacity);
  }
  if (is_batch) return bitexport_test::list_tactics({kBatchTactic, kAnyTactic}, tactics, capacity);
  return bitexport_test::list_tactics({kAnyTactic}, tactics, capacity);
}

std::size_t conv_workspace_bytes(const ConvProblem& problem, int tactic) {
  return host_workspace_bytes(tactic, problem.shape.batch);
}

cudaError_t conv(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                 cudaStream_t stream) {
  using namespace bitexport_test;
  if (problem.residual != (buffers.residual != nullptr)) return cudaErrorInvalidValue;
  const cudaError_t error = start(tactic, problem.shape.batch, buffers.workspace, stream);
  if (error != cudaSuccess) return error;
  std::vector<float> y = convolve(problem, buffers);
  const Activations of_y = activations(problem.shape, problem, true);
  if (problem.residual) {
    const std::vector<float> residual = decode(of_y, buffers.residual);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += residual[i];
  }
  if (problem.activation == Activation::kPRelu) {
    reference::prelu_and_shift(problem.shape, buffers.slope, buffers.shift, y.data());
  } else if (problem.activation == Activation::kClip) {
    reference::clip(problem.shape, *buffers.low, *buffers.high, y.data());
  }
  const std::vector<std::uint8_t> bytes = encode(of_y, y, 0);
  std::memcpy(buffers.y, bytes.data(), bytes.size());
  return cudaSuccess;
}

cudaError_t binary_accumulate(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                              std::int32_t* accumulators, cudaStream_t stream) {
  using namespace bitexport_test;
  const cudaError_t error = start(tactic, problem.shape.batch, buffers.workspace, stream);
  const std::vector<float> x = decode(activations(problem.shape, problem, false), buffers.x);
  reference::binary_conv(problem.shape, x.data(), buffers.threshold, buffers.weight, accumulators);
  return error;
}

int gemm_tactics(const GemmProblem& problem, int compute_capability, int* tactics, int capacity) {
  if (compute_capability != bitexport_test::host_device().compute_capability) return 0;
  if (problem.batch < 2) return bitexport_test::list_tactics({kAnyTactic}, tactics, capacity);
  return bitexport_test::list_tactics({kBatchTactic, kAnyTactic}, tactics, capacity);
}

std::size_t gemm_workspace_bytes(const GemmProblem& problem, int tactic) {
  return host_workspace_bytes(tactic, problem.batch);
}

// The 1x1 convolution of 1x1 images that computes the same.
cudaError_t gemm(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                 cudaStream_t stream) {
  const ConvShapeResult result =
      make_conv_shape({{problem.batch, problem.in_features, 1, 1},
                       {problem.out_features, problem.in_features, 1, 1}});
  if (!result.ok()) return cudaErrorInvalidValue;
  const ConvProblem as_conv = {result.shape, WeightKind::kCodebook16, problem.type, Layout::kNchw,
                               false,        problem.entries,         problem.depth};
  const ConvBuffers as_buffers = {buffers.x, buffers.codes, buffers.codebook,
                                  nullptr,   buffers.scale, buffers.bias,
                                  nullptr,   buffers.y,     buffers.workspace};
  return conv(as_conv, as_buffers, tactic, stream);
}

}  // namespace cuda
}  // namespace bitexport
