#include "ort/binary_conv.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bitexport {
namespace ort {
namespace {

// BinaryConvAdd has the inputs of BinaryConv, and R after them.
using Input = BinaryConvAddInput;
static_assert(Input::kX == +BinaryConvInput::kX && Input::kW == +BinaryConvInput::kW &&
              Input::kTh == +BinaryConvInput::kTh && Input::kS == +BinaryConvInput::kS &&
              Input::kB == +BinaryConvInput::kB);

// Packed activations that are to stay in a core's L2 cache from packing to convolving.
constexpr std::size_t kCachedBytes = 256 * 1024;

std::unique_ptr<const cpu::BinaryConvKernel> make_kernel(const KernelInfo& info,
                                                         const ConvArguments& attributes) {
  const ConvShape shape = smallest_shape(attributes);
  const Tensor words = info.constant(
      Input::kW, "W", TensorType::kInt32,
      {shape.out_channels, shape.vertical.kernel, shape.horizontal.kernel, shape.words_per_tap()});
  return cpu::make_binary_conv(shape, words.as<std::uint32_t>(), cpu::chosen_isa());
}

std::vector<float> per_channel(const KernelInfo& info, int input, const char* name,
                               std::int64_t channels) {
  const auto* values =
      info.constant(input, name, TensorType::kFloat, {1, channels, 1, 1}).as<float>();
  return std::vector<float>(values, values + channels);
}

// Kernels copy the image with its pads, in whole strides: far pads or strides on a small image ask
// for more memory than a small result would tell.
void check_padded_size(const ConvShape& shape) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 34;
  const auto extent = [](const ConvAxis& axis) {
    return std::int64_t{axis.size} + axis.pad_begin + axis.pad_end + axis.stride;
  };
  const std::int64_t height = extent(shape.vertical);
  const std::int64_t width = extent(shape.horizontal);
  if (!conv_shape_detail::product_within(kMostElements, {shape.in_channels, height, width})) {
    throw Failure("expected at most 2^34 elements in an image with its pads and strides, got " +
                  to_string({shape.in_channels, height, width}));
  }
}

// One Run: images by the handful, so that few threads are not kept waiting at each, and the packed
// activations of a handful stay in the cache.
void convolve_batch(const KernelContext& context, const cpu::BinaryConvPlan& plan,
                    const ConvShape& shape, const float* x, const float* threshold,
                    const cpu::Epilogue& epilogue, float* y) {
  constexpr std::size_t kAlignment = cpu::kWorkspaceAlignment;
  const std::int64_t x_size = shape.input_elements() / shape.batch;
  const std::int64_t y_size = shape.output_elements() / shape.batch;
  const std::size_t bytes = (plan.workspace_bytes() + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t cached =
      std::max<std::size_t>(1, kCachedBytes / std::max<std::size_t>(1, bytes));
  const auto handful =
      static_cast<std::int64_t>(std::min(static_cast<std::size_t>(shape.batch), cached));
  const Scratch scratch = context.scratch(bytes * static_cast<std::size_t>(handful), kAlignment);
  const auto workspace = [&](std::int64_t image) {
    return static_cast<char*>(scratch.data()) + static_cast<std::size_t>(image) * bytes;
  };
  for (std::int64_t first = 0; first < shape.batch; first += handful) {
    const std::int64_t images = std::min(handful, shape.batch - first);
    context.parallel_for(images * plan.pack_units(), [&](std::int64_t unit) {
      const std::int64_t image = unit / plan.pack_units();
      plan.pack(static_cast<std::int32_t>(unit % plan.pack_units()), x + (first + image) * x_size,
                threshold, workspace(image));
    });
    context.parallel_for(images * plan.conv_units(), [&](std::int64_t unit) {
      const std::int64_t image = unit / plan.conv_units();
      const std::int64_t start = (first + image) * y_size;
      cpu::Epilogue own = epilogue;
      if (own.residual != nullptr) own.residual += start;
      plan.convolve(static_cast<std::int32_t>(unit % plan.conv_units()), workspace(image), own,
                    y + start);
    });
  }
}

}  // namespace

BinaryConv::BinaryConv(const OpSpec& spec, const KernelInfo& info)
    : attributes_(read_conv_attributes(info)),
      adds_residual_(input_index(spec, "R") >= 0),
      kernel_(make_kernel(info, attributes_)),
      threshold_(per_channel(info, Input::kTh, "Th", attributes_.weight[1] * attributes_.group)),
      scale_(per_channel(info, Input::kS, "S", attributes_.weight[0])),
      bias_(per_channel(info, Input::kB, "B", attributes_.weight[0])) {}

void BinaryConv::compute(KernelContext& context) const {
  const Tensor x_tensor = context.input(Input::kX);
  const ConvShape shape = conv_shape(attributes_, x_tensor.shape);
  check_padded_size(shape);
  const Shape y_shape = output_shape(shape);
  const std::optional<FloatInput> r = residual(context, y_shape);
  const Tensor y_tensor = context.output(0, y_shape);
  if (shape.batch == 0) return;
  const FloatInput x(context, x_tensor);
  const FloatOutput y(context, y_tensor);
  const auto plan =
      plans_.get(shape.vertical.size, shape.horizontal.size, [&] { return kernel_->plan(shape); });
  const cpu::Epilogue epilogue = {scale_.data(), bias_.data(), r ? r->data() : nullptr};
  convolve_batch(context, *plan, shape, x.data(), threshold_.data(), epilogue, y.data());
  y.finish();
}

std::optional<FloatInput> BinaryConv::residual(const KernelContext& context, const Shape& y) const {
  if (!adds_residual_) return std::nullopt;
  const Tensor r = context.input(Input::kR);
  if (r.shape != y) {
    throw Failure("expected R of Y's shape " + to_string(y) + ", got " + to_string(r.shape));
  }
  return FloatInput(context, r);
}

}  // namespace ort
}  // namespace bitexport
