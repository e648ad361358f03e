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

// The same, for CPUs with an instruction for it.
std::unique_ptr<const BinaryConvKernel> make_popcnt(const ConvShape& shape,
                                                    const std::uint32_t* weight);

// The accumulators of the shape must fit 16 bits.
std::unique_ptr<const BinaryConvKernel> make_avx2(const ConvShape& shape,
                                                  const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_avx2_channels(const ConvShape& shape,
                                                           const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_avx512(const ConvShape& shape,
                                                    const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_neon(const ConvShape& shape,
                                                  const std::uint32_t* weight);

// For kernels of at most kMostPopcountTaps along either axis, as the corrections of their borders
// are a table.
inline constexpr std::int32_t kMostPopcountTaps = 7;
std::unique_ptr<const BinaryConvKernel> make_avx512_popcount(const ConvShape& shape,
                                                             const std::uint32_t* weight);

// Where chosen_isa() may be Isa::kAmx: without the system's permission its instructions end the
// process.
std::unique_ptr<const BinaryConvKernel> make_amx(const ConvShape& shape,
                                                 const std::uint32_t* weight);

// For one input channel a group, and at most kMostDepthwiseTaps taps, which a byte counts.
inline constexpr std::int32_t kMostDepthwiseTaps = 64;
std::unique_ptr<const BinaryConvKernel> make_depthwise_portable(const ConvShape& shape,
                                                                const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_depthwise_avx2(const ConvShape& shape,
                                                            const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_depthwise_avx512(const ConvShape& shape,
                                                              const std::uint32_t* weight);
std::unique_ptr<const BinaryConvKernel> make_depthwise_neon(const ConvShape& shape,
                                                            const std::uint32_t* weight);

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_VARIANTS_H_
