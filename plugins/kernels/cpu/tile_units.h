// How the kernels that take words of channels divide their work into units.

#ifndef BITEXPORT_KERNELS_CPU_TILE_UNITS_H_
#define BITEXPORT_KERNELS_CPU_TILE_UNITS_H_

#include <algorithm>
#include <cstdint>

#include "core/conv_shape.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

struct UnitLimits {
  std::int32_t fewest_units;     // of convolving, so that so many threads have work
  std::int32_t most_tile_parts;  // taking a unit takes time, too
  std::int32_t fewest_blocks;    // of a chunk: a tile's activations are prepared for each chunk
  std::int32_t block_multiple;   // of blocks in a chunk, but for the last one
};

// Packing: rows of one plane. Convolving: tiles of output pixels, and a chunk of the blocks of
// output channels of one group. Parts of one kind are of about a size, so that threads end
// together.
//
// Neighbouring units are neighbours in the image, for both: a thread gets neighbours, and its cache
// may still have what it wrote there for the layer before.
struct TileUnits {
  std::int32_t planes;  // of all groups
  std::int32_t pack_rows;
  std::int32_t pack_parts;  // of a plane
  std::int32_t tiles;       // of a unit
  std::int32_t tile_parts;
  std::int32_t blocks;  // of a chunk
  std::int32_t chunks;
  std::int32_t groups;

  TileUnits(const ConvShape& shape, std::int32_t planes_per_group, std::int32_t all_tiles,
            std::int32_t all_blocks, const UnitLimits& limits)
      : planes(shape.group * planes_per_group),
        pack_rows(rows_to_pack(shape)),
        pack_parts(divided_up(shape.vertical.size, pack_rows)),
        tiles(divided_up(all_tiles, limits.most_tile_parts)),
        tile_parts(divided_up(all_tiles, tiles)),
        blocks(divided_up(blocks_of_chunk(all_blocks, tile_parts, limits), limits.block_multiple) *
               limits.block_multiple),
        chunks(divided_up(all_blocks, blocks)),
        groups(shape.group) {}

  std::int32_t pack_units() const { return planes * pack_parts; }
  std::int32_t conv_units() const { return groups * chunks * tile_parts; }

 private:
  static constexpr std::int32_t kFewestPacked = 128;  // pixels of a unit, about
  static constexpr std::int32_t kMostPacked = 1024;

  // `all` in parts of at most `most`, all of about a size: how much a part has.
  static std::int32_t even_part(std::int32_t all, std::int32_t most) {
    return divided_up(all, divided_up(all, most));
  }

  static std::int32_t blocks_of_chunk(std::int32_t all_blocks, std::int32_t parts,
                                      const UnitLimits& limits) {
    const std::int64_t share = std::int64_t{all_blocks} * parts / limits.fewest_units;
    const std::int32_t fewest = std::min(limits.fewest_blocks, all_blocks);
    return even_part(
        all_blocks, static_cast<std::int32_t>(std::clamp<std::int64_t>(share, fewest, all_blocks)));
  }

  // Two parts of a plane at least, where those are not too small.
  static std::int32_t rows_to_pack(const ConvShape& shape) {
    const std::int64_t half = std::int64_t{shape.vertical.size} * shape.horizontal.size / 2;
    const auto pixels =
        static_cast<std::int32_t>(std::clamp<std::int64_t>(half, kFewestPacked, kMostPacked));
    return even_part(shape.vertical.size, std::max(1, pixels / shape.horizontal.size));
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_TILE_UNITS_H_
