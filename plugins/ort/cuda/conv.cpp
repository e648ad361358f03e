#include "ort/cuda/conv.h"

#include "core/packing.h"
#include "kernels/cuda/launch.h"

namespace bitexport {
namespace ort {
namespace gpu {
namespace {

using cuda::ConvBuffers;
using cuda::ConvProblem;
using cuda::WeightKind;

Choice choose(const ConvProblem& problem, const Device& device) {
  Choice choice{};
  require_kernel(cuda::conv_tactics(problem, device.compute_capability, &choice.tactic, 1), device);
  choice.workspace_bytes = cuda::conv_workspace_bytes(problem, choice.tactic);
  return choice;
}

}  // namespace

Conv::Conv(const OpSpec& spec, const KernelInfo& info)
    : at_(spec),
      kind_(cuda::weight_kind(spec)),
      activation_(activation_of(spec)),
      attributes_(read_conv_attributes(info)) {
  smallest_shape(attributes_);  // throws where no input at all could be right
}

void Conv::read(const KernelContext& context, ConvProblem& problem, ConvBuffers& buffers) const {
  const ConvShape& shape = problem.shape;
  problem.kind = kind_;
  problem.activation = activation_;
  problem.layout = cuda::Layout::kNchw;
  if (at_.codebook >= 0) {
    const CodeBits bits = kind_ == WeightKind::kCodebook8 ? CodeBits::k8 : CodeBits::k16;
    const Codebook codebook = codebook_of(context, bits, shape.out_channels,
                                          shape.weight_elements() / shape.out_channels);
    problem.entries = codebook.entries;
    problem.depth = codebook.depth;
    buffers.weight = codebook.codes.as<std::uint32_t>();
    buffers.codebook = codebook.centroids.data;
  } else {
    const Shape words = {shape.out_channels, shape.vertical.kernel, shape.horizontal.kernel,
                         shape.words_per_tap()};
    buffers.weight =
        required(context, at_.weight, "W", TensorType::kInt32, words).as<std::uint32_t>();
  }
  const auto per_channel = [&](int place, const char* name, std::int64_t channels) {
    return required(context, place, name, TensorType::kFloat, {1, channels, 1, 1}).as<float>();
  };
  buffers.scale = per_channel(at_.scale, "S", shape.out_channels);
  buffers.bias = per_channel(at_.bias, "B", shape.out_channels);
  if (at_.threshold >= 0) buffers.threshold = per_channel(at_.threshold, "Th", shape.in_channels);
  if (activation_ == Activation::kPRelu) {
    buffers.slope = per_channel(at_.slope, "Slope", shape.out_channels);
    buffers.shift = per_channel(at_.shift, "Shift", shape.out_channels);
  } else if (activation_ == Activation::kClip) {
    buffers.low = per_channel(at_.low, "Lo", 1);
    buffers.high = per_channel(at_.high, "Hi", 1);
  }
}

void Conv::compute(KernelContext& context) const {
  const Tensor x = context.input(at_.x);
  ConvProblem problem{};
  ConvBuffers buffers{};
  problem.shape = conv_shape(attributes_, x.shape);
  problem.type = data_type(x);
  require_alignment(x, "X");
  buffers.x = x.data;
  read(context, problem, buffers);
  const Shape y_shape = output_shape(problem.shape);
  if (at_.residual >= 0) {
    problem.residual = true;
    buffers.residual = required(context, at_.residual, "R", x.type, y_shape).data;
  }
  const Tensor y = context.output(0, y_shape);
  if (problem.shape.batch == 0) return;
  require_alignment(y, "Y");
  buffers.y = y.data;
  const Device device = current_device();
  const Choice choice = choice_.get(x.shape, device, [&] { return choose(problem, device); });
  const Workspace workspace(context, device, choice.workspace_bytes);
  buffers.workspace = workspace.data();
  check_cuda(cuda::conv(problem, buffers, choice.tactic, stream_of(context)), "the convolution");
}

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport
