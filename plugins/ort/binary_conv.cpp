#include "ort/binary_conv.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/sign_planes.h"

namespace bitexport {
namespace ort {
namespace {

// Every op here starts with the activations and the packed weight.
enum : int { kActivations, kW };

constexpr bool all_start_alike() {
  for (const OpSpec& op : kOps) {
    const char* activations = takes_signs(op) ? "Signs" : "X";
    if (has_binary_activations(op) &&
        (input_index(op, activations) != kActivations || input_index(op, "W") != kW)) {
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
      kW, "W", TensorType::kInt32,
      {shape.out_channels, shape.vertical.kernel, shape.horizontal.kernel, shape.words_per_tap()});
  return cpu::make_binary_conv(shape, words.as<std::uint32_t>(), cpu::chosen_isa());
}

// Empty where the op has no such input.
std::vector<float> per_channel(const KernelInfo& info, const OpSpec& spec, const char* name,
                               std::int64_t channels) {
  const int input = input_index(spec, name);
  if (input < 0) return {};
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
//
// pack(unit, image, workspace) and convolve(unit, image, workspace) do a unit of an image.
template <typename Pack, typename Convolve>
void convolve_batch(const KernelContext& context, const cpu::BinaryConvPlan& plan,
                    std::int64_t batch, std::int32_t conv_units, Pack pack, Convolve convolve) {
  constexpr std::size_t kAlignment = cpu::kWorkspaceAlignment;
  const std::size_t bytes = (plan.workspace_bytes() + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t cached =
      std::max<std::size_t>(1, kCachedBytes / std::max<std::size_t>(1, bytes));
  const auto handful = static_cast<std::int64_t>(std::min(static_cast<std::size_t>(batch), cached));
  const Scratch scratch = context.scratch(bytes * static_cast<std::size_t>(handful), kAlignment);
  const auto workspace = [&](std::int64_t image) {
    return static_cast<char*>(scratch.data()) + static_cast<std::size_t>(image) * bytes;
  };
  for (std::int64_t first = 0; first < batch; first += handful) {
    const std::int64_t images = std::min(handful, batch - first);
    context.parallel_for(images * plan.pack_units(), [&](std::int64_t unit) {
      const std::int64_t image = unit / plan.pack_units();
      pack(static_cast<std::int32_t>(unit % plan.pack_units()), first + image, workspace(image));
    });
    context.parallel_for(images * conv_units, [&](std::int64_t unit) {
      const std::int64_t image = unit / conv_units;
      convolve(static_cast<std::int32_t>(unit % conv_units), first + image, workspace(image));
    });
  }
}

// A tensor between two ops of a chain has room for its words from kFewestSigns channels on.
void require_signs(const char* of, std::int64_t channels, std::int64_t group) {
  if (channels < kFewestSigns) {
    throw Failure("expected at least " + std::to_string(kFewestSigns) + " channels of signs in " +
                  of + ", got " + std::to_string(channels));
  }
  if (group != 1) throw Failure("expected group 1 beside signs, got " + std::to_string(group));
}

std::int64_t pixels_of(const Shape& image) { return image[2] * image[3]; }

// The words of one image.
std::int64_t words_of(const Shape& tensor) { return sign_words(tensor[1]) * pixels_of(tensor); }

// The signs that another op of this library made, see core/sign_planes.h.
const std::uint32_t* signs_in(const Tensor& tensor) {
  const auto* words = tensor.as<std::uint32_t>();
  // What a node made is aligned; numbers of 16 bits that a user feeds need not be.
  const bool aligned = reinterpret_cast<std::uintptr_t>(words) % alignof(std::uint32_t) == 0;
  if (!aligned || !has_sign_stamp(words + tensor.shape[0] * words_of(tensor.shape))) {
    throw Failure(
        "expected Signs that come straight from a node of a chain, got other numbers; feed the "
        "model its own inputs, or export it again");
  }
  return words;
}

}  // namespace

BinaryConv::BinaryConv(const OpSpec& spec, const KernelInfo& info)
    : attributes_(read_conv_attributes(info)),
      residual_input_(input_index(spec, "R")),
      takes_signs_(takes_signs(spec)),
      makes_signs_(makes_signs(spec)),
      activation_(activation_of(spec)),
      kernel_(make_kernel(info, attributes_)),
      threshold_(per_channel(info, spec, "Th", attributes_.weight[1] * attributes_.group)),
      scale_(per_channel(info, spec, "S", attributes_.weight[0])),
      bias_(per_channel(info, spec, "B", attributes_.weight[0])),
      slope_(per_channel(info, spec, "Slope", attributes_.weight[0])),
      shift_(per_channel(info, spec, "Shift", attributes_.weight[0])) {
  if (activation_ == Activation::kClip) {
    low_ = single_number(info, spec, "Lo");
    high_ = single_number(info, spec, "Hi");
    if (!(low_ <= high_)) {
      throw Failure("expected Lo <= Hi, got " + std::to_string(low_) + " and " +
                    std::to_string(high_));
    }
  }
  if (takes_signs_) require_signs("Signs", attributes_.weight[1], attributes_.group);
  if (makes_signs_) {
    require_signs("Y", attributes_.weight[0], attributes_.group);
    const std::vector<float> next = per_channel(info, spec, "Next", attributes_.weight[0]);
    bounds_.emplace(smallest_shape(attributes_), scale_.data(), bias_.data(), next.data());
  }
}

void BinaryConv::compute(KernelContext& context) const {
  const Tensor x = context.input(kActivations);
  const ConvShape shape = conv_shape(attributes_, x.shape);
  check_padded_size(shape);
  const Shape y_shape = output_shape(shape);
  const std::optional<FloatInput> r = residual(context, y_shape);
  const Tensor y = context.output(0, y_shape);
  if (shape.batch == 0) return;
  const auto plan =
      plans_.get(shape.vertical.size, shape.horizontal.size, [&] { return kernel_->plan(shape); });
  if (takes_signs_) {
    const std::uint32_t* words = signs_in(x);
    const std::int64_t image_words = words_of(x.shape);
    return convolve(context, *plan, y, r,
                    [&](std::int32_t unit, std::int64_t image, void* workspace) {
                      plan->pack_signs(unit, words + image * image_words, workspace);
                    });
  }
  const FloatInput floats(context, x);
  const std::int64_t image_floats = shape.input_elements() / shape.batch;
  convolve(context, *plan, y, r, [&](std::int32_t unit, std::int64_t image, void* workspace) {
    plan->pack(unit, floats.data() + image * image_floats, threshold_.data(), workspace);
  });
}

template <typename Pack>
void BinaryConv::convolve(const KernelContext& context, const cpu::BinaryConvPlan& plan,
                          const Tensor& y, const std::optional<FloatInput>& r, Pack pack) const {
  const std::int64_t batch = y.shape[0];
  if (makes_signs_) {
    auto* words = static_cast<std::uint32_t*>(y.data);
    const std::int64_t image_words = words_of(y.shape);
    convolve_batch(context, plan, batch, plan.sign_units(), pack,
                   [&](std::int32_t unit, std::int64_t image, const void* workspace) {
                     plan.convolve_to_signs(unit, workspace, *bounds_, words + image * image_words);
                   });
    return stamp_signs(words + batch * image_words);
  }
  const FloatOutput floats(context, y);
  const std::int64_t image_floats = y.shape[1] * pixels_of(y.shape);
  convolve_batch(context, plan, batch, plan.conv_units(), pack,
                 [&](std::int32_t unit, std::int64_t image, const void* workspace) {
                   const std::int64_t start = image * image_floats;
                   cpu::Epilogue own = epilogue();
                   own.residual = r ? r->data() + start : nullptr;
                   plan.convolve(unit, workspace, own, floats.data() + start);
                 });
  floats.finish();
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
