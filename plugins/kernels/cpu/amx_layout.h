// What the AMX kernel multiplies: signs as bytes.
//
// Activations are +1 and -1, and 0 on padding, so that zero padding needs no correction. A line is
// 64 channels of a pixel; a plane holds the lines of an image with its padding. Rows and columns
// are sorted by their remainders modulo the strides ("phases"),
//
//     pixel (y, x) of the padded image lies at
//     ((y % sv) * sh + x % sh) * phase + y / sv * phase_width + x / sh
//
// so that the output pixel (r, c) finds its line r * phase_width + c after that of the first one,
// under every tap: 16 neighbours of that order are a tile, across the ends of rows. A phase is
// wider than the output by the kernel, so some of a tile's pixels are none of the output.
//
// Weights stay bits, in the order in which they are made bytes.

#ifndef BITEXPORT_KERNELS_CPU_AMX_LAYOUT_H_
#define BITEXPORT_KERNELS_CPU_AMX_LAYOUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

inline constexpr std::int32_t kTile = 16;  // pixels, or output channels
inline constexpr std::int32_t kLineChannels = 64;
inline constexpr std::int32_t kStripTiles = 4;  // of pixels, which are multiplied at once

using Line = std::int8_t[kLineChannels];

// All sizes count lines.
struct LineLayout {
  std::int32_t planes_per_group;
  std::int64_t row_phases;  // strides, but no more than there are columns
  std::int64_t phase_width;
  std::int64_t phase;
  std::int64_t plane;

  explicit LineLayout(const ConvShape& shape)
      : planes_per_group(divided_up(shape.in_channels_per_group(), kLineChannels)),
        row_phases(phases(shape.horizontal)),
        phase_width(phase_size(shape.horizontal)),
        phase(phase_size(shape.vertical) * phase_width),
        // The last tile may end past the last pixel.
        plane(phases(shape.vertical) * row_phases * phase + kTile) {}

  std::int64_t lines(const ConvShape& shape) const {
    return std::int64_t{shape.group} * planes_per_group * plane;
  }

  // Where a row of the padded image begins, in its plane, and a column in its row.
  std::int64_t row_offset(const ConvShape& shape, std::int64_t row) const {
    return row % shape.vertical.stride * row_phases * phase +
           row / shape.vertical.stride * phase_width;
  }
  std::int64_t column_offset(const ConvShape& shape, std::int64_t column) const {
    return column % shape.horizontal.stride * phase + column / shape.horizontal.stride;
  }

  // From the first output pixel's line to that of the last one.
  std::int64_t output_lines(const ConvShape& shape) const {
    return (shape.vertical.out_size() - 1) * phase_width + shape.horizontal.out_size();
  }

  // Where the line under a tap lies, from that under the first tap.
  std::int64_t tap_offset(const ConvShape& shape, std::int32_t tap) const {
    const std::int64_t row = tap / shape.horizontal.kernel;
    const std::int64_t column = tap % shape.horizontal.kernel;
    return row_offset(shape, row * shape.vertical.dilation) +
           column_offset(shape, column * shape.horizontal.dilation);
  }

 private:
  static std::int64_t padded(const ConvAxis& axis) {
    return std::int64_t{axis.size} + axis.pad_begin + axis.pad_end;
  }
  static std::int64_t phases(const ConvAxis& axis) {
    return std::min<std::int64_t>(axis.stride, padded(axis));
  }
  static std::int64_t phase_size(const ConvAxis& axis) {
    return (padded(axis) + axis.stride - 1) / axis.stride;
  }
};

// The pixels of the output among those of up to kStripTiles neighbouring tiles.
struct Strip {
  std::int64_t line;   // where its first tile begins, from the first output pixel's line
  std::int32_t first;  // index in an output channel of the first pixel in it
  std::int32_t tiles;
  bool whole;                         // all pixels of all tiles
  std::uint16_t pixels[kStripTiles];  // bit i stands for a tile's pixel i
  std::uint16_t lanes[kStripTiles];   // as many bits from bit 0 on
  std::int64_t offsets[kStripTiles];  // of a tile's first pixel, from `first`
};

// Strips after each other that have all pixels of the output, without empty ones.
inline std::vector<Strip> output_strips(const ConvShape& shape, const LineLayout& layout) {
  const std::int32_t width = shape.horizontal.out_size();
  const std::int64_t end = layout.output_lines(shape);
  std::vector<Strip> strips;
  std::int32_t pixels = 0;
  for (std::int64_t line = 0; line < end;) {
    Strip strip = {line, pixels, 0, true, {}, {}, {}};
    for (; strip.tiles < kStripTiles && line < end; ++strip.tiles) {
      const std::int32_t tile = strip.tiles;
      const std::int32_t before = pixels;
      std::uint32_t bits = 0;
      for (std::int32_t i = 0; i < kTile; ++i, ++line) {
        if (line < end && line % layout.phase_width < width) {
          bits |= 1u << i;
          ++pixels;
        }
      }
      strip.pixels[tile] = static_cast<std::uint16_t>(bits);
      strip.lanes[tile] = static_cast<std::uint16_t>((1u << (pixels - before)) - 1);
      strip.offsets[tile] = before - strip.first;
      strip.whole &= pixels - before == kTile;
    }
    if (pixels > strip.first) strips.push_back(strip);
  }
  return strips;
}

// The signs of the weights as bits: words [group, tiles, steps, kTile]. A step is a tap of the 64
// channels of a line; its word i has the channels 4 * i to 4 * i + 3 of 16 output channels in turn.
struct StepWeights {
  std::int32_t tiles;  // of a group's output channels, the last one filled up
  std::int32_t steps;  // lines of channels * kh * kw
  std::vector<std::uint64_t> words;

  StepWeights(const ConvShape& shape, const std::uint32_t* weight)
      : tiles(divided_up(shape.out_channels_per_group(), kTile)),
        steps(divided_up(shape.in_channels_per_group(), kLineChannels) * shape.taps()),
        words(static_cast<std::size_t>(std::int64_t{shape.group} * tiles * steps * kTile)) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      const std::int32_t within = co % shape.out_channels_per_group();
      std::uint64_t* const tile =
          words.data() + offset(co / shape.out_channels_per_group(), within / kTile);
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        for (std::int32_t i = 0; i < shape.words_per_tap(); ++i) {
          const std::uint64_t word =
              weight[(std::int64_t{co} * shape.taps() + tap) * shape.words_per_tap() + i];
          std::uint64_t* const step = tile + (std::int64_t{i / 2} * shape.taps() + tap) * kTile;
          for (std::int32_t four = 0; four < 8; ++four) {
            step[i % 2 * 8 + four] |= (word >> (4 * four) & 15) << (4 * (within % kTile));
          }
        }
      }
    }
  }

  // The words of a tile of output channels; those of the next one follow.
  const std::uint64_t* tile(std::int32_t group, std::int32_t index) const {
    return words.data() + offset(group, index);
  }

 private:
  std::int64_t offset(std::int32_t group, std::int32_t index) const {
    return (std::int64_t{group} * tiles + index) * steps * kTile;
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AMX_LAYOUT_H_
