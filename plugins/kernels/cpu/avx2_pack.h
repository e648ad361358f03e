// Packs activations into codes of four channels (see lookup_layout.h).

#ifndef BITEXPORT_KERNELS_CPU_AVX2_PACK_H_
#define BITEXPORT_KERNELS_CPU_AVX2_PACK_H_

#include <cstdint>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"

namespace bitexport {
namespace cpu {
namespace avx2 {

// The codes of `channels` images of `pixels`, one after the other; see lookup_pack.h.
void encode_codes(const float* x, std::int64_t pixels, std::int32_t channels,
                  const float* threshold, std::uint8_t* codes);

// x: `channels` (at most 4) images [H, W], one after the other; threshold [channels].
// scratch: layout.scratch_bytes(). plane: layout.plane_bytes().
void pack_plane(const ConvShape& shape, const LookupLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* scratch,
                std::uint8_t* plane);

// words: of signs, [H, W]; see lookup_pack.h.
void pack_plane_of_signs(const ConvShape& shape, const LookupLayout& layout,
                         const std::uint32_t* words, std::int32_t nibble, std::uint8_t* scratch,
                         std::uint8_t* plane);

}  // namespace avx2
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX2_PACK_H_
