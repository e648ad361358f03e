// Depthwise convolution for NEON.

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/depthwise_layout.h"
#include "kernels/cpu/neon_compare.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorBytes = 16;
constexpr std::int32_t kFloats = 4;

template <int kCount>
inline auto floats_of(const std::int8_t* sums) {
  if constexpr (kCount == 4) {
    std::int32_t bytes;
    std::memcpy(&bytes, sums, sizeof(bytes));
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
  } else {
    return static_cast<float>(*sums);
  }
}

// +1 where x[i] >= threshold, of 16 pixels, else -1.
inline int8x16_t signs_of(const float* x, float threshold) {
  const int8x16_t above = vreinterpretq_s8_u8(neon::at_least(x, threshold));
  return vornq_s8(vdupq_n_s8(1), above);
}

// As signs_of, of fewer pixels.
inline int8x16_t last_signs_of(const float* x, std::int32_t count, float threshold) {
  float pixels[kVectorBytes] = {};
  for (std::int32_t i = 0; i < count; ++i) pixels[i] = x[i];
  return signs_of(pixels, threshold);
}

// The first `count` elements.
inline int8x16_t ends_after(int8x16_t signs, std::int32_t count) {
  constexpr std::int8_t kIndices[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint8x16_t kept = vcltq_s8(vld1q_s8(kIndices), vdupq_n_s8(static_cast<std::int8_t>(count)));
  return vandq_s8(signs, vreinterpretq_s8_u8(kept));
}

// Calls store(signs, channel's and row's first sign, first pixel) for every 16 pixels of every row.
// Past the last pixel of a row, which ends in zeros, the next one's are read: but for the last row
// of all.
template <typename Store>
inline void encode(const PixelRows& rows, const float* x, const float* threshold, Store store) {
  const std::int32_t last = rows.width % kVectorBytes;
  std::int64_t left = std::int64_t{rows.channels} * rows.rows;
  for_each_row(rows, [&](std::int32_t channel, std::int64_t pixel, std::int64_t sign) {
    --left;
    std::int32_t done = 0;
    for (; done + kVectorBytes <= rows.width; done += kVectorBytes) {
      store(signs_of(x + pixel + done, threshold[channel]), sign, done);
    }
    if (last == 0) return;
    // In the memory of X's are as many pixels after this row as there are in all rows to come.
    const bool whole = left * rows.width >= kVectorBytes;
    const float* end = x + pixel + done;
    const int8x16_t signs =
        whole ? signs_of(end, threshold[channel]) : last_signs_of(end, last, threshold[channel]);
    store(ends_after(signs, last), sign, done);
  });
}

void encode_rows(const PixelRows& rows, const float* x, const float* threshold,
                 std::int8_t* signs) {
  encode(rows, x, threshold, [=](int8x16_t some, std::int64_t sign, std::int32_t column) {
    vst1q_s8(signs + sign + column, some);
  });
}

void encode_rows_by_twos(const PixelRows& rows, const float* x, const float* threshold,
                         std::int8_t* even, std::int8_t* odd) {
  encode(rows, x, threshold, [=](int8x16_t some, std::int64_t sign, std::int32_t column) {
    vst1_s8(even + sign + column / 2, vget_low_s8(vuzp1q_s8(some, some)));
    vst1_s8(odd + sign + column / 2, vget_low_s8(vuzp2q_s8(some, some)));
  });
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#include "kernels/cpu/depthwise.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_depthwise_neon(const ConvShape& shape,
                                                            const std::uint32_t* weight) {
  return std::make_unique<DepthwiseKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
