// Signs on their way from one binary convolution to the next.
//
// To the runtime they are a tensor of type T, [N, C, H, W]; ops without a kernel put +1 and -1
// there. A kernel writes words instead, at the tensor's begin:
//
//     [N, ceil(C / 32), H, W] of 32 bits; bit i of word j is channel 32 * j + i, 1 means +1, and
//     the bits past the last channel are 0
//
// and then a stamp, by which the reader knows them from numbers. Both fit from 32 channels on.

#ifndef BITEXPORT_CORE_SIGN_PLANES_H_
#define BITEXPORT_CORE_SIGN_PLANES_H_

#include <cstdint>
#include <cstring>

#include "core/packing.h"

namespace bitexport {

inline constexpr std::int64_t kFewestSigns = 32;  // channels

// Two words that are NaNs as float32 and as float16.
inline constexpr std::uint32_t kSignStamp[2] = {0xfe15fd67u, 0x7fb9ff5bu};

inline void stamp_signs(std::uint32_t* end) { std::memcpy(end, kSignStamp, sizeof(kSignStamp)); }

inline bool has_sign_stamp(const std::uint32_t* end) {
  return std::memcmp(end, kSignStamp, sizeof(kSignStamp)) == 0;
}

}  // namespace bitexport

#endif  // BITEXPORT_CORE_SIGN_PLANES_H_
