// The kernels that make_binary_conv chooses from.

#ifndef BITEXPORT_KERNELS_CPU_VARIANTS_H_
#define BITEXPORT_KERNELS_CPU_VARIANTS_H_

#include <cstdint>
#include <memory>

#include "core/conv_shape.h"
#include "kernels/cpu/binary_conv.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_portable(const ConvShape& shape,
                                                      const std::uint32_t* weight);

#if defined(BITEXPORT_HAVE_AVX2)
// Null where the accumulators of the shape do not fit 16 bits.
std::unique_ptr<const BinaryConvKernel> make_avx2(const ConvShape& shape,
                                                  const std::uint32_t* weight);
#endif

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_VARIANTS_H_
