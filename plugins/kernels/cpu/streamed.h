// Images too large for a core's caches.

#ifndef BITEXPORT_KERNELS_CPU_STREAMED_H_
#define BITEXPORT_KERNELS_CPU_STREAMED_H_

#include <cstdint>

namespace bitexport {
namespace cpu {

// Images of X or Y of this size and more may come from memory, or pass through a core's caches, so
// that to fetch them ahead pays. Smaller ones it would slow down by about 1 %.
inline constexpr std::int64_t kStreamedBytes = 192 << 10;

// Of float32.
inline bool is_streamed(std::int64_t pixels, std::int64_t channels) {
  return pixels * channels * std::int64_t{sizeof(float)} >= kStreamedBytes;
}

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_STREAMED_H_
