// Depthwise convolution for every CPU.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorBytes = 16;

void encode_signs(const float* x, std::int64_t count, float threshold, std::int8_t* signs) {
  for (std::int64_t i = 0; i < count; ++i) signs[i] = x[i] >= threshold ? 1 : -1;
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
