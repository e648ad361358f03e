#include "kernels/cpu/avx2_pack.h"

#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/lookup_weights.h"
#include "kernels/cpu/target.h"

BITEXPORT_TARGET_BEGIN("avx2")

namespace bitexport {
namespace cpu {
namespace avx2 {
namespace {

constexpr std::int64_t kPixels = 32;  // of one vector of bytes

// Byte i is 0xff where x[i] >= threshold; a NaN is not.
__m256i compare(const float* x, __m256 threshold) {
  const auto at_least = [&](int i) {
    return _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(x + 8 * i), threshold, _CMP_GE_OQ));
  };
  const __m256i low = _mm256_packs_epi32(at_least(0), at_least(1));
  const __m256i high = _mm256_packs_epi32(at_least(2), at_least(3));
  // The packs work within 128-bit lanes; this puts the groups of four pixels in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

// Calls some(i) for every kPixels of `pixels`, the last ones perhaps a second time, or one(i) for
// each of fewer.
template <typename Some, typename One>
void for_pixels(std::int64_t pixels, Some some, One one) {
  std::int64_t i = 0;
  for (; i + kPixels <= pixels; i += kPixels) some(i);
  if (i == pixels) return;
  if (pixels >= kPixels) return some(pixels - kPixels);
  for (; i < pixels; ++i) one(i);
}

// codes[i] has bit j set where channel j's pixel i is at or above its threshold.
void encode(const float* x, std::int64_t pixels, std::int32_t channels, const float* threshold,
            std::uint8_t* codes) {
  const auto some = [&](std::int64_t i) {
    __m256i code = _mm256_setzero_si256();
    for (std::int32_t j = 0; j < channels; ++j) {
      const __m256i above = compare(x + j * pixels + i, _mm256_set1_ps(threshold[j]));
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << j));
      code = _mm256_or_si256(code, _mm256_and_si256(above, bit));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), code);
  };
  for_pixels(pixels, some, [&](std::int64_t i) {
    unsigned code = 0;
    for (std::int32_t j = 0; j < channels; ++j) {
      code |= x[j * pixels + i] >= threshold[j] ? 1u << j : 0u;
    }
    codes[i] = static_cast<std::uint8_t>(code);
  });
}

// Sorts a row's codes by the phase of their columns.
void scatter(const std::uint8_t* codes, std::int32_t width, std::int32_t stride,
             std::int32_t pad_begin, const PlaneLayout& layout, std::uint8_t* row) {
  const auto target = [&](std::int32_t column) {
    return row + layout.column_offset(std::int64_t{column} + pad_begin, stride);
  };
  std::int32_t done = 0;
  if (stride == 2) {
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    for (; done + 16 <= width; done += 16) {
      const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + done));
      const __m128i sorted = _mm_shuffle_epi8(some, even_odd);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(target(done)), sorted);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(target(done + 1)),
                       _mm_unpackhi_epi64(sorted, sorted));
    }
  }
  // Column by column of one phase, so that the writes are neighbours.
  for (std::int32_t first = done; first < done + stride && first < width; ++first) {
    std::uint8_t* out = target(first);
    for (std::int32_t column = first; column < width; column += stride) *out++ = codes[column];
  }
}

}  // namespace

void pack_plane(const ConvShape& shape, const PlaneLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* codes,
                std::uint8_t* plane) {
  const std::int32_t height = shape.vertical.size;
  const std::int32_t width = shape.horizontal.size;
  const std::int32_t stride = shape.horizontal.stride;
  encode(x, std::int64_t{height} * width, channels, threshold, codes);
  std::memset(plane, kPaddingCode, static_cast<std::size_t>(layout.plane));
  for (std::int32_t row = 0; row < height; ++row) {
    std::uint8_t* out = plane + (row + shape.vertical.pad_begin) * layout.row;
    const std::uint8_t* in = codes + std::int64_t{row} * width;
    if (stride == 1) {
      std::memcpy(out + shape.horizontal.pad_begin, in, static_cast<std::size_t>(width));
      continue;
    }
    scatter(in, width, stride, shape.horizontal.pad_begin, layout, out);
  }
}

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
