#include "kernels/cpu/avx2_pack.h"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/target.h"

BITEXPORT_TARGET_BEGIN("avx2")

#include "kernels/cpu/lookup_pack.h"

namespace bitexport {
namespace cpu {
namespace avx2 {
namespace {

constexpr std::int64_t kPixels = 32;  // of one vector of bytes
// In pixels. What the processor fetches by itself ends with each page, of 1024.
constexpr std::int64_t kFetchAhead = 1024;

// Packs two packed pairs of 8 numbers: the packs work within 128-bit lanes, and this puts the
// groups of four pixels in order.
__m256i in_order(__m256i low, __m256i high) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

// Byte i is 0xff where x[i] >= threshold; a NaN is not.
__m256i compare(const float* x, __m256 threshold) {
  const auto at_least = [&](int i) {
    return _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + 8 * i), threshold, _CMP_GE_OQ));
  };
  const __m256i low = _mm256_packs_epi32(at_least(0), at_least(1));
  const __m256i high = _mm256_packs_epi32(at_least(2), at_least(3));
  return in_order(low, high);
}

__m256i load(const std::uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

struct Encoder {
  // A channel after the other: what is read is one run of memory, which the processor and the
  // fetching ahead follow from each call into the next one.
  static void encode(const float* x, std::int64_t pixels, std::int32_t channels,
                     const float* threshold, std::uint8_t* codes) {
    for (std::int32_t j = 0; j < channels; ++j) {
      const float* const channel = x + j * pixels;
      const __m256 limit = _mm256_set1_ps(threshold[j]);
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << j));
      const auto some = [&](std::int64_t i) {
        // Past the end it does nothing.
        _mm_prefetch(reinterpret_cast<const char*>(channel + i + kFetchAhead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(channel + i + kFetchAhead + 16), _MM_HINT_T0);
        const __m256i code = _mm256_and_si256(compare(channel + i, limit), bit);
        auto* const to = reinterpret_cast<__m256i*>(codes + i);
        _mm256_storeu_si256(to, j == 0 ? code : _mm256_or_si256(_mm256_loadu_si256(to), code));
      };
      for_pixels<kPixels>(pixels, some, [&](std::int64_t i) {
        codes[i] = code_of(x + i, pixels, channels, threshold);
      });
    }
  }

  static void extract(const std::uint32_t* words, std::int64_t pixels, std::int32_t nibble,
                      std::uint8_t* codes) {
    const __m128i shift = _mm_cvtsi32_si128(kChannelsPerCode * nibble);
    const auto some = [&](std::int64_t i) {
      const auto at = [&](int j) {
        const auto* from = reinterpret_cast<const __m256i*>(words + i + 8 * j);
        return _mm256_and_si256(_mm256_srl_epi32(_mm256_loadu_si256(from), shift),
                                _mm256_set1_epi32(15));
      };
      const __m256i code =
          in_order(_mm256_packs_epi32(at(0), at(1)), _mm256_packs_epi32(at(2), at(3)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), code);
    };
    for_pixels<kPixels>(pixels, some,
                        [&](std::int64_t i) { codes[i] = code_in(words[i], nibble); });
  }

  static void split(const std::uint8_t* codes, std::uint8_t* even, std::uint8_t* odd) {
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i sorted = _mm_shuffle_epi8(some, even_odd);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(even), sorted);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(odd), _mm_unpackhi_epi64(sorted, sorted));
  }

  static void merge(const std::uint8_t* codes, const std::uint8_t* mask, std::int64_t count,
                    std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; i += kPixels) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                          _mm256_or_si256(load(codes + i), load(mask + i)));
    }
  }
};

}  // namespace

void encode_codes(const float* x, std::int64_t pixels, std::int32_t channels,
                  const float* threshold, std::uint8_t* codes) {
  Encoder::encode(x, pixels, channels, threshold, codes);
}

void pack_plane(const ConvShape& shape, const LookupLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* scratch,
                std::uint8_t* plane) {
  pack_codes<Encoder>(shape, layout, x, channels, threshold, scratch, plane);
}

void pack_plane_of_signs(const ConvShape& shape, const LookupLayout& layout,
                         const std::uint32_t* words, std::int32_t nibble, std::uint8_t* scratch,
                         std::uint8_t* plane) {
  pack_codes_of_signs<Encoder>(shape, layout, words, nibble, scratch, plane);
}

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
