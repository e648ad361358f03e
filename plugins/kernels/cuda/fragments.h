// How operands lie in shared memory and in the registers of a warp.
//
// All MMA shapes in use are the same in bytes: A is 16 rows of 32 bytes, B 8 columns of 32 bytes,
// and a lane holds 4 neighbouring bytes in a register. With group = lane / 4 and pair = lane % 4:
//
//   A register 0: row group,     bytes 4 pair ..      B register 0: column group, bytes 4 pair ..
//              1: row group + 8, bytes 4 pair ..                 1: column group, bytes 16 + 4 pair
//              2: row group,     bytes 16 + 4 pair    C 0, 1: row group,     columns 2 pair, + 1
//              3: row group + 8, bytes 16 + 4 pair    C 2, 3: row group + 8, columns 2 pair, + 1
//
// 32 bytes are 256 bits (m16n8k256), 32 int8 (m16n8k32) or 16 halves (m16n8k16).
// Source: PTX ISA, "Matrix fragments for mma.m16n8k16 / k32 / k256".

#ifndef BITEXPORT_KERNELS_CUDA_FRAGMENTS_H_
#define BITEXPORT_KERNELS_CUDA_FRAGMENTS_H_

#include <cstdint>

#include "kernels/cuda/host_device.h"

namespace bitexport {
namespace cuda {

inline constexpr int kLanes = 32;
inline constexpr int kMmaRows = 16;
inline constexpr int kMmaColumns = 8;
inline constexpr int kMmaBytes = 32;  // along K
// The unit that ldmatrix reads and that the swizzle moves.
inline constexpr int kVectorBytes = 16;

// ---- Shared memory tiles -----------------------------------------------------------------------

// Byte offset of 16-byte vector `vector` of row `row` in a tile with rows of kRowBytes (64 or 128).
//
// Vectors change places within a row, so that the eight rows that ldmatrix reads at once, and the
// eight neighbours that a quarter of a warp writes, lie in different banks.
template <int kRowBytes>
BITEXPORT_HD constexpr std::uint32_t swizzled(int row, int vector) {
  static_assert(kRowBytes == 64 || kRowBytes == 128, "no swizzle for this row length");
  const int turn = kRowBytes == 128 ? row & 7 : row >> 1 & 3;
  return static_cast<std::uint32_t>(row * kRowBytes + ((vector ^ turn) * kVectorBytes));
}

// Byte offset of accumulator (row, column) of a warp's 32 x 32 staging tile.
//
// Turning a row's columns by its row number, bits rearranged, keeps all three ways of access free
// of bank conflicts: a fragment's (8 rows, 4 even columns), 32 rows of a column, and 8 rows with
// every eighth column (staging_row).
BITEXPORT_HD constexpr std::uint32_t staged(int row, int column) {
  const int turn = (row & 1) | (row >> 1 & 3) << 3 | (row >> 3 & 3) << 1;
  return static_cast<std::uint32_t>((row * kLanes + (column ^ turn)) * 4);
}

// The row that a group of four lanes reads in step 0..3: each row once, without bank conflicts.
BITEXPORT_HD constexpr int staging_row(int lane_group, int step) {
  return (lane_group & 1) | (lane_group >> 1 & 3) << 3 | step << 1;
}

// ---- ldmatrix.x4: the row whose address a lane gives -------------------------------------------

// Row and 16-byte half for an A fragment: matrices in the order of the registers.
BITEXPORT_HD constexpr int a_row_of_lane(int lane) { return (lane & 7) + (lane >> 3 & 1) * 8; }
BITEXPORT_HD constexpr int a_half_of_lane(int lane) { return lane >> 4; }

// For two B fragments at once: registers 0, 1 are those of the first, 2, 3 those of the second.
BITEXPORT_HD constexpr int b_column_of_lane(int lane) { return (lane & 7) + (lane >> 4) * 8; }
BITEXPORT_HD constexpr int b_half_of_lane(int lane) { return lane >> 3 & 1; }

// ---- Bits to numbers in registers --------------------------------------------------------------

// Bits `step`, 8 + step, 16 + step, 24 + step of a word as four bytes of 0 or 1.
//
// Over the steps 0..7 each bit of 32 bytes comes once, in an order that A and B share; the sum over
// K does not care about it.
BITEXPORT_HD constexpr std::uint32_t bits_to_bytes(std::uint32_t word, int step) {
  return word >> step & 0x01010101u;
}

// The same bits as four bytes of -1 or +1: 0xFF - 0xFE * bit borrows from no other byte.
BITEXPORT_HD constexpr std::uint32_t bits_to_signed_bytes(std::uint32_t word, int step) {
  return 0xFFFFFFFFu - bits_to_bytes(word, step) * 0xFEu;
}

// Moves the 16 even channels of a sign word to the low half and the 16 odd ones to the high half:
// bits p and 16 + p are then the channels 2p and 2p + 1, which share a register of halves.
BITEXPORT_HD constexpr std::uint32_t unshuffled(std::uint32_t word) {
  std::uint32_t x = word;
  std::uint32_t t = (x ^ x >> 1) & 0x22222222u;
  x ^= t ^ t << 1;
  t = (x ^ x >> 2) & 0x0C0C0C0Cu;
  x ^= t ^ t << 2;
  t = (x ^ x >> 4) & 0x00F000F0u;
  x ^= t ^ t << 4;
  t = (x ^ x >> 8) & 0x0000FF00u;
  return x ^ t ^ t << 8;
}

// Register `part` (0: bytes 4 pair .., 1: bytes 16 + 4 pair ..) of B for step `half` (0 or 1) of an
// unshuffled word: two numbers of 16 bits, +1 or -1 as `minus_one` (of the number format) says.
//
// Channel pair p = pair + 4 part + 8 half; its bits p and 16 + p move to the sign bits.
BITEXPORT_HD constexpr std::uint32_t signs_to_numbers(std::uint32_t word, int pair, int part,
                                                      int half, std::uint32_t minus_one) {
  const std::uint32_t shifted = word << (3 - pair) << (12 - 4 * part - 8 * half);
  return (shifted & 0x80008000u) ^ minus_one;
}

inline constexpr std::uint32_t kMinusOneHalves = 0xBC00BC00u;
inline constexpr std::uint32_t kMinusOneBfloats = 0xBF80BF80u;

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_FRAGMENTS_H_
