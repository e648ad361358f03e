// The table of tactics: which kernels there are, and which take a problem on a device.

#ifndef BITEXPORT_KERNELS_CUDA_TACTICS_H_
#define BITEXPORT_KERNELS_CUDA_TACTICS_H_

#include <cstdint>

#include "kernels/cuda/conv_block.h"
#include "kernels/cuda/problem.h"

namespace bitexport {
namespace cuda {

// Families of kernels. The values are part of the tactics' numbers: never change or reuse one.
enum class Family : int {
  kXor = 1,     // BinaryConv by xor.popc, native on sm_75 to sm_89
  kAnd = 2,     // BinaryConv by and.popc, the only native one on sm_90
  kBytes = 3,   // BinaryConv by int8 MMA, bits expanded in registers
  kSigns = 4,   // SignConv
  kCodes = 5,   // CodebookConv, codes looked up in the main loop
  kDense = 6,   // CodebookConv, codes expanded to halves beforehand
  kDirect = 7,  // any problem, a thread for each output
};

// Tile sizes of the implicit GEMM: output pixels, output channels, pixels of a warp.
struct TileSize {
  int rows;
  int columns;
  int warp_rows;
};
inline constexpr TileSize kTiles[] = {
    {128, 128, 64}, {128, 64, 64}, {64, 64, 32}, {64, 32, 32}, {32, 64, 32}};
inline constexpr int kTileCount = 5;

inline constexpr int kTileNumbers = 16;  // of a family
constexpr int conv_tactic(Family family, int tile) {
  return static_cast<int>(family) * kTileNumbers + tile;
}

// What a tactic's number says; `ok` is false where it is no tactic.
struct Tactic {
  Family family;
  int tile;
  bool reference;
  bool ok;
};
Tactic parse_tactic(int number);

// Whether the family computes this problem at all, on whatever device.
bool family_takes(Family family, const ConvProblem& problem);

// Whether a device of this compute capability has the family's instructions, for this type of X.
bool device_has(Family family, DataType type, int compute_capability);

// Bytes of shared memory that a block may have.
std::int64_t most_shared_bytes(int compute_capability);

// Whether the shape and the codebook of a problem fit together.
bool is_consistent(const ConvProblem& problem);

// As conv_tactics in launch.h.
int list_conv_tactics(const ConvProblem& problem, int compute_capability, int* tactics,
                      int capacity);

// ---- From numbers to types ---------------------------------------------------------------------

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls visit(TypeTag<ConvBlock<...>>) for a tile and, for sign words as bits, the bytes of a copy.
template <MmaOp op, WeightSource source, int chunk_bytes, typename Visit>
bool visit_tile(int tile, Visit visit) {
  switch (tile) {
    case 0:
      // Three terms of a float need no tile this large: they fill the tensor cores as it is.
      if constexpr (op == MmaOp::kBfloat)
        return false;
      else
        visit(TypeTag<ConvBlock<op, source, 128, 128, 64, chunk_bytes>>{});
      return true;
    case 1:
      visit(TypeTag<ConvBlock<op, source, 128, 64, 64, chunk_bytes>>{});
      return true;
    case 2:
      visit(TypeTag<ConvBlock<op, source, 64, 64, 32, chunk_bytes>>{});
      return true;
    case 3:
      visit(TypeTag<ConvBlock<op, source, 64, 32, 32, chunk_bytes>>{});
      return true;
    case 4:
      visit(TypeTag<ConvBlock<op, source, 32, 64, 32, chunk_bytes>>{});
      return true;
    default:
      return false;
  }
}

template <MmaOp op, typename Visit>
bool visit_binary_block(int tile, int chunk_bytes, Visit visit) {
  switch (chunk_bytes) {
    case 4:
      return visit_tile<op, WeightSource::kBits, 4>(tile, visit);
    case 8:
      return visit_tile<op, WeightSource::kBits, 8>(tile, visit);
    case 16:
      return visit_tile<op, WeightSource::kBits, 16>(tile, visit);
    default:
      return false;
  }
}

template <WeightSource source, typename Visit>
bool visit_real_block(DataType type, int tile, Visit visit) {
  if (type == DataType::kFloat16) return visit_tile<MmaOp::kHalf, source, 16>(tile, visit);
  if constexpr (source == WeightSource::kDense) {
    return false;  // a dense weight of two terms would be as large as the float32 weight
  } else {
    return visit_tile<MmaOp::kBfloat, source, 16>(tile, visit);
  }
}

// The block of any family but kDirect.
template <typename Visit>
bool visit_block(Family family, DataType type, int tile, int chunk_bytes, Visit visit) {
  switch (family) {
    case Family::kXor:
      return visit_binary_block<MmaOp::kXorPopc>(tile, chunk_bytes, visit);
    case Family::kAnd:
      return visit_binary_block<MmaOp::kAndPopc>(tile, chunk_bytes, visit);
    case Family::kBytes:
      return visit_binary_block<MmaOp::kBytes>(tile, chunk_bytes, visit);
    case Family::kSigns:
      return visit_real_block<WeightSource::kSigns>(type, tile, visit);
    case Family::kCodes:
      return visit_real_block<WeightSource::kCodes>(type, tile, visit);
    case Family::kDense:
      return visit_real_block<WeightSource::kDense>(type, tile, visit);
    case Family::kDirect:
      return false;
  }
  return false;
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_TACTICS_H_
