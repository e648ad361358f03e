#include "tensorrt/conv_layer.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "tensorrt/codebook_desc.h"
#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

using cuda::ConvProblem;
using cuda::WeightKind;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::TensorFormat;

constexpr int kRank = 4;

ConvArguments arguments_of(const Attributes& attributes) {
  ConvArguments arguments{};
  const auto copy = [&attributes](const char* name, std::int64_t* to) {
    const std::vector<std::int32_t>& values = attributes[name];
    std::copy(values.begin(), values.end(), to);
  };
  copy("wshape", arguments.weight);
  copy("strides", arguments.strides);
  copy("pads", arguments.pads);
  copy("dilations", arguments.dilations);
  copy("group", &arguments.group);
  return arguments;
}

ConvShape require(const ConvShapeResult& result, const std::string& hint) {
  if (result.ok()) return result.shape;
  throw Failure(std::string(describe(result.error)) + ", got " + std::to_string(result.got) + hint);
}

Dims dims_of_y(const ConvShape& shape) {
  return {
      kRank,
      {shape.batch, shape.out_channels, shape.vertical.out_size(), shape.horizontal.out_size()}};
}

}  // namespace

ConvLayer::ConvLayer(const Attributes& attributes)
    : Layer(attributes),
      at_(spec()),
      kind_(cuda::weight_kind(spec())),
      activation_(activation_of(spec())),
      arguments_(arguments_of(attributes)) {
  require(smallest_conv_shape(arguments_), "; export the model again");
}

bool ConvLayer::takes(DataType type, TensorFormat format) const {
  if (type == DataType::kHALF) {
    return format == TensorFormat::kHWC8 || format == TensorFormat::kLINEAR;
  }
  return type == DataType::kFLOAT && format == TensorFormat::kLINEAR;
}

ConvShape ConvLayer::shape_on(const Dims& x) const {
  if (x.nbDims != kRank) throw Failure("expected X [N, Ci, H, W], got " + to_string(x));
  ConvArguments arguments = arguments_;
  std::copy(x.d, x.d + kRank, arguments.input);
  return require(make_conv_shape(arguments), "; X is " + to_string(x));
}

void ConvLayer::infer_output(const nvinfer1::DimsExprs* inputs, const Sizes& sizes,
                             nvinfer1::DimsExprs& output) const {
  const nvinfer1::DimsExprs& x = inputs[at_.x];
  // What is unknown is taken from the smallest input that is valid, so that the rest is checked.
  const ConvShape smallest = smallest_conv_shape(arguments_).shape;
  const std::int64_t stand_ins[] = {1, smallest.in_channels, smallest.vertical.size,
                                    smallest.horizontal.size};
  Dims known{x.nbDims, {}};
  for (int i = 0; i < std::min<int>(x.nbDims, kRank); ++i) {
    known.d[i] = x.d[i]->isConstant() ? x.d[i]->getConstantValue() : stand_ins[i];
  }
  const ConvShape shape = shape_on(known);
  const auto size_along = [&sizes](Sizes::Expr size, const ConvAxis& axis) {
    const std::int64_t extent = std::int64_t{axis.dilation} * (axis.kernel - 1) + 1;
    const std::int64_t pads = std::int64_t{axis.pad_begin} + axis.pad_end;
    return sizes.steps(size, pads - extent, axis.stride);
  };
  output.nbDims = kRank;
  output.d[0] = x.d[0];
  output.d[1] = sizes.constant(shape.out_channels);
  output.d[2] = size_along(x.d[2], shape.vertical);
  output.d[3] = size_along(x.d[3], shape.horizontal);
}

void ConvLayer::require_weight(const ConvShape& shape, const TensorDesc* inputs) const {
  require_dims(
      "W", inputs[at_.weight],
      {shape.out_channels, shape.vertical.kernel, shape.horizontal.kernel, shape.words_per_tap()});
}

ConvProblem ConvLayer::problem(const TensorDesc* inputs) const {
  const TensorDesc& x = inputs[at_.x];
  const ConvShape shape = shape_on(x.dims);
  CodebookSize codebook = {0, 0};
  if (at_.codebook >= 0) {
    const CodeBits bits = kind_ == WeightKind::kCodebook8 ? CodeBits::k8 : CodeBits::k16;
    codebook = require_codebook(inputs[at_.weight], inputs[at_.codebook], bits, shape.out_channels,
                                std::int64_t{1} * shape.in_channels_per_group() * shape.taps());
  } else {
    require_weight(shape, inputs);
  }
  if (at_.threshold >= 0) {
    require_dims("Th", inputs[at_.threshold], {1, shape.in_channels, 1, 1});
  }
  require_dims("S", inputs[at_.scale], {1, shape.out_channels, 1, 1});
  require_dims("B", inputs[at_.bias], {1, shape.out_channels, 1, 1});
  if (at_.residual >= 0) {
    const Dims y = dims_of_y(shape);
    require_dims("R", inputs[at_.residual], {y.d[0], y.d[1], y.d[2], y.d[3]});
  }
  if (activation_ == Activation::kPRelu) {
    require_dims("Slope", inputs[at_.slope], {1, shape.out_channels, 1, 1});
    require_dims("Shift", inputs[at_.shift], {1, shape.out_channels, 1, 1});
  } else if (activation_ == Activation::kClip) {
    require_dims("Lo", inputs[at_.low], {1, 1, 1, 1});
    require_dims("Hi", inputs[at_.high], {1, 1, 1, 1});
  }
  return {shape,          kind_,      data_type(x), layout(x), at_.residual >= 0, codebook.entries,
          codebook.depth, activation_};
}

Dims ConvLayer::output_dims(const TensorDesc* inputs) const {
  return dims_of_y(problem(inputs).shape);
}

std::vector<int> ConvLayer::tactics(const TensorDesc* inputs, int compute_capability) const {
  const ConvProblem conv = problem(inputs);
  std::vector<int> tactics(
      static_cast<std::size_t>(cuda::conv_tactics(conv, compute_capability, nullptr, 0)));
  cuda::conv_tactics(conv, compute_capability, tactics.data(), static_cast<int>(tactics.size()));
  return tactics;
}

std::size_t ConvLayer::workspace_bytes(const TensorDesc* inputs, int tactic) const {
  return cuda::conv_workspace_bytes(problem(inputs), tactic);
}

cudaError_t ConvLayer::launch(const TensorDesc* inputs, int tactic, const Bindings& at) const {
  const ConvProblem conv = problem(inputs);
  if (conv.shape.batch == 0) return cudaSuccess;
  const auto input = [&at](int place) { return place < 0 ? nullptr : at.inputs[place]; };
  const auto floats = [&input](int place) { return static_cast<const float*>(input(place)); };
  const cuda::ConvBuffers buffers = {
      input(at_.x),        static_cast<const std::uint32_t*>(input(at_.weight)),
      input(at_.codebook), floats(at_.threshold),
      floats(at_.scale),   floats(at_.bias),
      input(at_.residual), at.output,
      at.workspace,        floats(at_.slope),
      floats(at_.shift),   floats(at_.low),
      floats(at_.high)};
  return cuda::conv(conv, buffers, tactic, at.stream);
}

}  // namespace trt
}  // namespace bitexport
