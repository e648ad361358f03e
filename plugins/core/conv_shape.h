// The geometry of a 2-D convolution: checked once at the edge, then passed by value to kernels.

#ifndef BITEXPORT_CORE_CONV_SHAPE_H_
#define BITEXPORT_CORE_CONV_SHAPE_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "core/packing.h"

namespace bitexport {

// Kernel taps first .. last - 1 along one axis.
struct TapRange {
  std::int32_t first;
  std::int32_t last;

  constexpr std::int32_t count() const { return last - first; }
  constexpr bool contains(std::int32_t tap) const { return first <= tap && tap < last; }
};

// One of the two axes that the kernel moves along. Sizes are in pixels, before any padding.
struct ConvAxis {
  std::int32_t size;
  std::int32_t kernel;
  std::int32_t stride;
  std::int32_t pad_begin;
  std::int32_t pad_end;
  std::int32_t dilation;

  constexpr std::int32_t out_size() const {
    return (size + pad_begin + pad_end - dilation * (kernel - 1) - 1) / stride + 1;
  }

  // The input pixel under `tap` for output pixel `out`; outside 0 .. size - 1 it is padding.
  constexpr std::int32_t input_at(std::int32_t out, std::int32_t tap) const {
    return out * stride - pad_begin + tap * dilation;
  }

  // The taps that do not fall on padding. They are neighbours; there may be none.
  constexpr TapRange valid_taps(std::int32_t out) const {
    const std::int32_t to_first_pixel = std::max(0, pad_begin - out * stride);
    const std::int32_t to_end = std::max(0, size + pad_begin - out * stride);
    return {std::min(kernel, steps_over(to_first_pixel)), std::min(kernel, steps_over(to_end))};
  }

 private:
  constexpr std::int32_t steps_over(std::int32_t distance) const {
    return distance / dilation + (distance % dilation != 0 ? 1 : 0);
  }
};

// X [N, Ci, H, W] with a weight [Co, Ci/group, kh, kw] gives Y [N, Co, Ho, Wo].
//
// Made by make_conv_shape, whose checks keep every coordinate and every binary accumulator within
// int32, and every element offset within int64.
struct ConvShape {
  std::int32_t batch;
  std::int32_t in_channels;
  std::int32_t out_channels;
  std::int32_t group;
  ConvAxis vertical;    // H, kh
  ConvAxis horizontal;  // W, kw

  constexpr std::int32_t in_channels_per_group() const { return in_channels / group; }
  constexpr std::int32_t out_channels_per_group() const { return out_channels / group; }
  constexpr std::int32_t taps() const { return vertical.kernel * horizontal.kernel; }

  // Sign words of one tap of one output channel, and of one pixel of one group. A group starts at
  // a word of its own.
  constexpr std::int32_t words_per_tap() const {
    return static_cast<std::int32_t>(sign_words(in_channels_per_group()));
  }

  // Taps of the whole kernel that do not fall on padding at output pixel (row, column).
  constexpr std::int32_t valid_taps(std::int32_t row, std::int32_t column) const {
    return vertical.valid_taps(row).count() * horizontal.valid_taps(column).count();
  }

  constexpr std::int64_t input_elements() const {
    return std::int64_t{1} * batch * in_channels * vertical.size * horizontal.size;
  }
  constexpr std::int64_t output_elements() const {
    return std::int64_t{1} * batch * out_channels * vertical.out_size() * horizontal.out_size();
  }
  constexpr std::int64_t weight_elements() const {
    return std::int64_t{1} * out_channels * in_channels_per_group() * taps();
  }
  // Words of a packed weight [Co, kh, kw, words_per_tap].
  constexpr std::int64_t weight_words() const {
    return std::int64_t{1} * out_channels * taps() * words_per_tap();
  }
  // Words of packed activations [N, H, W, group, words_per_tap].
  constexpr std::int64_t activation_words() const {
    return std::int64_t{1} * batch * vertical.size * horizontal.size * group * words_per_tap();
  }
};

// Shapes and attributes as a runtime delivers them, not yet believed.
struct ConvArguments {
  std::int64_t input[4];   // N, Ci, H, W
  std::int64_t weight[4];  // Co, Ci/group, kh, kw: the attribute wshape
  std::int64_t strides[2] = {1, 1};
  std::int64_t pads[4] = {0, 0, 0, 0};  // top, left, bottom, right
  std::int64_t dilations[2] = {1, 1};
  std::int64_t group = 1;
};

enum class ConvShapeError {
  kNone,
  kBatch,
  kWeightShape,
  kGroup,
  kInputChannels,
  kInputSize,
  kStrides,
  kPads,
  kDilations,
  kKernelPastInput,
  kAccumulator,
  kTensorSize,
};

// What was expected, for the message of an adapter, which adds `got` and the layer's name.
constexpr const char* describe(ConvShapeError error) {
  switch (error) {
    case ConvShapeError::kNone:
      return "the shape is valid";
    case ConvShapeError::kBatch:
      return "the batch must be from 0 to 2^31 - 1";
    case ConvShapeError::kWeightShape:
      return "every number of wshape must be from 1 to 2^31 - 1";
    case ConvShapeError::kGroup:
      return "group must be at least 1 and divide the output channels";
    case ConvShapeError::kInputChannels:
      return "the input must have wshape[1] * group channels, at most 2^31 - 1";
    case ConvShapeError::kInputSize:
      return "height and width must be at least 1, and at most 2^31 - 1 with their pads";
    case ConvShapeError::kStrides:
      return "strides must be from 1 to 2^31 - 1";
    case ConvShapeError::kPads:
      return "pads must be from 0 to 2^31 - 1";
    case ConvShapeError::kDilations:
      return "dilations must be from 1 to 2^31 - 1";
    case ConvShapeError::kKernelPastInput:
      return "the dilated kernel must not be larger than the padded input";
    case ConvShapeError::kAccumulator:
      return "an output channel must have fewer than 2^30 weights";
    case ConvShapeError::kTensorSize:
      return "input, weight and output must each have fewer than 2^60 elements";
  }
  return "unknown error";
}

// A shape to be used only where error is kNone; else `got` is the number that was refused.
struct ConvShapeResult {
  ConvShape shape;
  ConvShapeError error;
  std::int64_t got;

  constexpr bool ok() const { return error == ConvShapeError::kNone; }
};

namespace conv_shape_detail {

struct Verdict {
  ConvShapeError error = ConvShapeError::kNone;
  std::int64_t got = 0;
};

inline constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
// The xor form subtracts 2 * popcount, so twice the depth must fit in int32.
inline constexpr std::int64_t kMaxDepth = (std::int64_t{1} << 30) - 1;
// Leaves room for the bytes of an element.
inline constexpr std::int64_t kMaxElements = (std::int64_t{1} << 60) - 1;

constexpr bool within(std::int64_t value, std::int64_t low) {
  return low <= value && value <= kMaxInt32;
}

// Whether the product of non-negative numbers is at most `limit`, without overflow.
constexpr bool product_within(std::int64_t limit, std::initializer_list<std::int64_t> factors) {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    if (factor != 0 && product > limit / factor) return false;
    product *= factor;
  }
  return product <= limit;
}

constexpr Verdict check_channels(const ConvArguments& a) {
  if (!within(a.input[0], 0)) return {ConvShapeError::kBatch, a.input[0]};
  for (const std::int64_t n : a.weight) {
    if (!within(n, 1)) return {ConvShapeError::kWeightShape, n};
  }
  if (!within(a.group, 1) || a.weight[0] % a.group != 0) return {ConvShapeError::kGroup, a.group};
  // Both factors are below 2^31, so the product cannot overflow.
  if (!within(a.input[1], 1) || a.input[1] != a.weight[1] * a.group) {
    return {ConvShapeError::kInputChannels, a.input[1]};
  }
  return {};
}

// `axis` is 0 for the vertical and 1 for the horizontal one.
constexpr Verdict check_axis(const ConvArguments& a, int axis) {
  const std::int64_t size = a.input[2 + axis];
  const std::int64_t begin = a.pads[axis];
  const std::int64_t end = a.pads[2 + axis];
  if (!within(size, 1)) return {ConvShapeError::kInputSize, size};
  if (!within(begin, 0)) return {ConvShapeError::kPads, begin};
  if (!within(end, 0)) return {ConvShapeError::kPads, end};
  if (!within(a.strides[axis], 1)) return {ConvShapeError::kStrides, a.strides[axis]};
  if (!within(a.dilations[axis], 1)) return {ConvShapeError::kDilations, a.dilations[axis]};
  const std::int64_t padded = size + begin + end;
  if (!within(padded, 1)) return {ConvShapeError::kInputSize, padded};
  const std::int64_t extent = a.dilations[axis] * (a.weight[2 + axis] - 1) + 1;
  if (extent > padded) return {ConvShapeError::kKernelPastInput, extent};
  return {};
}

constexpr ConvAxis axis_of(const ConvArguments& a, int axis) {
  return {
      static_cast<std::int32_t>(a.input[2 + axis]), static_cast<std::int32_t>(a.weight[2 + axis]),
      static_cast<std::int32_t>(a.strides[axis]),   static_cast<std::int32_t>(a.pads[axis]),
      static_cast<std::int32_t>(a.pads[2 + axis]),  static_cast<std::int32_t>(a.dilations[axis])};
}

constexpr Verdict check_sizes(const ConvArguments& a, const ConvShape& shape) {
  const std::int64_t depth = a.weight[1];
  if (!product_within(kMaxDepth, {depth, a.weight[2], a.weight[3]})) {
    return {ConvShapeError::kAccumulator, depth};
  }
  if (!product_within(kMaxElements, {a.input[0], a.input[1], a.input[2], a.input[3]}) ||
      !product_within(kMaxElements, {a.weight[0], depth, a.weight[2], a.weight[3]}) ||
      !product_within(kMaxElements, {a.input[0], a.weight[0], shape.vertical.out_size(),
                                     shape.horizontal.out_size()})) {
    return {ConvShapeError::kTensorSize, a.input[0]};
  }
  return {};
}

}  // namespace conv_shape_detail

// Checks `arguments` and makes a shape of them. An empty batch is valid.
constexpr ConvShapeResult make_conv_shape(const ConvArguments& arguments) noexcept {
  using namespace conv_shape_detail;
  // One after the other: a check computes with numbers that the one before has bounded.
  Verdict verdict = check_channels(arguments);
  if (verdict.error == ConvShapeError::kNone) verdict = check_axis(arguments, 0);
  if (verdict.error == ConvShapeError::kNone) verdict = check_axis(arguments, 1);
  if (verdict.error != ConvShapeError::kNone) return {{}, verdict.error, verdict.got};
  const ConvShape shape = {static_cast<std::int32_t>(arguments.input[0]),
                           static_cast<std::int32_t>(arguments.input[1]),
                           static_cast<std::int32_t>(arguments.weight[0]),
                           static_cast<std::int32_t>(arguments.group),
                           axis_of(arguments, 0),
                           axis_of(arguments, 1)};
  verdict = check_sizes(arguments, shape);
  return {shape, verdict.error, verdict.got};
}

// The shape on the smallest input that needs no pads; `arguments.input` is not read. An error means
// that no input at all could make the other arguments valid.
constexpr ConvShapeResult smallest_conv_shape(ConvArguments arguments) noexcept {
  using conv_shape_detail::within;
  const bool countable = within(arguments.weight[1], 1) && within(arguments.group, 1);
  arguments.input[0] = 1;
  arguments.input[1] = countable ? arguments.weight[1] * arguments.group : 1;
  for (int axis = 0; axis < 2; ++axis) {
    const std::int64_t kernel = arguments.weight[2 + axis];
    const std::int64_t dilation = arguments.dilations[axis];
    // Numbers that are not to be computed with are refused by make_conv_shape.
    const bool measurable = within(kernel, 1) && within(dilation, 1);
    arguments.input[2 + axis] = measurable ? dilation * (kernel - 1) + 1 : 1;
  }
  return make_conv_shape(arguments);
}

}  // namespace bitexport

#endif  // BITEXPORT_CORE_CONV_SHAPE_H_
