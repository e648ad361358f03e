// Encodes activations as bytes, for depthwise.h.

#ifndef BITEXPORT_KERNELS_CPU_AVX2_SIGNS_H_
#define BITEXPORT_KERNELS_CPU_AVX2_SIGNS_H_

#include <cstdint>

#include "kernels/cpu/depthwise_layout.h"

namespace bitexport {
namespace cpu {
namespace avx2 {

void encode_rows(const PixelRows& rows, const float* x, const float* threshold, std::int8_t* signs);
void encode_rows_by_twos(const PixelRows& rows, const float* x, const float* threshold,
                         std::int8_t* even, std::int8_t* odd);

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX2_SIGNS_H_
