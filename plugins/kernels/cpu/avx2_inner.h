// The inner loop of the AVX2 kernel: mismatching bits of two output channels, by table look-up.
//
// pshufb looks 32 four-bit codes up in a 16-entry table at once. A weight byte holds the codes of
// two output channels, and its table both of their mismatch counts with every activation code a:
//
//     table[byte][a] = popcount(low code ^ a) + 16 * popcount(high code ^ a)
//
// Three look-ups add up to at most 12 in either half of a byte. A padding code has its top bit set,
// for which pshufb gives 0: a padded tap adds no mismatch, without a branch.

#ifndef BITEXPORT_KERNELS_CPU_AVX2_INNER_H_
#define BITEXPORT_KERNELS_CPU_AVX2_INNER_H_

#include <immintrin.h>

#include <array>
#include <cstdint>

namespace bitexport {
namespace cpu {
namespace avx2 {

inline constexpr std::int32_t kVectorPixels = 32;
// Look-ups whose counts are added before the two halves of the byte are taken apart.
inline constexpr std::int32_t kGroup = 3;
// Groups whose counts, at most 12 each, fit 8 bits.
inline constexpr std::int32_t kGroupsPerFlush = 21;

struct alignas(16) Table {
  std::uint8_t count[16];
};

inline std::array<Table, 256> make_tables() {
  std::array<Table, 256> tables{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    for (unsigned a = 0; a < 16; ++a) {
      const int low = __builtin_popcount((byte & 15u) ^ a);
      const int high = __builtin_popcount((byte >> 4) ^ a);
      tables[byte].count[a] = static_cast<std::uint8_t>(low + 16 * high);
    }
  }
  return tables;
}

inline const std::array<Table, 256>& tables() {
  static const std::array<Table, 256> instance = make_tables();
  return instance;
}

// The counts that one pass adds up, taken apart without masks in the loop.
//
// Of each pair of neighbouring bytes, e + 256 * o with e = e0 + 16 * e1 and o = o0 + 16 * o1 (0 and
// 1 being the output channels), the loop adds up the bytes themselves and the pair shifted right by
// four bits, e1 + 16 * o0 + 256 * o1. Every sum is below 256, so the four come back modulo 256.
inline void add_counts(__m256i sums, __m256i shifted, std::uint16_t* channel0,
                       std::uint16_t* channel1) {
  const __m256i byte = _mm256_set1_epi16(0xff);
  const __m256i o1 = _mm256_srli_epi16(shifted, 8);
  const __m256i o0 = _mm256_and_si256(
      _mm256_sub_epi16(_mm256_srli_epi16(sums, 8), _mm256_slli_epi16(o1, 4)), byte);
  const __m256i e1 = _mm256_and_si256(_mm256_sub_epi16(shifted, _mm256_slli_epi16(o0, 4)), byte);
  const __m256i e0 = _mm256_and_si256(_mm256_sub_epi16(sums, _mm256_slli_epi16(e1, 4)), byte);
  const auto add = [](std::uint16_t* counters, __m256i counts) {
    auto* target = reinterpret_cast<__m256i*>(counters);
    _mm256_store_si256(target, _mm256_add_epi16(_mm256_load_si256(target), counts));
  };
  add(channel0, e0);
  add(channel0 + kVectorPixels / 2, o0);
  add(channel1, e1);
  add(channel1 + kVectorPixels / 2, o1);
}

// Brings 32 counters, those of the even pixels before those of the odd ones, into order.
inline void interleave(std::uint16_t* counters) {
  auto* vectors = reinterpret_cast<__m256i*>(counters);
  const __m256i even = _mm256_load_si256(vectors);
  const __m256i odd = _mm256_load_si256(vectors + 1);
  const __m256i low = _mm256_unpacklo_epi16(even, odd);
  const __m256i high = _mm256_unpackhi_epi16(even, odd);
  _mm256_store_si256(vectors, _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_store_si256(vectors + 1, _mm256_permute2x128_si256(low, high, 0x31));
}

// Adds the mismatches of `groups` groups of codes to the counters of two output channels.
//
// codes [groups * kGroup, kVectors * 32]; weights [groups * kGroup] bytes; counters
// [2, kVectors * 32], aligned to 32 bytes, each 32 in the order that interleave() mends.
template <int kVectors>
inline void count_mismatches(const std::uint8_t* codes, const std::uint8_t* weights,
                             std::int32_t groups, std::uint16_t* counters) {
  constexpr std::int32_t kRow = kVectors * kVectorPixels;
  const Table* const table = tables().data();
  while (groups > 0) {
    const std::int32_t batch = groups < kGroupsPerFlush ? groups : kGroupsPerFlush;
    __m256i sums[kVectors];
    __m256i shifted[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = shifted[v] = _mm256_setzero_si256();
    for (std::int32_t g = 0; g < batch; ++g) {
      const auto look_up = [&](int i) {
        return _mm256_broadcastsi128_si256(
            _mm_load_si128(reinterpret_cast<const __m128i*>(table[weights[i]].count)));
      };
      const __m256i t0 = look_up(0);
      const __m256i t1 = look_up(1);
      const __m256i t2 = look_up(2);
      for (int v = 0; v < kVectors; ++v) {
        const auto code = [&](int i) {
          return _mm256_load_si256(
              reinterpret_cast<const __m256i*>(codes + i * kRow + v * kVectorPixels));
        };
        const __m256i sum = _mm256_add_epi8(
            _mm256_add_epi8(_mm256_shuffle_epi8(t0, code(0)), _mm256_shuffle_epi8(t1, code(1))),
            _mm256_shuffle_epi8(t2, code(2)));
        sums[v] = _mm256_add_epi8(sums[v], sum);
        shifted[v] = _mm256_add_epi8(shifted[v], _mm256_srli_epi16(sum, 4));
      }
      codes += kGroup * kRow;
      weights += kGroup;
    }
    for (int v = 0; v < kVectors; ++v) {
      add_counts(sums[v], shifted[v], counters + v * kVectorPixels,
                 counters + kRow + v * kVectorPixels);
    }
    groups -= batch;
  }
}

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX2_INNER_H_
