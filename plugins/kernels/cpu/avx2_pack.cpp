#include "kernels/cpu/avx2_pack.h"

#include <immintrin.h>

#include <cstring>

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

// codes[i] has bit j set where channel j's pixel i is at or above its threshold.
void encode(const float* x, std::int64_t pixels, std::int32_t channels, const float* threshold,
            std::uint8_t* codes) {
  std::int64_t i = 0;
  for (; i + kPixels <= pixels; i += kPixels) {
    __m256i code = _mm256_setzero_si256();
    for (std::int32_t j = 0; j < channels; ++j) {
      const __m256i above = compare(x + j * pixels + i, _mm256_set1_ps(threshold[j]));
      const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << j));
      code = _mm256_or_si256(code, _mm256_and_si256(above, bit));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), code);
  }
  for (; i < pixels; ++i) {
    unsigned code = 0;
    for (std::int32_t j = 0; j < channels; ++j) {
      code |= x[j * pixels + i] >= threshold[j] ? 1u << j : 0u;
    }
    codes[i] = static_cast<std::uint8_t>(code);
  }
}

}  // namespace

void pack_plane(const ConvShape& shape, const NibbleLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* codes,
                std::uint8_t* plane) {
  const std::int32_t height = shape.vertical.size;
  const std::int32_t width = shape.horizontal.size;
  const std::int32_t stride = shape.horizontal.stride;
  encode(x, std::int64_t{height} * width, channels, threshold, codes);
  std::memset(plane, kPaddingCode, static_cast<std::size_t>(layout.plane_bytes));
  for (std::int32_t row = 0; row < height; ++row) {
    std::uint8_t* out = plane + (row + shape.vertical.pad_begin) * layout.row_bytes;
    const std::uint8_t* in = codes + std::int64_t{row} * width;
    if (stride == 1) {
      std::memcpy(out + shape.horizontal.pad_begin, in, static_cast<std::size_t>(width));
      continue;
    }
    // Column by column of one phase, so that the writes are neighbours.
    for (std::int32_t first = 0; first < stride && first < width; ++first) {
      std::uint8_t* target =
          out + layout.column_offset(std::int64_t{first} + shape.horizontal.pad_begin, stride);
      for (std::int32_t column = first; column < width; column += stride) *target++ = in[column];
    }
  }
}

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport
