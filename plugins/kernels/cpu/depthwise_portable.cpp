// Depthwise convolution for every CPU.

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
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorBytes = 16;
constexpr std::int32_t kFloats = 4;

template <int kCount>
inline auto floats_of(const std::int8_t* sums) {
  if constexpr (kCount == 1) {
    return static_cast<float>(*sums);
  } else {
    typedef float Floats __attribute__((vector_size(16)));
    const auto at = [&](int i) { return static_cast<float>(sums[i]); };
    return Floats{at(0), at(1), at(2), at(3)};
  }
}

void encode_rows(const PixelRows& rows, const float* x, const float* threshold,
                 std::int8_t* signs) {
  for_each_row(rows, [&](std::int32_t channel, std::int64_t pixel, std::int64_t sign) {
    for (std::int32_t i = 0; i < rows.width; ++i) {
      signs[sign + i] = x[pixel + i] >= threshold[channel] ? 1 : -1;
    }
  });
}

void encode_rows_by_twos(const PixelRows& rows, const float* x, const float* threshold,
                         std::int8_t* even, std::int8_t* odd) {
  for_each_row(rows, [&](std::int32_t channel, std::int64_t pixel, std::int64_t sign) {
    const auto sign_of = [&](std::int32_t i) -> std::int8_t {
      return x[pixel + i] >= threshold[channel] ? 1 : -1;
    };
    for (std::int32_t i = 0; i < rows.width / 2; ++i) even[sign + i] = sign_of(2 * i);
    for (std::int32_t i = 0; i < rows.width / 2; ++i) odd[sign + i] = sign_of(2 * i + 1);
    if (rows.width % 2 != 0) even[sign + rows.width / 2] = sign_of(rows.width - 1);
  });
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#include "kernels/cpu/depthwise.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_depthwise_portable(const ConvShape& shape,
                                                                const std::uint32_t* weight) {
  return std::make_unique<DepthwiseKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
