#include "kernels/cpu/avx2_signs.h"

#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/target.h"

BITEXPORT_TARGET_BEGIN("avx2")

namespace bitexport {
namespace cpu {
namespace avx2 {
namespace {

constexpr std::int32_t kPixels = 32;  // of one vector of signs

// Signs of 8 * kGroups pixels, kGroups being 1, 2 or 4; load(i) gives a group of them. The rest of
// the vector repeats them.
template <int kGroups, typename Load>
inline __m256i signs_of(__m256 threshold, Load load) {
  // All bits where x is below the threshold, or either is a NaN.
  const auto below = [&](int i) {
    return _mm256_castps_si256(_mm256_cmp_ps(load(i), threshold, _CMP_NGE_UQ));
  };
  const __m256i first = below(0);
  const __m256i low = _mm256_packs_epi32(first, kGroups > 1 ? below(1) : first);
  const __m256i high = kGroups > 2 ? _mm256_packs_epi32(below(2), below(3)) : low;
  // The packs work within 128-bit lanes; this puts the groups of four pixels in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  return _mm256_or_si256(packed, _mm256_set1_epi8(1));
}

// The last pixels of a row, fewer than a vector: none is loaded past them, and their signs end in
// zeros.
template <int kGroups>
struct RowEnd {
  __m256i pixels[kGroups];
  __m256i signs;

  explicit RowEnd(std::int32_t count) {
    const __m256i eight = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int i = 0; i < kGroups; ++i) {
      pixels[i] = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8 * i), eight);
    }
    const __m256i all =
        _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
                         21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
    signs = _mm256_cmpgt_epi8(_mm256_set1_epi8(static_cast<char>(count)), all);
  }
};

// Calls store(groups, signs, where they go) for all pixels, of which the last ones of a row are
// kGroups groups; none where that is 0.
template <int kGroups, typename Store>
inline void encode_groups(const PixelRows& rows, const float* x, const float* threshold,
                          Store store) {
  const RowEnd<std::max(1, kGroups)> end(rows.width % kPixels);
  for (std::int32_t channel = 0; channel < rows.channels; ++channel) {
    const __m256 thresholds = _mm256_set1_ps(threshold[channel]);
    for (std::int32_t row = 0; row < rows.rows; ++row) {
      const float* in = x + channel * rows.x_plane + row * rows.x_pitch;
      const std::int64_t out = channel * rows.plane + row * rows.pitch;
      std::int32_t done = 0;
      for (; done + kPixels <= rows.width; done += kPixels) {
        const auto load = [&](int i) { return _mm256_loadu_ps(in + done + 8 * i); };
        store(std::integral_constant<int, 4>{}, signs_of<4>(thresholds, load), out, done);
      }
      if (kGroups == 0) continue;
      const auto load = [&](int i) { return _mm256_maskload_ps(in + done + 8 * i, end.pixels[i]); };
      const __m256i signs = signs_of<kGroups>(thresholds, load);
      store(std::integral_constant<int, kGroups>{}, _mm256_and_si256(signs, end.signs), out, done);
    }
  }
}

template <typename Store>
inline void encode(const PixelRows& rows, const float* x, const float* threshold, Store store) {
  const std::int32_t last = rows.width % kPixels;
  if (last == 0) return encode_groups<0>(rows, x, threshold, store);
  if (last <= 8) return encode_groups<1>(rows, x, threshold, store);
  if (last <= 16) return encode_groups<2>(rows, x, threshold, store);
  encode_groups<4>(rows, x, threshold, store);
}

// Rows of at most 8 * kGroups pixels, kGroups being 1 or 2: as many at once as fill a vector, of
// which there are no fewer.
template <int kGroups>
void encode_short_rows(const PixelRows& rows, const float* x, const float* threshold,
                       std::int8_t* signs) {
  constexpr int kRows = 4 / kGroups;
  const RowEnd<kGroups> end(rows.width);
  const __m128i last = _mm256_castsi256_si128(end.signs);
  const __m256i kept =
      kGroups == 1 ? _mm256_broadcastq_epi64(last) : _mm256_broadcastsi128_si256(last);
  for (std::int32_t channel = 0; channel < rows.channels; ++channel) {
    const __m256 thresholds = _mm256_set1_ps(threshold[channel]);
    const float* in = x + channel * rows.x_plane;
    std::int8_t* out = signs + channel * rows.plane;
    const auto encode_from = [&](std::int32_t row) {
      const auto load = [&](int i) {
        const float* pixels = in + (row + i / kGroups) * rows.x_pitch + i % kGroups * 8;
        return _mm256_maskload_ps(pixels, end.pixels[i % kGroups]);
      };
      const __m256i some = _mm256_and_si256(signs_of<4>(thresholds, load), kept);
      const __m128i half[] = {_mm256_castsi256_si128(some), _mm256_extracti128_si256(some, 1)};
      for (int i = 0; i < 2; ++i) {
        const auto at = [&](int r) {
          return reinterpret_cast<__m128i*>(out + (row + r) * rows.pitch);
        };
        if (kGroups == 2) {
          _mm_storeu_si128(at(i), half[i]);
        } else {
          _mm_storel_epi64(at(2 * i), half[i]);
          _mm_storel_epi64(at(2 * i + 1), _mm_unpackhi_epi64(half[i], half[i]));
        }
      }
    };
    std::int32_t row = 0;
    for (; row + kRows <= rows.rows; row += kRows) encode_from(row);
    // Some rows a second time.
    if (row < rows.rows) encode_from(rows.rows - kRows);
  }
}

}  // namespace

void encode_rows(const PixelRows& rows, const float* x, const float* threshold,
                 std::int8_t* signs) {
  if (rows.width <= 8 && rows.rows >= 4) return encode_short_rows<1>(rows, x, threshold, signs);
  if (rows.width <= 16 && rows.rows >= 2) return encode_short_rows<2>(rows, x, threshold, signs);
  encode(rows, x, threshold,
         [=](auto groups, __m256i some, std::int64_t offset, std::int32_t column) {
           auto* out = reinterpret_cast<__m128i*>(signs + offset + column);
           const __m128i low = _mm256_castsi256_si128(some);
           if (groups == 1) return _mm_storel_epi64(out, low);
           _mm_storeu_si128(out, low);
           if (groups == 4) _mm_storeu_si128(out + 1, _mm256_extracti128_si256(some, 1));
         });
}

void encode_rows_by_twos(const PixelRows& rows, const float* x, const float* threshold,
                         std::int8_t* even, std::int8_t* odd) {
  const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m256i apart = _mm256_broadcastsi128_si256(even_odd);
  encode(rows, x, threshold,
         [=](auto groups, __m256i some, std::int64_t offset, std::int32_t column) {
           auto* evens = reinterpret_cast<__m128i*>(even + offset + column / 2);
           auto* odds = reinterpret_cast<__m128i*>(odd + offset + column / 2);
           const __m256i halves = _mm256_shuffle_epi8(some, apart);
           if (groups == 4) {
             const __m256i sorted = _mm256_permute4x64_epi64(halves, 0b11011000);
             _mm_storeu_si128(evens, _mm256_castsi256_si128(sorted));
             _mm_storeu_si128(odds, _mm256_extracti128_si256(sorted, 1));
           } else {
             const __m128i low = _mm256_castsi256_si128(halves);
             _mm_storel_epi64(evens, low);
             _mm_storel_epi64(odds, _mm_unpackhi_epi64(low, low));
           }
         });
}

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
