// Packs 32 or 64 channels of an image into a plane of words; see plane_layout.h.

#ifndef BITEXPORT_KERNELS_CPU_AVX512_WORDS_H_
#define BITEXPORT_KERNELS_CPU_AVX512_WORDS_H_

#include <cstdint>

#include "core/conv_shape.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/streamed.h"

namespace bitexport {
namespace cpu {
namespace avx512 {

// Rows of the image, first to end - 1; the first and last rows of the image bring the padding above
// and below them along.
struct RowRange {
  std::int32_t first;
  std::int32_t end;
};

// x [channels, H, W] and threshold [channels] are those of the plane; bit j of a word is set where
// channel j is at or above its threshold. The words of the padding are 0. plane: layout.plane
// words.
void pack_rows(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, const float* x,
               std::int32_t channels, const float* threshold, std::uint32_t* plane);
void pack_rows(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, const float* x,
               std::int32_t channels, const float* threshold, std::uint64_t* plane);

// As pack_rows, from the plane's `planes` (1, or 2 of a wide word) planes of signs, [H, W] each.
void pack_rows_of_signs(const ConvShape& shape, const PlaneLayout& layout, RowRange rows,
                        const std::uint32_t* words, std::int32_t planes, std::uint32_t* plane);
void pack_rows_of_signs(const ConvShape& shape, const PlaneLayout& layout, RowRange rows,
                        const std::uint32_t* words, std::int32_t planes, std::uint64_t* plane);

// How many pixels the two below do at once.
inline constexpr std::int32_t kWidePixels = 64;

// The words of `count` pixels, at most kWidePixels, of up to 64 channels, from x [channels, H, W]
// on; `words` has room for kWidePixels. `image` counts H * W; streamed: see streamed.h.
void wide_words(const float* x, std::int64_t image, std::int32_t channels, const float* threshold,
                std::int32_t count, bool streamed, std::uint64_t* words);

// The same from one plane of signs, or two.
void wide_words_of_signs(const std::uint32_t* signs, std::int64_t image, std::int32_t planes,
                         std::int32_t count, std::uint64_t* words);

}  // namespace avx512
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX512_WORDS_H_
