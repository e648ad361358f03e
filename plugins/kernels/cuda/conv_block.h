// One thread block of an implicit-GEMM convolution: the main loop, for every arithmetic and every
// source of weights.
//
// The code is written in phases. `exec.each(f)` runs f(thread number, registers) for the block's
// threads; barriers, copies into shared memory and warp-wide instructions are calls between or
// within phases. DeviceExec (device_exec.cuh) makes a CUDA kernel of it; the tests run it with an
// emulator that executes each phase for all threads in turn and watches for races.
//
// Shared memory: the table of rows, then a ring of kStages tiles of A and B, which the staging
// tiles of the epilogue use again.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_BLOCK_H_
#define BITEXPORT_KERNELS_CUDA_CONV_BLOCK_H_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/host_device.h"

namespace bitexport {
namespace cuda {

// The instruction of the inner loop. kBytes expands bits to int8 in registers, for GPUs without
// native MMA of bits.
enum class MmaOp { kXorPopc, kAndPopc, kBytes, kHalf, kBfloat };

// How a B tile comes about: sign words copied as bits; sign words turned to +-1 in registers; codes
// looked up; halves copied.
enum class WeightSource { kBits, kSigns, kCodes, kDense };

// Operands of one warp-wide MMA, C += A * B, as one lane holds them.
template <typename Accumulator>
struct MmaOperands {
  Accumulator (&c)[4];
  const std::uint32_t (&a)[4];
  std::uint32_t b[2];
};

// Where an output row's pixels come from and go to.
struct alignas(16) RowSource {
  std::int64_t offset;  // bytes from A to the pixel under tap (0, 0), perhaps outside the image
  std::int32_t top;     // that pixel's coordinates; top is kNoRow past the last row
  std::int32_t left;
};
struct alignas(16) RowTarget {
  std::int64_t offset;  // of output channel 0 in Y, in elements; negative past the last row
  std::int32_t border_class;
  std::int32_t unused;
};
inline constexpr std::int32_t kNoRow = -2147483647 - 1;

template <MmaOp op, WeightSource source, int block_rows, int block_columns, int warp_rows,
          int chunk_bytes>
struct ConvBlock {
  static constexpr MmaOp kOp = op;
  static constexpr WeightSource kSource = source;
  static constexpr bool kBinary = source == WeightSource::kBits;
  static constexpr bool kWide = op == MmaOp::kBfloat;
  static constexpr int kRows = block_rows;
  static constexpr int kColumns = block_columns;
  static constexpr int kWarpRows = warp_rows;
  static constexpr int kWarpColumns = kLanes;  // staged() is made for 32
  static constexpr int kChunkBytes = chunk_bytes;
  static constexpr int kStages = 3;

  static constexpr int kRowWarps = kRows / kWarpRows;
  static constexpr int kWarps = kRowWarps * (kColumns / kWarpColumns);
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr int kRowTiles = kWarpRows / kMmaRows;
  static constexpr int kColumnTiles = kWarpColumns / kMmaColumns;
  static_assert(kRows % kWarpRows == 0 && kWarpRows % kLanes == 0, "slices of 32 rows are staged");

  // Blocks that a multiprocessor should hold by their registers: 16 warps leave each thread 128 of
  // them. Looking up codes, and many rows with bits expanded or narrow copies, need more.
  static constexpr bool kManyRegisters =
      source == WeightSource::kCodes ||
      (kRowTiles > 2 && (op == MmaOp::kBytes || chunk_bytes < kVectorBytes));
  static constexpr int kBlocksAtOnce = kManyRegisters ? 1 : 512 / kThreads;

  // Bytes of a row along K in one tile of A, MMAs along them, and copies for them.
  static constexpr int kTileBytes = kBinary ? 64 : 128;
  static constexpr int kSteps = kTileBytes / kMmaBytes;
  static constexpr int kChunks = kTileBytes / kChunkBytes;
  // Sign words of a row for one tile: a word is 32 channels, 64 bytes of halves.
  static constexpr int kTileWords = kTileBytes / 64;
  static constexpr int kBRowBytes = source == WeightSource::kSigns ? 4 * kTileWords : kTileBytes;
  static constexpr int kWordsPerThread = ceil_div(kColumns * kTileWords, kThreads);

  static constexpr std::uint32_t kSourcesAt = 0;
  static constexpr std::uint32_t kTargetsAt = kRows * sizeof(RowSource);
  static constexpr std::uint32_t kRingAt = kTargetsAt + kRows * sizeof(RowTarget);
  static constexpr std::uint32_t kATileBytes = kRows * kTileBytes;
  static constexpr std::uint32_t kStageBytes = kATileBytes + kColumns * kBRowBytes;
  static constexpr std::uint32_t kStagingBytes = kLanes * kLanes * 4;  // of a warp
  static constexpr std::uint32_t kSharedBytes =
      kRingAt + (kStages * kStageBytes > kWarps * kStagingBytes ? kStages * kStageBytes
                                                                : kWarps * kStagingBytes);

  using Accumulator = std::conditional_t<kBinary, std::int32_t, float>;

  struct Thread {
    Accumulator c[kRowTiles][kColumnTiles][4];
    // A times a column of ones: the set bits of A, for the and-form (kAndPopc).
    Accumulator ones[kRowTiles][4];
    std::uint32_t a[kRowTiles][4];
    std::uint32_t b[kColumnTiles / 2][4];  // two columns tiles each
    std::uint32_t wide_a[kRowTiles][4];    // bytes made of bits (kBytes)
    std::uint32_t wide_b[kColumnTiles / 2][4];
    std::uint32_t tile_words[kColumnTiles][2];  // of the lane's columns (kSigns)
    std::uint32_t next_words[kWordsPerThread];  // read ahead from memory (kSigns)
  };

  // The tile of Y that a block computes.
  struct Place {
    std::int64_t first_row;
    std::int32_t group;
    std::int32_t first_column;  // within the group
  };

  static BITEXPORT_BLOCK Place place_of(const ConvArgs& args, std::int64_t block) {
    // Neighbouring blocks read the same pixels, which the L2 cache then still holds.
    const std::int64_t row_block = block / args.column_tiles;
    const std::int64_t group = row_block / args.row_tiles;
    return {(row_block - group * args.row_tiles) * kRows, static_cast<std::int32_t>(group),
            static_cast<std::int32_t>(block - row_block * args.column_tiles) * kColumns};
  }
};

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_BLOCK_H_
