// Activations in memory as TensorRT lays them out: [N, C, H, W] in a row, or channels last with
// their number padded to a multiple of 8 (kHWC8).

#ifndef BITEXPORT_TESTS_TENSORRT_ACTIVATIONS_H_
#define BITEXPORT_TESTS_TENSORRT_ACTIVATIONS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/half.h"

namespace bitexport_test {

struct Activations {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  bool is_half;
  bool is_nhwc8;

  std::int64_t stored_channels() const { return is_nhwc8 ? (channels + 7) / 8 * 8 : channels; }
  std::int64_t stored() const { return batch * stored_channels() * height * width; }
  std::size_t element_bytes() const { return is_half ? 2 : 4; }
  std::size_t bytes() const { return static_cast<std::size_t>(stored()) * element_bytes(); }

  // Calls visit(index in [N, C, H, W], or -1 in the channels' padding; index in memory).
  template <typename Visit>
  void for_each(Visit visit) const {
    const std::int64_t pixels = height * width;
    for (std::int64_t n = 0; n < batch; ++n) {
      for (std::int64_t c = 0; c < stored_channels(); ++c) {
        for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
          const std::int64_t index = c < channels ? (n * channels + c) * pixels + pixel : -1;
          const std::int64_t stored_at = is_nhwc8 ? (n * pixels + pixel) * stored_channels() + c
                                                  : (n * channels + c) * pixels + pixel;
          visit(index, stored_at);
        }
      }
    }
  }
};

// The bytes of values [N, C, H, W]; `padding` is what stands in the channels' padding, as a half.
inline std::vector<std::uint8_t> encode(const Activations& to, const std::vector<float>& values,
                                        std::uint16_t padding) {
  std::vector<std::uint8_t> bytes(to.bytes());
  to.for_each([&](std::int64_t index, std::int64_t stored_at) {
    std::uint8_t* const at =
        bytes.data() + static_cast<std::size_t>(stored_at) * to.element_bytes();
    const float value = index < 0 ? 0.0f : values[static_cast<std::size_t>(index)];
    const std::uint16_t half = index < 0 ? padding : bitexport::float_to_half(value);
    if (to.is_half) std::memcpy(at, &half, sizeof(half));
    if (!to.is_half) std::memcpy(at, &value, sizeof(value));
  });
  return bytes;
}

inline float element(const Activations& of, const void* memory, std::int64_t stored_at) {
  const auto* at = static_cast<const std::uint8_t*>(memory) +
                   static_cast<std::size_t>(stored_at) * of.element_bytes();
  std::uint16_t half = 0;
  float value = 0.0f;
  if (of.is_half) std::memcpy(&half, at, sizeof(half));
  if (!of.is_half) std::memcpy(&value, at, sizeof(value));
  return of.is_half ? bitexport::half_to_float(half) : value;
}

// Inverse of encode, without the padding.
inline std::vector<float> decode(const Activations& from, const void* memory) {
  std::vector<float> values(
      static_cast<std::size_t>(from.batch * from.channels * from.height * from.width));
  from.for_each([&](std::int64_t index, std::int64_t stored_at) {
    if (index >= 0) values[static_cast<std::size_t>(index)] = element(from, memory, stored_at);
  });
  return values;
}

// Whether all of the channels' padding is 0.
inline bool padding_is_zero(const Activations& of, const void* memory) {
  bool zero = true;
  of.for_each([&](std::int64_t index, std::int64_t stored_at) {
    if (index < 0 && element(of, memory, stored_at) != 0.0f) zero = false;
  });
  return zero;
}

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_ACTIVATIONS_H_
