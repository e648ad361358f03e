#include "kernels/cpu/sign_bounds.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace bitexport {
namespace cpu {
namespace {

// The first number of -most .. most for which `begins` holds, as it does for all that follow; most
// + 1 where there is none.
template <typename Begins>
std::int32_t first_of(std::int32_t most, Begins begins) {
  std::int32_t low = -most;
  std::int32_t high = most + 1;
  while (low < high) {
    const std::int32_t middle = low + (high - low) / 2;
    if (begins(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace

SignBounds::SignBounds(const ConvShape& shape, const float* scale, const float* bias,
                       const float* next)
    : most_(shape.in_channels_per_group() * shape.taps()),
      limits_(static_cast<std::size_t>((shape.out_channels + 31) / 32 * 32),
              std::numeric_limits<std::int16_t>::max()),
      flips_(limits_.size() / 32) {
  for (std::int32_t co = 0; co < shape.out_channels; ++co) {
    if (!std::isfinite(scale[co]) || !std::isfinite(bias[co])) {
      throw std::invalid_argument("expected finite S and B beside signs, got " +
                                  std::to_string(scale[co]) + " and " + std::to_string(bias[co]));
    }
    const bool flip = scale[co] < 0.0f;
    bounds_.push_back(first_of(most_, [&](std::int32_t accumulator) {
      const float scaled = scale[co] * static_cast<float>(accumulator);
      return (scaled + bias[co] >= next[co]) != flip;
    }));
    if (is_narrow()) {
      limits_[static_cast<std::size_t>(co)] = static_cast<std::int16_t>(bounds_.back() - 1);
    }
    if (flip) flips_[static_cast<std::size_t>(co / 32)] |= 1u << (co % 32);
  }
}

}  // namespace cpu
}  // namespace bitexport
