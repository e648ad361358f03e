// Fetches what an epilogue is about to write and read.
//
// To be included where the kernels are compiled, between the lines of target.h, which must allow
// "prfchw".

#ifndef BITEXPORT_KERNELS_CPU_FETCH_AHEAD_H_
#define BITEXPORT_KERNELS_CPU_FETCH_AHEAD_H_

namespace bitexport {
namespace cpu {
namespace {

// What an epilogue writes and reads, [Co, pixels], or null.
struct Streams {
  const float* y = nullptr;
  const float* residual = nullptr;
};

// Some pixels of neighbouring channels.
struct Patch {
  std::int64_t first;  // index of its first pixel
  std::int32_t pixels;
  std::int32_t channels;
  std::int64_t pitch;  // pixels of a whole channel
};

// Brings a patch into the first cache. Where the patch is not there at all, this does nothing. GCC
// drops calls of a function that only fetches, hence the attribute.
__attribute__((always_inline)) inline void fetch_ahead(const Streams& streams, const Patch& patch) {
  constexpr std::int32_t kLine = 64;
  constexpr std::int32_t kLineFloats = kLine / sizeof(float);
  // There is no such object to point to, perhaps.
  const auto address = [](const float* base, std::int64_t index) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(base) +
                                         static_cast<std::uintptr_t>(index) * sizeof(float));
  };
  // Patches begin with a line where all channels do; else the last pixels lie on one of their own.
  const bool aligned =
      reinterpret_cast<std::uintptr_t>(streams.y) % kLine == 0 && patch.pitch % kLineFloats == 0;
  const std::int32_t end = aligned ? patch.pixels : patch.pixels + 1;
  std::int64_t index = patch.first;
  for (std::int32_t channel = 0; channel < patch.channels; ++channel, index += patch.pitch) {
    for (std::int32_t i = 0; i < end; i += kLineFloats) {
      __builtin_prefetch(address(streams.y, index + i), 1);
      if (streams.residual != nullptr) __builtin_prefetch(address(streams.residual, index + i));
    }
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_FETCH_AHEAD_H_
