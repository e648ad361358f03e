// IEEE 754 half precision from and to float, bit for bit as the hardware would.

#ifndef BITEXPORT_CORE_HALF_H_
#define BITEXPORT_CORE_HALF_H_

#include <cstdint>
#include <cstring>

namespace bitexport {
namespace half_detail {

inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace half_detail

inline float half_to_float(std::uint16_t half) {
  using namespace half_detail;
  const std::uint32_t sign = (half & 0x8000u) << 16;
  // Exponent and fraction in a float's places stand for a number 2^112 times too small, also where
  // it is subnormal.
  const float magnitude = from_bits((half & 0x7FFFu) << 13) * 0x1p112f;
  const std::uint32_t bits = to_bits(magnitude);
  // 2^16 and more would be infinity or NaN, whose exponent is all ones.
  return from_bits(sign | (magnitude >= 0x1p16f ? bits | 0x7F800000u : bits));
}

// Rounds to nearest, ties to even.
inline std::uint16_t float_to_half(float value) {
  using namespace half_detail;
  const std::uint32_t sign = to_bits(value) & 0x80000000u;
  const std::uint32_t bits = to_bits(value) ^ sign;
  std::uint32_t half;
  if (bits > 0x7F800000u) {
    half = 0x7E00u;  // NaN
  } else if (bits >= to_bits(65520.0f)) {
    half = 0x7C00u;  // nearer to 2^16, which is infinity, than to the largest half
  } else if (bits < to_bits(0x1p-14f)) {
    // Subnormal: a sum with 0.5 rounds to multiples of 2^-24, and holds their number.
    half = to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f);
  } else {
    const std::uint32_t odd = bits >> 13 & 1u;
    half = (bits - (112u << 23) + 0x0FFFu + odd) >> 13;
  }
  return static_cast<std::uint16_t>(sign >> 16 | half);
}

}  // namespace bitexport

#endif  // BITEXPORT_CORE_HALF_H_
