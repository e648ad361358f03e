// The output pixels of a channel, divided into tiles of neighbours.

#ifndef BITEXPORT_KERNELS_CPU_OUTPUT_TILES_H_
#define BITEXPORT_KERNELS_CPU_OUTPUT_TILES_H_

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

// Pixels of one output channel. Tiles count them in 32 bits, the last one to its end.
//
// Throws std::length_error where they do not fit: small images with far pads come to that.
inline std::int32_t output_pixels(const ConvShape& shape) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1024;
  const std::int64_t pixels = std::int64_t{shape.vertical.out_size()} * shape.horizontal.out_size();
  if (pixels > kMost) {
    throw std::length_error("expected at most " + std::to_string(kMost) +
                            " pixels in an output channel, got " + std::to_string(pixels));
  }
  return static_cast<std::int32_t>(pixels);
}

// A run of output pixels of one row within a tile.
struct Run {
  std::int32_t first;  // pixel of the tile
  std::int32_t length;
  std::int64_t source;  // of its first code under the kernel's first tap, from a plane's begin
};

using Runs = std::vector<Run>;

// The runs of every tile of `tile_pixels` pixels.
inline std::vector<Runs> output_runs(const ConvShape& shape, const PlaneLayout& layout,
                                     std::int32_t tile_pixels) {
  const std::int32_t pixels = output_pixels(shape);
  const std::int32_t width = shape.horizontal.out_size();
  std::vector<Runs> tiles;
  for (std::int32_t begin = 0; begin < pixels; begin += tile_pixels) {
    const std::int32_t end = std::min(pixels, begin + tile_pixels);
    Runs runs;
    for (std::int32_t pixel = begin; pixel < end;) {
      const std::int32_t column = pixel % width;
      const std::int32_t length = std::min(width - column, end - pixel);
      const std::int64_t row = std::int64_t{pixel / width} * shape.vertical.stride;
      runs.push_back({pixel - begin, length, row * layout.row + column});
      pixel += length;
    }
    tiles.push_back(std::move(runs));
  }
  return tiles;
}

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_OUTPUT_TILES_H_
