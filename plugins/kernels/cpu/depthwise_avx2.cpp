// Depthwise convolution for AVX2.

#include <immintrin.h>

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
#include "kernels/cpu/avx2_signs.h"
#include "kernels/cpu/depthwise_layout.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2")

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorBytes = 32;
constexpr std::int32_t kFloats = 8;
using avx2::encode_rows;
using avx2::encode_rows_by_twos;

template <int kCount>
inline auto floats_of(const std::int8_t* sums) {
  if constexpr (kCount == 8) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(sums))));
  } else if constexpr (kCount == 4) {
    return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_loadu_si32(sums)));
  } else {
    return static_cast<float>(*sums);
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#include "kernels/cpu/depthwise.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_depthwise_avx2(const ConvShape& shape,
                                                            const std::uint32_t* weight) {
  return std::make_unique<DepthwiseKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
