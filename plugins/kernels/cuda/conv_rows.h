// The rows of an implicit GEMM: which input pixel and which output element each stands for, and the
// copies of A that follow from it.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_ROWS_H_
#define BITEXPORT_KERNELS_CUDA_CONV_ROWS_H_

#include <cstdint>

#include "kernels/cuda/conv_block.h"

namespace bitexport {
namespace cuda {

// Fills in the table of rows.
template <typename Block, typename Exec>
BITEXPORT_BLOCK void write_rows(const ConvArgs& args, Exec& exec,
                                const typename Block::Place& place, int tid) {
  const ConvAxis& vertical = args.shape.vertical;
  const ConvAxis& horizontal = args.shape.horizontal;
  for (int i = tid; i < Block::kRows; i += Block::kThreads) {
    const std::int64_t pixel = place.first_row + i;
    RowSource source = {0, kNoRow, 0};
    RowTarget target = {-1, 0, 0};
    if (pixel < args.pixels) {
      const std::int64_t plane = std::int64_t{1} * args.out_height * args.out_width;
      const std::int64_t image = pixel / plane;
      const std::int64_t in_plane = pixel - image * plane;
      const auto row = static_cast<std::int32_t>(in_plane / args.out_width);
      const auto column = static_cast<std::int32_t>(in_plane - std::int64_t{row} * args.out_width);
      source.top = vertical.input_at(row, 0);
      source.left = horizontal.input_at(column, 0);
      source.offset = image * args.batch_stride + source.top * args.row_stride +
                      source.left * args.pixel_stride + place.group * args.group_stride;
      target.offset = args.epilogue.output == Output::kHalfNhwc8
                          ? pixel * padded_channels(args.shape.out_channels)
                          : image * args.shape.out_channels * plane + in_plane;
      target.border_class = border_class(args.shape, row, column);
    }
    const auto at = static_cast<std::uint32_t>(i) * static_cast<std::uint32_t>(sizeof(RowSource));
    exec.store(tid, Block::kSourcesAt + at, source);
    exec.store(tid, Block::kTargetsAt + at, target);
  }
}

// Starts the copies of one thread for tile `k_tile` of A: a column of chunks. What lies outside the
// image, past the channels of the group or past the end of K becomes zero bytes.
template <typename Block, typename Exec>
BITEXPORT_BLOCK void copy_activations(const ConvArgs& args, Exec& exec, std::uint32_t tile_at,
                                      std::int32_t k_tile, int tid) {
  constexpr int kBytes = Block::kChunkBytes;
  constexpr int kRowsAtOnce = Block::kThreads / Block::kChunks;
  static_assert(Block::kThreads % Block::kChunks == 0 && Block::kRows % kRowsAtOnce == 0,
                "every thread copies as many chunks, all of one column");
  const int chunk = tid % Block::kChunks;
  const std::int32_t k_unit = k_tile * Block::kChunks + chunk;
  const std::int32_t plane_and_tap = args.units_divider.quotient(k_unit);
  const std::int32_t first_byte = args.units_divider.remainder(k_unit, plane_and_tap) * kBytes;
  const std::int32_t plane = args.taps_divider.quotient(plane_and_tap);
  const std::int32_t tap = args.taps_divider.remainder(plane_and_tap, plane);
  const std::int32_t tap_row = args.kernel_width_divider.quotient(tap);
  const std::int32_t tap_column = args.kernel_width_divider.remainder(tap, tap_row);
  const std::int32_t down = tap_row * args.shape.vertical.dilation;
  const std::int32_t right = tap_column * args.shape.horizontal.dilation;

  // A second pass over the terms of A meets the second term of a centroid (weight_term).
  const std::int32_t term = plane < kBfloatTerms ? plane : plane - kBfloatTerms;
  const std::int64_t ahead =
      term * args.plane_stride + down * args.row_stride + right * args.pixel_stride + first_byte;
  std::int32_t wanted = args.group_bytes - first_byte;
  wanted = wanted < 0 || k_unit >= args.k_units ? 0 : wanted < kBytes ? wanted : kBytes;

  const int byte = chunk * kBytes;
  BITEXPORT_UNROLL
  for (int pass = 0; pass < Block::kRows / kRowsAtOnce; ++pass) {
    const int row = tid / Block::kChunks + pass * kRowsAtOnce;
    const auto source = exec.template load<RowSource>(
        tid, Block::kSourcesAt + static_cast<std::uint32_t>(row * int{sizeof(RowSource)}));
    // One comparison each for both ends: a negative coordinate is a large unsigned one.
    const bool inside = static_cast<std::uint32_t>(source.top + down) <
                            static_cast<std::uint32_t>(args.shape.vertical.size) &&
                        static_cast<std::uint32_t>(source.left + right) <
                            static_cast<std::uint32_t>(args.shape.horizontal.size);
    const std::uint32_t to = tile_at + swizzled<Block::kTileBytes>(row, byte / kVectorBytes) +
                             static_cast<std::uint32_t>(byte % kVectorBytes);
    const bool any = inside && wanted > 0;
    exec.template copy<kBytes>(tid, to, args.a + (any ? source.offset + ahead : 0),
                               any ? wanted : 0);
  }
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_ROWS_H_
