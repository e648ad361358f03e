// Where the tiles of B come from: one producer for each WeightSource.
//
// B has a row of bytes for each output channel, like A for each pixel. `produce_weights` fills the
// B tile of a stage; its stores are seen after the next barrier but one, as A's copies are.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_WEIGHTS_H_
#define BITEXPORT_KERNELS_CUDA_CONV_WEIGHTS_H_

#include <cstdint>

#include "kernels/cuda/conv_block.h"

namespace bitexport {
namespace cuda {

struct alignas(16) Vector16 {
  std::uint32_t word[4];
};
struct alignas(8) Vector8 {
  std::uint32_t word[2];
};

// ---- Rows of bytes as they lie in memory: kBits and kDense -------------------------------------

template <typename Block, typename Exec>
BITEXPORT_BLOCK void copy_weight_rows(const ConvArgs& args, Exec& exec,
                                      const typename Block::Place& place, std::uint32_t tile_at,
                                      std::int32_t k_tile, int tid) {
  constexpr int kBytes = Block::kChunkBytes;
  constexpr int kColumnsAtOnce = Block::kThreads / Block::kChunks;
  const int chunk = tid % Block::kChunks;
  const std::int32_t k_unit = k_tile * Block::kChunks + chunk;
  const std::int32_t columns = args.shape.out_channels_per_group();
  const std::int64_t row_bytes = std::int64_t{args.k_units} * kBytes;
  const auto* first = static_cast<const std::uint8_t*>(args.b) +
                      (std::int64_t{place.group} * columns + place.first_column) * row_bytes +
                      std::int64_t{k_unit} * kBytes;
  const int byte = chunk * kBytes;
  BITEXPORT_UNROLL
  for (int pass = 0; pass < ceil_div(Block::kColumns, kColumnsAtOnce); ++pass) {
    const int column = tid / Block::kChunks + pass * kColumnsAtOnce;
    if (Block::kColumns % kColumnsAtOnce != 0 && column >= Block::kColumns) break;
    const bool any = k_unit < args.k_units && place.first_column + column < columns;
    const std::uint32_t to = tile_at + swizzled<Block::kTileBytes>(column, byte / kVectorBytes) +
                             static_cast<std::uint32_t>(byte % kVectorBytes);
    exec.template copy<kBytes>(
        tid, to, any ? first + column * row_bytes : static_cast<const std::uint8_t*>(args.b),
        any ? kBytes : 0);
  }
}

// ---- Sign words for registers: kSigns ----------------------------------------------------------

// Reads a thread's sign words of a tile into registers. Where a plane of A ends, the taps begin
// again: the terms of a float have the same weight. Past the end of K, A is zero and any word does.
template <typename Block>
BITEXPORT_BLOCK void read_sign_words(const ConvArgs& args, const typename Block::Place& place,
                                     std::int32_t k_tile, int tid, typename Block::Thread& thread) {
  const std::int32_t columns = args.shape.out_channels_per_group();
  const std::int32_t row_words = args.taps_divider.divisor * args.shape.words_per_tap();
  BITEXPORT_UNROLL
  for (int i = 0; i < Block::kWordsPerThread; ++i) {
    const int at = tid + i * Block::kThreads;
    const int column = at / Block::kTileWords;
    std::int32_t word = k_tile * Block::kTileWords + at % Block::kTileWords;
    BITEXPORT_UNROLL
    for (int plane = 1; plane < (Block::kWide ? kBfloatTerms : 1); ++plane) {
      if (word >= row_words) word -= row_words;
    }
    const bool any =
        column < Block::kColumns && place.first_column + column < columns && word < row_words;
    const std::int64_t row = std::int64_t{place.group} * columns + place.first_column + column;
    thread.next_words[i] =
        any ? static_cast<const std::uint32_t*>(args.b)[row * row_words + word] : 0u;
  }
}

template <typename Block, typename Exec>
BITEXPORT_BLOCK void store_sign_words(Exec& exec, std::uint32_t tile_at, int tid,
                                      const typename Block::Thread& thread) {
  BITEXPORT_UNROLL
  for (int i = 0; i < Block::kWordsPerThread; ++i) {
    const int at = tid + i * Block::kThreads;
    if (at < Block::kColumns * Block::kTileWords) {
      exec.store(tid, tile_at + static_cast<std::uint32_t>(at * 4),
                 unshuffled(thread.next_words[i]));
    }
  }
}

// ---- Codes: kCodes -----------------------------------------------------------------------------

// Weight `index` of a row of codes, a half.
BITEXPORT_BLOCK std::uint16_t centroid_element(const CodebookArgs& codebook,
                                               const std::uint32_t* row, std::int32_t index) {
  const std::int32_t block = codebook.depth.quotient(index);
  const std::uint32_t code = codebook.code_bits == 8 ? code_at(row, block, CodeBits::k8)
                                                     : code_at(row, block, CodeBits::k16);
  return codebook.centroids[std::int64_t{code} * codebook.depth.divisor +
                            codebook.depth.remainder(index, block)];
}

// Eight neighbouring channels of one tap, from `channel` on, as halves; zero past the last one.
BITEXPORT_BLOCK Vector16 centroid_vector(const ConvArgs& args, const std::uint32_t* row,
                                         std::int32_t channel, std::int32_t tap) {
  const std::int32_t channels = args.shape.in_channels_per_group();
  const std::int32_t taps = args.taps_divider.divisor;
  Vector16 vector = {};
  if (taps == 1 && args.codebook.depth.divisor % 8 == 0 && channel + 8 <= channels) {
    // All eight lie in one centroid; its address is a multiple of 16 bytes.
    const std::int32_t block = args.codebook.depth.quotient(channel);
    const std::uint32_t code = args.codebook.code_bits == 8 ? code_at(row, block, CodeBits::k8)
                                                            : code_at(row, block, CodeBits::k16);
    const std::uint16_t* centroid = args.codebook.centroids +
                                    std::int64_t{code} * args.codebook.depth.divisor +
                                    args.codebook.depth.remainder(channel, block);
    return *reinterpret_cast<const Vector16*>(centroid);
  }
  BITEXPORT_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (channel + i < channels) {
      const std::uint32_t half = centroid_element(args.codebook, row, (channel + i) * taps + tap);
      vector.word[i / 2] |= half << (i % 2 * 16);
    }
  }
  return vector;
}

// Term 0 or 1 of eight halves, as eight bfloat16. A half is finite where a codebook is.
BITEXPORT_BLOCK Vector16 bfloat_term(const Vector16& halves, int term) {
  Vector16 vector = {};
  BITEXPORT_UNROLL
  for (int i = 0; i < 8; ++i) {
    const float value =
        float_of_half(static_cast<std::uint16_t>(halves.word[i / 2] >> (i % 2 * 16)));
    const std::uint32_t first = bits_of_float(value) & 0xFFFF0000u;
    // The second term has at most 3 significant bits: nothing is cut off.
    const std::uint32_t bits = term == 0 ? first : bits_of_float(value - float_of_bits(first));
    vector.word[i / 2] |= bits >> 16 << (i % 2 * 16);
  }
  return vector;
}

template <typename Block, typename Exec>
BITEXPORT_BLOCK void look_up_codes(const ConvArgs& args, Exec& exec,
                                   const typename Block::Place& place, std::uint32_t tile_at,
                                   std::int32_t k_tile, int tid) {
  constexpr int kVectors = Block::kTileBytes / kVectorBytes;
  constexpr int kColumnsAtOnce = Block::kThreads / kVectors;
  static_assert(Block::kThreads % kVectors == 0 && Block::kColumns % kColumnsAtOnce == 0,
                "every thread looks up as many vectors, all of one tap");
  const int vector_of_row = tid % kVectors;
  const std::int32_t columns = args.shape.out_channels_per_group();
  const std::int32_t k_unit = k_tile * kVectors + vector_of_row;
  const std::int32_t plane_and_tap = args.units_divider.quotient(k_unit);
  const std::int32_t channel = args.units_divider.remainder(k_unit, plane_and_tap) * 8;
  const std::int32_t plane = args.taps_divider.quotient(plane_and_tap);
  const std::int32_t tap = args.taps_divider.remainder(plane_and_tap, plane);
  // Two passes at once hide some latency; all of them would only be more code.
  BITEXPORT_UNROLL_TWICE
  for (int pass = 0; pass < Block::kColumns / kColumnsAtOnce; ++pass) {
    const int column = tid / kVectors + pass * kColumnsAtOnce;
    Vector16 vector = {};
    if (k_unit < args.k_units && place.first_column + column < columns) {
      const std::int64_t row = std::int64_t{place.group} * columns + place.first_column + column;
      vector = centroid_vector(
          args, static_cast<const std::uint32_t*>(args.b) + row * args.codebook.words_per_row,
          channel, tap);
      if (Block::kWide) vector = bfloat_term(vector, plane < kBfloatTerms ? 0 : 1);
    }
    exec.store(tid, tile_at + swizzled<Block::kTileBytes>(column, vector_of_row), vector);
  }
}

// ---- One call for all --------------------------------------------------------------------------

template <typename Block, typename Exec>
BITEXPORT_BLOCK void produce_weights(const ConvArgs& args, Exec& exec,
                                     const typename Block::Place& place, std::uint32_t tile_at,
                                     std::int32_t k_tile, int tid, typename Block::Thread& thread) {
  if constexpr (Block::kSource == WeightSource::kSigns) {
    store_sign_words<Block>(exec, tile_at, tid, thread);
    read_sign_words<Block>(args, place, k_tile + 1, tid, thread);
  } else if constexpr (Block::kSource == WeightSource::kCodes) {
    look_up_codes<Block>(args, exec, place, tile_at, k_tile, tid);
  } else {
    copy_weight_rows<Block>(args, exec, place, tile_at, k_tile, tid);
  }
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_WEIGHTS_H_
