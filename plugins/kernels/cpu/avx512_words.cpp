#include "kernels/cpu/avx512_words.h"

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/target.h"

BITEXPORT_TARGET_BEGIN("avx2,avx512f,avx512bw")

namespace bitexport {
namespace cpu {
namespace avx512 {
namespace {

constexpr std::int32_t kLanes = 16;  // floats of a vector
// Four vectors, as their chains of instructions hide each other's latency.
constexpr std::int32_t kPixels = kWidePixels;
constexpr std::int32_t kVectors = kPixels / kLanes;
constexpr std::int32_t kWordBits = 32;

__mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff
                                                : (1 << std::max<std::int64_t>(0, count)) - 1);
}

// Those of `count` pixels, or of kPixels where there are more.
void set_lanes(std::int64_t count, __mmask16 (&lanes)[kVectors]) {
  for (int v = 0; v < kVectors; ++v) lanes[v] = first_lanes(count - v * kLanes);
}

// The bits of up to 32 channels of kPixels pixels, of which the last ones may be missing.
// kStreamed: see kStreamedBytes.
template <bool kStreamed>
void encode(const float* x, std::int64_t image, std::int32_t channels, const float* threshold,
            const __mmask16 (&lanes)[kVectors], __m512i (&words)[kVectors]) {
  for (__m512i& word : words) word = _mm512_setzero_si512();
  for (std::int32_t j = 0; j < channels; ++j, x += image) {
    // The channel's next pixels: more rows than the processor itself keeps track of. A fetch past
    // the end does nothing.
    if (kStreamed) {
      for (int v = 0; v < kVectors; ++v) {
        _mm_prefetch(reinterpret_cast<const char*>(x + kPixels + v * kLanes), _MM_HINT_T0);
      }
    }
    const __m512 limit = _mm512_set1_ps(threshold[j]);
    const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << j));
    for (int v = 0; v < kVectors; ++v) {
      // A comparison with a NaN is false.
      const __m512 values = _mm512_maskz_loadu_ps(lanes[v], x + v * kLanes);
      const __mmask16 above = _mm512_cmp_ps_mask(values, limit, _CMP_GE_OQ);
      words[v] = _mm512_mask_or_epi32(words[v], above, words[v], bit);
    }
  }
}

// Puts the halves of kLanes wide words together.
void interleave(__m512i low, __m512i high, std::uint64_t* out) {
  // Index 16 + i is lane i of the second vector.
  const __m512i begin = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i end =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi32(low, begin, high));
  _mm512_storeu_si512(out + kLanes / 2, _mm512_permutex2var_epi32(low, end, high));
}

// Words of kPixels pixels from x on; out has room for all.
template <bool kStreamed>
void encode_words(const float* x, std::int64_t image, std::int32_t channels, const float* threshold,
                  const __mmask16 (&lanes)[kVectors], std::uint32_t* out) {
  __m512i words[kVectors];
  encode<kStreamed>(x, image, channels, threshold, lanes, words);
  for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(out + v * kLanes, words[v]);
}

template <bool kStreamed>
void encode_words(const float* x, std::int64_t image, std::int32_t channels, const float* threshold,
                  const __mmask16 (&lanes)[kVectors], std::uint64_t* out) {
  __m512i low[kVectors];
  __m512i high[kVectors];
  const std::int32_t first = std::min(channels, kWordBits);
  encode<kStreamed>(x, image, first, threshold, lanes, low);
  encode<kStreamed>(x + first * image, image, channels - first, threshold + first, lanes, high);
  for (int v = 0; v < kVectors; ++v) interleave(low[v], high[v], out + v * kLanes);
}

// The words of kPixels pixels of `planes` planes of signs (1, or 2 for a wide word), from `words`
// on.
void join_words(const std::uint32_t* words, std::int64_t, std::int32_t,
                const __mmask16 (&lanes)[kVectors], std::uint32_t* out) {
  for (int v = 0; v < kVectors; ++v) {
    _mm512_storeu_si512(out + v * kLanes, _mm512_maskz_loadu_epi32(lanes[v], words + v * kLanes));
  }
}

void join_words(const std::uint32_t* words, std::int64_t image, std::int32_t planes,
                const __mmask16 (&lanes)[kVectors], std::uint64_t* out) {
  for (int v = 0; v < kVectors; ++v) {
    const __m512i low = _mm512_maskz_loadu_epi32(lanes[v], words + v * kLanes);
    const __m512i high = planes < 2
                             ? _mm512_setzero_si512()
                             : _mm512_maskz_loadu_epi32(lanes[v], words + image + v * kLanes);
    interleave(low, high, out + v * kLanes);
  }
}

// Puts `count` neighbouring words of an image's row, from `column` on, where the layout has them.
template <typename Word>
void place(const ConvShape& shape, const PlaneLayout& layout, const Word* words,
           std::int32_t column, std::int32_t count, Word* row) {
  const std::int32_t stride = shape.horizontal.stride;
  const std::int64_t first = std::int64_t{column} + shape.horizontal.pad_begin;
  if (stride == 1) {
    std::memcpy(row + first, words, static_cast<std::size_t>(count) * sizeof(Word));
    return;
  }
  // Word by word of one phase, so that the writes are neighbours.
  for (std::int32_t phase = 0; phase < std::min(stride, count); ++phase) {
    Word* out = row + layout.column_offset(first + phase, stride);
    for (std::int32_t i = phase; i < count; i += stride) *out++ = words[i];
  }
}

// Zeros from row `first` of the padded image on.
template <typename Word>
void clear(const PlaneLayout& layout, std::int64_t first, std::int64_t end, Word* plane) {
  std::memset(plane + first * layout.row, 0,
              static_cast<std::size_t>((end - first) * layout.row) * sizeof(Word));
}

// encode(pixel, lanes, words) makes the words of kPixels pixels from `pixel` on.
template <typename Word, typename Encode>
void pack(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, Word* plane,
          Encode encode) {
  const std::int32_t width = shape.horizontal.size;
  const std::int64_t pad = shape.vertical.pad_begin;
  const bool last = rows.end == shape.vertical.size;
  if (layout.row != width || layout.rows != shape.vertical.size) {
    clear(layout, rows.first == 0 ? 0 : pad + rows.first, last ? layout.rows : pad + rows.end,
          plane);
  }
  const std::int64_t end = std::int64_t{rows.end} * width;
  std::int32_t row = rows.first;
  std::int32_t column = 0;
  for (std::int64_t pixel = std::int64_t{rows.first} * width; pixel < end; pixel += kPixels) {
    __mmask16 lanes[kVectors];
    set_lanes(end - pixel, lanes);
    alignas(64) Word words[kPixels];
    encode(pixel, lanes, words);
    const auto count = static_cast<std::int32_t>(std::min<std::int64_t>(kPixels, end - pixel));
    for (std::int32_t done = 0; done < count;) {
      const std::int32_t some = std::min(count - done, width - column);
      place(shape, layout, words + done, column, some, plane + (pad + row) * layout.row);
      done += some;
      column += some;
      if (column == width) {
        column = 0;
        ++row;
      }
    }
  }
}

template <typename Word>
void pack_some(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, const float* x,
               std::int32_t channels, const float* threshold, Word* plane) {
  const std::int64_t image = std::int64_t{shape.vertical.size} * shape.horizontal.size;
  const auto pack_as = [&](auto streamed) {
    pack(shape, layout, rows, plane,
         [=](std::int64_t pixel, const __mmask16(&lanes)[kVectors], Word* words) {
           encode_words<decltype(streamed)::value>(x + pixel, image, channels, threshold, lanes,
                                                   words);
         });
  };
  if (is_streamed(image, shape.in_channels)) {
    pack_as(std::true_type{});
  } else {
    pack_as(std::false_type{});
  }
}

template <typename Word>
void pack_words(const ConvShape& shape, const PlaneLayout& layout, RowRange rows,
                const std::uint32_t* words, std::int32_t planes, Word* plane) {
  const std::int64_t image = std::int64_t{shape.vertical.size} * shape.horizontal.size;
  pack(shape, layout, rows, plane,
       [=](std::int64_t pixel, const __mmask16(&lanes)[kVectors], Word* out) {
         join_words(words + pixel, image, planes, lanes, out);
       });
}

}  // namespace

void pack_rows(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, const float* x,
               std::int32_t channels, const float* threshold, std::uint32_t* plane) {
  pack_some(shape, layout, rows, x, channels, threshold, plane);
}

void pack_rows(const ConvShape& shape, const PlaneLayout& layout, RowRange rows, const float* x,
               std::int32_t channels, const float* threshold, std::uint64_t* plane) {
  pack_some(shape, layout, rows, x, channels, threshold, plane);
}

void pack_rows_of_signs(const ConvShape& shape, const PlaneLayout& layout, RowRange rows,
                        const std::uint32_t* words, std::int32_t planes, std::uint32_t* plane) {
  pack_words(shape, layout, rows, words, planes, plane);
}

void pack_rows_of_signs(const ConvShape& shape, const PlaneLayout& layout, RowRange rows,
                        const std::uint32_t* words, std::int32_t planes, std::uint64_t* plane) {
  pack_words(shape, layout, rows, words, planes, plane);
}

void wide_words(const float* x, std::int64_t image, std::int32_t channels, const float* threshold,
                std::int32_t count, bool streamed, std::uint64_t* words) {
  __mmask16 lanes[kVectors];
  set_lanes(count, lanes);
  if (streamed) {
    encode_words<true>(x, image, channels, threshold, lanes, words);
  } else {
    encode_words<false>(x, image, channels, threshold, lanes, words);
  }
}

void wide_words_of_signs(const std::uint32_t* signs, std::int64_t image, std::int32_t planes,
                         std::int32_t count, std::uint64_t* words) {
  __mmask16 lanes[kVectors];
  set_lanes(count, lanes);
  join_words(signs, image, planes, lanes, words);
}

}  // namespace avx512
}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
