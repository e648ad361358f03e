// The look-up kernel with output channels beside each other, for images whose pixels would leave
// much of a vector empty: what it keeps of the weights and of the activations.
//
// The roles of lookup_layout.h are exchanged. A byte holds the weight code of one output channel,
// four input channels of one tap; a table (lookup_tables.h) has the mismatches of two output
// pixels with every weight code.
//
//     weights     [group, tiles of output channels, rows, channels of the tile]   a byte each
//     activations [group, H * W + 1, planes]                        16 bits each: code * 16
//
// where rows are the taps, and the planes of four input channels within a tap, rounded up to whole
// groups of look-ups, and the last pixel is padding.

#ifndef BITEXPORT_KERNELS_CPU_CHANNEL_LANES_H_
#define BITEXPORT_KERNELS_CPU_CHANNEL_LANES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/lookup_weights.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

inline constexpr std::int32_t kLanesPerVector = 32;
inline constexpr std::int32_t kLanesPerTile = 128;

class ChannelWeights {
 public:
  ChannelWeights(const ConvShape& shape, const std::uint32_t* weight)
      : planes_(LookupWeights::planes(shape)),
        rows_(divided_up(planes_ * shape.taps(), kLookupGroup) * kLookupGroup),
        lanes_(divided_up(shape.out_channels_per_group(), kLanesPerVector) * kLanesPerVector),
        lines_(static_cast<std::size_t>(divided_up64(std::int64_t{shape.group} * rows_ * lanes_))) {
    // Lanes of no channel and rows of no tap count nothing.
    for (Line& line : lines_) std::fill(line.codes, line.codes + kLine, kPaddingCode);
    auto* const codes = reinterpret_cast<std::uint8_t*>(lines_.data());
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      const std::int32_t within = co % shape.out_channels_per_group();
      const std::int32_t tile = within / kLanesPerTile;
      std::uint8_t* out =
          codes + offset(co / shape.out_channels_per_group(), tile) + within % kLanesPerTile;
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        const std::uint32_t* words =
            weight + (std::int64_t{co} * shape.taps() + tap) * shape.words_per_tap();
        for (std::int32_t plane = 0; plane < planes_; ++plane, out += lanes_of(tile)) {
          *out = words[plane / 8] >> (plane % 8 * kChannelsPerCode) & 15u;
        }
      }
    }
  }

  std::int32_t planes() const { return planes_; }  // of a group
  std::int32_t rows() const { return rows_; }
  std::int32_t tiles() const { return divided_up(lanes_, kLanesPerTile); }  // of a group
  std::int32_t lanes_of(std::int32_t tile) const {
    return std::min(kLanesPerTile, lanes_ - tile * kLanesPerTile);
  }
  // [rows, lanes_of(tile)], aligned to a vector.
  const std::uint8_t* tile(std::int32_t group, std::int32_t tile) const {
    return reinterpret_cast<const std::uint8_t*>(lines_.data()) + offset(group, tile);
  }

 private:
  static constexpr std::int32_t kLine = 64;
  struct alignas(kLine) Line {
    std::uint8_t codes[kLine];
  };

  static std::int64_t divided_up64(std::int64_t bytes) { return (bytes + kLine - 1) / kLine; }
  std::int64_t offset(std::int32_t group, std::int32_t tile) const {
    return (std::int64_t{group} * lanes_ + std::int64_t{tile} * kLanesPerTile) * rows_;
  }

  std::int32_t planes_;
  std::int32_t rows_;
  std::int32_t lanes_;  // of a group: its output channels, rounded up to whole vectors
  std::vector<Line> lines_;
};

// Whether it takes clearly fewer vector instructions than with pixels beside each other, and enough
// of them that its costlier epilogue does not matter. One or two vectors of channels take longer
// than one or two of pixels, as the loop has more loads for each.
inline bool pays_for_channel_lanes(const ConvShape& shape) {
  constexpr std::int64_t kMostPixels = 1024;
  constexpr std::int32_t kFewestRows = 192;
  constexpr std::int32_t kFewestChannels = 2 * kLanesPerVector + 1;
  const std::int64_t pixels = std::int64_t{shape.vertical.out_size()} * shape.horizontal.out_size();
  const std::int64_t channels = shape.out_channels_per_group();
  const std::int64_t rows = std::int64_t{LookupWeights::planes(shape)} * shape.taps();
  if (pixels > kMostPixels || channels < kFewestChannels || rows < kFewestRows) return false;
  const auto steps = [](std::int64_t lanes, std::int64_t others) {
    return (lanes + kLanesPerVector - 1) / kLanesPerVector * ((others + 1) / 2);
  };
  return 20 * steps(channels, pixels) < 19 * steps(pixels, channels);
}

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_CHANNEL_LANES_H_
