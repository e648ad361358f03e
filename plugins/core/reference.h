// Plain-loop references that every fast kernel is tested against. Clear before quick.
//
// Layouts: X [N, Ci, H, W], Y and accumulators [N, Co, Ho, Wo], weights [Co, Ci/group, kh, kw],
// weight words [Co, kh, kw, words_per_tap], activation words [N, H, W, group, words_per_tap].

#ifndef BITEXPORT_CORE_REFERENCE_H_
#define BITEXPORT_CORE_REFERENCE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/border_classes.h"
#include "core/conv_shape.h"
#include "core/packing.h"
#include "core/sign_planes.h"

namespace bitexport {
namespace reference {

// Calls visit(n, co, row, column, y_index) for every output pixel, in the order of Y.
template <typename Visit>
void for_each_output(const ConvShape& shape, Visit visit) {
  std::int64_t index = 0;
  for (std::int32_t n = 0; n < shape.batch; ++n) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      for (std::int32_t row = 0; row < shape.vertical.out_size(); ++row) {
        for (std::int32_t column = 0; column < shape.horizontal.out_size(); ++column) {
          visit(n, co, row, column, index++);
        }
      }
    }
  }
}

// Sums x(n, ci, h, w) * weight(co, c, kh, kw) over the taps of one output pixel that lie inside the
// input; c counts within the group, ci over all channels. `Sum` is the accumulator's type.
template <typename Sum, typename Activation, typename Weight>
Sum convolve_at(const ConvShape& shape, std::int32_t n, std::int32_t co, std::int32_t row,
                std::int32_t column, Activation x, Weight weight) {
  const std::int32_t first_channel =
      co / shape.out_channels_per_group() * shape.in_channels_per_group();
  Sum sum{0};
  for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
    const std::int32_t h = shape.vertical.input_at(row, kh);
    if (h < 0 || h >= shape.vertical.size) continue;
    for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
      const std::int32_t w = shape.horizontal.input_at(column, kw);
      if (w < 0 || w >= shape.horizontal.size) continue;
      for (std::int32_t c = 0; c < shape.in_channels_per_group(); ++c) {
        sum += static_cast<Sum>(x(n, first_channel + c, h, w)) *
               static_cast<Sum>(weight(co, c, kh, kw));
      }
    }
  }
  return sum;
}

// ---- Element access -----------------------------------------------------------------------------

inline std::int64_t input_index(const ConvShape& shape, std::int32_t n, std::int32_t ci,
                                std::int32_t h, std::int32_t w) {
  return ((std::int64_t{n} * shape.in_channels + ci) * shape.vertical.size + h) *
             shape.horizontal.size +
         w;
}

// The words_per_tap() words of one pixel of one group.
inline const std::uint32_t* pixel_words(const ConvShape& shape, const std::uint32_t* words,
                                        std::int32_t n, std::int32_t h, std::int32_t w,
                                        std::int32_t group) {
  const std::int64_t pixel =
      (std::int64_t{n} * shape.vertical.size + h) * shape.horizontal.size + w;
  return words + (pixel * shape.group + group) * shape.words_per_tap();
}

// The words_per_tap() words of one tap of one output channel.
inline const std::uint32_t* tap_words(const ConvShape& shape, const std::uint32_t* words,
                                      std::int32_t co, std::int32_t kh, std::int32_t kw) {
  const std::int64_t tap =
      (std::int64_t{co} * shape.vertical.kernel + kh) * shape.horizontal.kernel + kw;
  return words + tap * shape.words_per_tap();
}

// The sign of a packed weight as +1 or -1, by (co, c, kh, kw).
inline auto sign_weight(const ConvShape& shape, const std::uint32_t* words) {
  return [&shape, words](std::int32_t co, std::int32_t c, std::int32_t kh,
                         std::int32_t kw) -> std::int8_t {
    return sign_at(tap_words(shape, words, co, kh, kw), c) ? 1 : -1;
  };
}

// ---- Binary convolution -------------------------------------------------------------------------

// Packs X >= Th into activation words. A NaN is not at or above any threshold: -1.
inline void pack_activations(const ConvShape& shape, const float* x, const float* threshold,
                             std::uint32_t* words) {
  for (std::int32_t n = 0; n < shape.batch; ++n) {
    for (std::int32_t h = 0; h < shape.vertical.size; ++h) {
      for (std::int32_t w = 0; w < shape.horizontal.size; ++w) {
        for (std::int32_t group = 0; group < shape.group; ++group, words += shape.words_per_tap()) {
          const std::int32_t first_channel = group * shape.in_channels_per_group();
          pack_signs_of(
              shape.in_channels_per_group(),
              [&](std::int64_t c) {
                const std::int32_t ci = first_channel + static_cast<std::int32_t>(c);
                return x[input_index(shape, n, ci, h, w)] >= threshold[ci];
              },
              words);
        }
      }
    }
  }
}

// Integer accumulators of packed activations and packed weights.
inline void binary_conv(const ConvShape& shape, const std::uint32_t* activations,
                        const std::uint32_t* weight, std::int32_t* accumulators) {
  const std::int32_t per_group = shape.in_channels_per_group();
  const auto activation = [&](std::int32_t n, std::int32_t ci, std::int32_t h,
                              std::int32_t w) -> std::int8_t {
    return sign_at(pixel_words(shape, activations, n, h, w, ci / per_group), ci % per_group) ? 1
                                                                                             : -1;
  };
  for_each_output(shape, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
    accumulators[index] = convolve_at<std::int32_t>(shape, n, co, row, column, activation,
                                                    sign_weight(shape, weight));
  });
}

// Integer accumulators of X >= Th and packed weights; threshold is [Ci].
inline void binary_conv(const ConvShape& shape, const float* x, const float* threshold,
                        const std::uint32_t* weight, std::int32_t* accumulators) {
  const auto activation = [&](std::int32_t n, std::int32_t ci, std::int32_t h,
                              std::int32_t w) -> std::int8_t {
    return x[input_index(shape, n, ci, h, w)] >= threshold[ci] ? 1 : -1;
  };
  for_each_output(shape, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
    accumulators[index] = convolve_at<std::int32_t>(shape, n, co, row, column, activation,
                                                    sign_weight(shape, weight));
  });
}

// popcount of activations ^ weights over all taps of one output pixel; a padded tap reads 0.
inline std::int32_t xor_popcount_at(const ConvShape& shape, const std::uint32_t* activations,
                                    const std::uint32_t* weight, std::int32_t n, std::int32_t co,
                                    std::int32_t row, std::int32_t column) {
  const std::int32_t group = co / shape.out_channels_per_group();
  std::int32_t bits = 0;
  for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
    for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
      const std::int32_t h = shape.vertical.input_at(row, kh);
      const std::int32_t w = shape.horizontal.input_at(column, kw);
      const bool padded = h < 0 || h >= shape.vertical.size || w < 0 || w >= shape.horizontal.size;
      const std::uint32_t* pixel =
          padded ? nullptr : pixel_words(shape, activations, n, h, w, group);
      const std::uint32_t* tap = tap_words(shape, weight, co, kh, kw);
      for (std::int32_t i = 0; i < shape.words_per_tap(); ++i) {
        bits += popcount((padded ? 0u : pixel[i]) ^ tap[i]);
      }
    }
  }
  return bits;
}

// The same accumulators as binary_conv, by the exact-padding identity of border_classes.h.
inline void binary_conv_xor(const ConvShape& shape, const std::uint32_t* activations,
                            const std::uint32_t* weight, std::int32_t* accumulators) {
  const BorderClasses classes(shape);
  const std::vector<std::int32_t> corrections = xor_corrections(shape, classes, weight);
  for_each_output(shape, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
    const std::int64_t entry =
        std::int64_t{classes.class_of(row, column)} * shape.out_channels + co;
    accumulators[index] = corrections[static_cast<std::size_t>(entry)] -
                          2 * xor_popcount_at(shape, activations, weight, n, co, row, column);
  });
}

// Y = S * accumulators + B, and + R where `residual` is not null. scale and bias are [Co].
inline void scale_and_shift(const ConvShape& shape, const std::int32_t* accumulators,
                            const float* scale, const float* bias, const float* residual,
                            float* y) {
  for_each_output(shape, [&](auto, auto co, auto, auto, std::int64_t index) {
    y[index] = scale[co] * static_cast<float>(accumulators[index]) + bias[co];
    if (residual != nullptr) y[index] += residual[index];
  });
}

// Y = (y >= 0 ? y : slope * y) + shift, in place; slope and shift are [Co].
inline void prelu_and_shift(const ConvShape& shape, const float* slope, const float* shift,
                            float* y) {
  for_each_output(shape, [&](auto, auto co, auto, auto, std::int64_t index) {
    if (!(y[index] >= 0.0f)) y[index] = slope[co] * y[index];
    y[index] = y[index] + shift[co];
  });
}

// Y = y between low and high, in place; a NaN stays one.
inline void clip(const ConvShape& shape, float low, float high, float* y) {
  for_each_output(shape, [&](auto, auto, auto, auto, std::int64_t index) {
    if (y[index] < low) y[index] = low;
    if (y[index] > high) y[index] = high;
  });
}

// Whether values [images, channels, pixels] are at or above threshold [channels], which a NaN is
// not, as words [images, ceil(channels / 32), pixels] of sign_planes.h.
inline std::vector<std::uint32_t> sign_planes(std::int64_t images, std::int64_t channels,
                                              std::int64_t pixels, const float* values,
                                              const float* threshold) {
  std::vector<std::uint32_t> words(
      static_cast<std::size_t>(images * sign_words(channels) * pixels));
  for (std::int64_t image = 0; image < images; ++image) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      const std::int64_t plane = image * sign_words(channels) + channel / 32;
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        if (*values++ >= threshold[channel]) {
          words[static_cast<std::size_t>(plane * pixels + pixel)] |= 1u << (channel % 32);
        }
      }
    }
  }
  return words;
}

// ---- Real-valued convolution --------------------------------------------------------------------

// Y = S * conv(X, weight) + B, summed in double so that a kernel's error is its own.
//
// weight(co, c, kh, kw) is a function, for example sign_weight(...).
template <typename Weight>
void real_conv(const ConvShape& shape, const float* x, Weight weight, const float* scale,
               const float* bias, float* y) {
  const auto activation = [&](std::int32_t n, std::int32_t ci, std::int32_t h, std::int32_t w) {
    return x[input_index(shape, n, ci, h, w)];
  };
  for_each_output(shape, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
    const double sum = convolve_at<double>(shape, n, co, row, column, activation, weight);
    y[index] = static_cast<float>(double{scale[co]} * sum + double{bias[co]});
  });
}

// SignConv: Y = S * conv(X, +-1) + B, from weight words.
inline void sign_conv(const ConvShape& shape, const float* x, const std::uint32_t* weight,
                      const float* scale, const float* bias, float* y) {
  real_conv(shape, x, sign_weight(shape, weight), scale, bias, y);
}

// ---- Codebooks ----------------------------------------------------------------------------------

// weight = reshape(codebook[codes]): block b of a row covers its elements b*d .. (b+1)*d - 1.
//
// codes: code words [rows, code_words(blocks, bits)]. codebook: [centroids, block_size], of float
// or of the raw bits of float16. weight: [rows, blocks * block_size], the same element type.
// Returns false, with `weight` half written, where a code points past the codebook.
template <typename T>
[[nodiscard]] bool expand_codebook(const std::uint32_t* codes, std::int64_t rows,
                                   std::int64_t blocks, CodeBits bits, const T* codebook,
                                   std::int64_t centroids, std::int64_t block_size, T* weight) {
  for (std::int64_t row = 0; row < rows; ++row, codes += code_words(blocks, bits)) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t code = code_at(codes, block, bits);
      if (code >= centroids) return false;
      for (std::int64_t i = 0; i < block_size; ++i) {
        *weight++ = codebook[code * block_size + i];
      }
    }
  }
  return true;
}

}  // namespace reference
}  // namespace bitexport

#endif  // BITEXPORT_CORE_REFERENCE_H_
