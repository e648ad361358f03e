// Where a depthwise convolution keeps its activations and weights.

#ifndef BITEXPORT_KERNELS_CPU_DEPTHWISE_LAYOUT_H_
#define BITEXPORT_KERNELS_CPU_DEPTHWISE_LAYOUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"

namespace bitexport {
namespace cpu {

// Rows of pixels of some channels, and where their signs go. Distances count pixels and signs.
struct PixelRows {
  std::int32_t channels;
  std::int32_t rows;
  std::int32_t width;
  std::int64_t x_plane;  // from a channel to the next
  std::int64_t x_pitch;  // from a row to the next
  std::int64_t plane;
  std::int64_t pitch;
};

// Calls visit(channel, first pixel, first sign) for every row of every channel.
template <typename Visit>
void for_each_row(const PixelRows& rows, Visit visit) {
  for (std::int32_t channel = 0; channel < rows.channels; ++channel) {
    for (std::int32_t row = 0; row < rows.rows; ++row) {
      visit(channel, channel * rows.x_plane + row * rows.x_pitch,
            channel * rows.plane + row * rows.pitch);
    }
  }
}

// Where the pixels lie, in bytes: every channel as a padded image of its own, a plane.
//
// Rows and columns are sorted by their remainders modulo the strides ("phases"), so that under
// every tap the pixels of the whole output are neighbours, with some between the rows that are
// computed in vain. With strides of 1 there are few of those, as neighbours share their padding:
// the zeros to the right of a row are those to the left of the next one, those below a plane the
// ones above the next plane.
struct DepthwiseLayout {
  std::int64_t pitch;  // from a row of a phase to the next
  std::int64_t phase;
  std::int64_t plane;
  std::int64_t run;  // planes of the channels that are packed together, and what is behind them
  std::int32_t channels;  // that are packed together
  std::int32_t horizontal_stride;
  std::int32_t vertical_stride;

  // `slack`: what may be read past the last pixel, and written past a row before the next one is.
  DepthwiseLayout(const ConvShape& shape, std::int32_t channels_of_run, std::int64_t slack)
      : pitch(phase_pitch(shape.horizontal)),
        channels(channels_of_run),
        horizontal_stride(shape.horizontal.stride),
        vertical_stride(shape.vertical.stride) {
    const std::int64_t width = divided_up(padded(shape.horizontal), horizontal_stride);
    const std::int64_t height = divided_up(padded(shape.vertical), vertical_stride);
    const std::int64_t end = pitch * (height - 1) + width;
    if (horizontal_stride == 1 && vertical_stride == 1) {
      plane = pitch * phase_pitch(shape.vertical);
      phase = plane;
      run = plane * (channels - 1) + end;
    } else {
      // Rows of other phases lie behind a phase's last row, and are written before it.
      phase = end + slack;
      plane = phase * horizontal_stride * vertical_stride;
      run = plane * channels;
    }
    run = divided_up(run + slack, 64) * 64;
  }

  // Of a channel.
  std::int64_t begin(std::int32_t channel) const {
    return channel / channels * run + channel % channels * plane;
  }

  // Of a pixel of the padded image, in its plane.
  std::int64_t offset(std::int32_t row, std::int32_t column) const {
    const std::int64_t index =
        std::int64_t{row % vertical_stride} * horizontal_stride + column % horizontal_stride;
    return index * phase + row / vertical_stride * pitch + column / horizontal_stride;
  }

 private:
  static std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
  static std::int64_t padded(const ConvAxis& axis) {
    return std::int64_t{axis.size} + axis.pad_begin + axis.pad_end;
  }
  static std::int64_t phase_pitch(const ConvAxis& axis) {
    if (axis.stride > 1) return divided_up(padded(axis), axis.stride);
    return std::int64_t{axis.size} + std::max(axis.pad_begin, axis.pad_end);
  }
};

struct DepthwiseWeights {
  std::vector<std::int32_t> signs;     // [Co, kh, kw], 0 or -1, a byte four times
  std::vector<std::int32_t> negative;  // [Co], taps of weight -1, a byte four times

  DepthwiseWeights(const ConvShape& shape, const std::uint32_t* weight) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      negative.push_back(0);
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap, ++weight) {
        const bool positive = (*weight & 1u) != 0;
        signs.push_back(positive ? 0 : -1);
        negative.back() += positive ? 0 : 0x01010101;
      }
    }
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_DEPTHWISE_LAYOUT_H_
