// The word kernel for x86 with a popcount instruction.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("popcnt")

#include "kernels/cpu/word_plan.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_popcnt(const ConvShape& shape,
                                                    const std::uint32_t* weight) {
  return std::make_unique<WordKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
