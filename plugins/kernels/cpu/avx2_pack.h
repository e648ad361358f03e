// Packs activations into codes of four channels (see lookup_layout.h).

#ifndef BITEXPORT_KERNELS_CPU_AVX2_PACK_H_
#define BITEXPORT_KERNELS_CPU_AVX2_PACK_H_

#include <cstdint>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"

namespace bitexport {
namespace cpu {
namespace avx2 {

// x: `channels` (at most 4) images [H, W], one after the other; threshold [channels].
// scratch: layout.scratch_bytes(). plane: layout.plane_bytes().
void pack_plane(const ConvShape& shape, const LookupLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* scratch,
                std::uint8_t* plane);

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX2_PACK_H_
