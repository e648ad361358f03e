// A convolution with a thread for each output element: for few channels per group, where a tensor
// core would multiply mostly by padding, and, summing in double, the reference of all problems.

#ifndef BITEXPORT_KERNELS_CUDA_DIRECT_H_
#define BITEXPORT_KERNELS_CUDA_DIRECT_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/conv_weights.h"
#include "kernels/cuda/problem.h"
#include "kernels/cuda/prologue.h"

namespace bitexport {
namespace cuda {

struct DirectArgs {
  ConvShape shape;
  InputView input;
  const std::uint32_t* weight;
  const float* threshold;
  CodebookArgs codebook;
  EpilogueArgs epilogue;
  std::int32_t out_height;
  std::int32_t out_width;
  std::int64_t elements;  // of Y, with the padding channels of NHWC8
};

// The output element that a thread computes; threads are in the order of Y.
struct OutputElement {
  std::int64_t image;
  std::int32_t channel;
  std::int32_t row;
  std::int32_t column;
};

BITEXPORT_BLOCK OutputElement output_element(const DirectArgs& args, std::int64_t index) {
  const std::int64_t plane = std::int64_t{1} * args.out_height * args.out_width;
  std::int64_t image, channel, pixel;
  if (args.epilogue.output == Output::kHalfNhwc8) {
    const std::int64_t channels = padded_channels(args.shape.out_channels);
    const std::int64_t image_and_pixel = index / channels;
    channel = index - image_and_pixel * channels;
    image = image_and_pixel / plane;
    pixel = image_and_pixel - image * plane;
  } else {
    const std::int64_t image_and_channel = index / plane;
    pixel = index - image_and_channel * plane;
    image = image_and_channel / args.shape.out_channels;
    channel = image_and_channel - image * args.shape.out_channels;
  }
  const auto row = static_cast<std::int32_t>(pixel / args.out_width);
  return {image, static_cast<std::int32_t>(channel), row,
          static_cast<std::int32_t>(pixel - std::int64_t{row} * args.out_width)};
}

// The weight of channel c of the group and a tap, for output channel co.
template <WeightKind kind>
BITEXPORT_BLOCK float direct_weight(const DirectArgs& args, std::int32_t co, std::int32_t c,
                                    std::int32_t tap) {
  if constexpr (kind == WeightKind::kSign || kind == WeightKind::kBinary) {
    const std::int64_t words = args.shape.words_per_tap();
    const std::int64_t at = (std::int64_t{co} * args.shape.taps() + tap) * words;
    return sign_at(args.weight + at, c) ? 1.0f : -1.0f;
  } else {
    return float_of_half(centroid_element(args.codebook,
                                          args.weight + co * args.codebook.words_per_row,
                                          c * args.shape.taps() + tap));
  }
}

template <WeightKind kind, typename T, typename Sum>
BITEXPORT_BLOCK Sum direct_sum(const DirectArgs& args, const OutputElement& out) {
  const ConvAxis& vertical = args.shape.vertical;
  const ConvAxis& horizontal = args.shape.horizontal;
  const std::int32_t channels = args.shape.in_channels_per_group();
  const std::int32_t first = out.channel / args.shape.out_channels_per_group() * channels;
  const T* x = static_cast<const T*>(args.input.x) + out.image * args.input.batch_stride +
               first * args.input.channel_stride;
  const TapRange rows = vertical.valid_taps(out.row);
  const TapRange columns = horizontal.valid_taps(out.column);
  Sum sum = 0;
  for (std::int32_t kh = rows.first; kh < rows.last; ++kh) {
    for (std::int32_t kw = columns.first; kw < columns.last; ++kw) {
      const std::int64_t pixel = std::int64_t{vertical.input_at(out.row, kh)} * horizontal.size +
                                 horizontal.input_at(out.column, kw);
      const T* at = x + pixel * args.input.pixel_stride;
      const std::int32_t tap = kh * horizontal.kernel + kw;
      for (std::int32_t c = 0; c < channels; ++c) {
        const float value = element(at, c * args.input.channel_stride);
        const float weight = direct_weight<kind>(args, out.channel, c, tap);
        if constexpr (kind == WeightKind::kBinary) {
          sum += (value >= args.threshold[first + c]) == (weight > 0.0f) ? 1 : -1;
        } else {
          sum += static_cast<Sum>(value) * static_cast<Sum>(weight);
        }
      }
    }
  }
  return sum;
}

// Writes element `index` of Y. Sum is int32 for kBinary, else float or double.
template <WeightKind kind, typename T, typename Sum>
BITEXPORT_BLOCK void direct_element(const DirectArgs& args, std::int64_t index) {
  if (index >= args.elements) return;
  const OutputElement out = output_element(args, index);
  const EpilogueArgs& epilogue = args.epilogue;
  if (out.channel >= args.shape.out_channels) {
    static_cast<std::uint16_t*>(epilogue.y)[index] = 0;
    return;
  }
  const Sum sum = direct_sum<kind, T, Sum>(args, out);
  if (epilogue.output == Output::kAccumulators) {
    static_cast<std::int32_t*>(epilogue.y)[index] = static_cast<std::int32_t>(sum);
    return;
  }
  float y = multiply_then_add(epilogue.scale[out.channel], static_cast<float>(sum),
                              epilogue.bias[out.channel]);
  if (epilogue.residual != nullptr) y += element(static_cast<const T*>(epilogue.residual), index);
  if (kind == WeightKind::kBinary) y = activated(epilogue.activation, out.channel, y);
  if constexpr (std::is_same_v<T, float>) {
    static_cast<float*>(epilogue.y)[index] = y;
  } else {
    static_cast<std::uint16_t*>(epilogue.y)[index] = half_of_float(y);
  }
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_DIRECT_H_
