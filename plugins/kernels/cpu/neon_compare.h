// Comparison with a threshold, for the kernels with NEON.

#ifndef BITEXPORT_KERNELS_CPU_NEON_COMPARE_H_
#define BITEXPORT_KERNELS_CPU_NEON_COMPARE_H_

#include <arm_neon.h>

#include <cstdint>

namespace bitexport {
namespace cpu {
namespace neon {

// Byte i is 0xff where x[i] >= threshold, of 16 pixels; a NaN is not.
inline uint8x16_t at_least(const float* x, float threshold) {
  const float32x4_t thresholds = vdupq_n_f32(threshold);
  const auto four = [&](int i) {
    return vreinterpretq_u16_u32(vcgeq_f32(vld1q_f32(x + 4 * i), thresholds));
  };
  // Each pixel's first half, then its first quarter.
  const uint16x8_t low = vuzp1q_u16(four(0), four(1));
  const uint16x8_t high = vuzp1q_u16(four(2), four(3));
  return vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
}

}  // namespace neon
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_NEON_COMPARE_H_
