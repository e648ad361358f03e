// The weights of the look-up kernels: four channels a code, two output channels a byte.

#ifndef BITEXPORT_KERNELS_CPU_LOOKUP_WEIGHTS_H_
#define BITEXPORT_KERNELS_CPU_LOOKUP_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

// Look-ups whose counts are added before the two halves of the byte are taken apart.
inline constexpr std::int32_t kLookupGroup = 3;

// Weight codes [group, pairs, taps rounded up to whole look-up groups].
struct LookupWeights {
  std::int32_t pairs;  // of output channels in a group, the last one perhaps half empty
  std::int32_t taps;   // planes * kh * kw, rounded up
  std::vector<std::uint8_t> codes;

  LookupWeights(const ConvShape& shape, const std::uint32_t* weight)
      : pairs(divided_up(shape.out_channels_per_group(), 2)),
        taps(divided_up(planes(shape) * shape.taps(), kLookupGroup) * kLookupGroup),
        codes(static_cast<std::size_t>(std::int64_t{shape.group} * pairs * taps)) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      const std::int32_t group = co / shape.out_channels_per_group();
      const std::int32_t within = co % shape.out_channels_per_group();
      std::uint8_t* row = codes.data() + (std::int64_t{group} * pairs + within / 2) * taps;
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        const std::uint32_t* words =
            weight + (std::int64_t{co} * shape.taps() + tap) * shape.words_per_tap();
        for (std::int32_t plane = 0; plane < planes(shape); ++plane) {
          const std::uint32_t code = words[plane / 8] >> (plane % 8 * kChannelsPerCode) & 15u;
          row[plane * shape.taps() + tap] |=
              static_cast<std::uint8_t>(code << (within % 2 * kChannelsPerCode));
        }
      }
    }
  }

  const std::uint8_t* row(std::int32_t group, std::int32_t pair) const {
    return codes.data() + (std::int64_t{group} * pairs + pair) * taps;
  }

  static std::int32_t planes(const ConvShape& shape) {
    return divided_up(shape.in_channels_per_group(), kChannelsPerCode);
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_LOOKUP_WEIGHTS_H_
