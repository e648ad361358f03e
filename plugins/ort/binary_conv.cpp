#include "ort/binary_conv.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace bitexport {
namespace ort {
namespace {

// Every op here starts with the inputs of BinaryConv.
using Input = BinaryConvInput;

constexpr bool all_start_alike() {
  for (const OpSpec& op : kOps) {
    if (has_binary_activations(op) &&
        (input_index(op, "X") != Input::kX || input_index(op, "W") != Input::kW ||
         input_index(op, "Th") != Input::kTh || input_index(op, "S") != Input::kS ||
         input_index(op, "B") != Input::kB)) {
      return false;
    }
  }
  return true;
}
static_assert(all_start_alike());

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

float single_number(const KernelInfo& info, const OpSpec& spec, const char* name) {
  return *info.constant(input_index(spec, name), name, TensorType::kFloat, {1, 1, 1, 1})
              .as<float>();
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
      residual_input_(input_index(spec, "R")),
      activation_(activation_of(spec)),
      kernel_(make_kernel(info, attributes_)),
      threshold_(per_channel(info, Input::kTh, "Th", attributes_.weight[1] * attributes_.group)),
      scale_(per_channel(info, Input::kS, "S", attributes_.weight[0])),
      bias_(per_channel(info, Input::kB, "B", attributes_.weight[0])) {
  if (activation_ == Activation::kPRelu) {
    slope_ = per_channel(info, input_index(spec, "Slope"), "Slope", attributes_.weight[0]);
    shift_ = per_channel(info, input_index(spec, "Shift"), "Shift", attributes_.weight[0]);
  } else if (activation_ == Activation::kClip) {
    low_ = single_number(info, spec, "Lo");
    high_ = single_number(info, spec, "Hi");
    if (!(low_ <= high_)) {
      throw Failure("expected Lo <= Hi, got " + std::to_string(low_) + " and " +
                    std::to_string(high_));
    }
  }
}

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
  cpu::Epilogue own = epilogue();
  own.residual = r ? r->data() : nullptr;
  convolve_batch(context, *plan, shape, x.data(), threshold_.data(), own, y.data());
  y.finish();
}

cpu::Epilogue BinaryConv::epilogue() const {
  cpu::Epilogue result = {scale_.data(), bias_.data(), nullptr};
  result.activation = activation_;
  result.slope = slope_.data();
  result.shift = shift_.data();
  result.low = low_;
  result.high = high_;
  return result;
}

std::optional<FloatInput> BinaryConv::residual(const KernelContext& context, const Shape& y) const {
  if (residual_input_ < 0) return std::nullopt;
  const Tensor r = context.input(residual_input_);
  if (r.shape != y) {
    throw Failure("expected R of Y's shape " + to_string(y) + ", got " + to_string(r.shape));
  }
  return FloatInput(context, r);
}

}  // namespace ort
}  // namespace bitexport
