// Depthwise convolution for AVX2.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/avx2_pack.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2")

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorBytes = 32;
using avx2::encode_signs;

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
