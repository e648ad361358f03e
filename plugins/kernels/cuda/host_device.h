// What lets one piece of code be a CUDA kernel and, compiled by the host's compiler, its emulation.

#ifndef BITEXPORT_KERNELS_CUDA_HOST_DEVICE_H_
#define BITEXPORT_KERNELS_CUDA_HOST_DEVICE_H_

#include <cstdint>

#include "core/half.h"
#include "core/packing.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
// Arithmetic that launchers use as well, and the code of blocks.
#define BITEXPORT_HD __host__ __device__ __forceinline__
#define BITEXPORT_BLOCK __device__ __forceinline__
#else
#define BITEXPORT_HD inline
#define BITEXPORT_BLOCK inline
#endif

// The host's compiler does not know the pragma, and sees device code as well.
#if defined(__CUDA_ARCH__)
#define BITEXPORT_UNROLL _Pragma("unroll")
#define BITEXPORT_UNROLL_TWICE _Pragma("unroll 2")
#define BITEXPORT_NO_UNROLL _Pragma("unroll 1")
#else
#define BITEXPORT_UNROLL
#define BITEXPORT_UNROLL_TWICE
#define BITEXPORT_NO_UNROLL
#endif

namespace bitexport {
namespace cuda {

// Division of numbers from 0 to 2^31 - 1 by a fixed divisor, without a division instruction.
//
// With s = ceil(log2 d) and m = floor(2^32 (2^s - d) / d) + 1, n / d is (mulhi(n, m) + n) >> s
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994); the sum
// does not overflow, because mulhi(n, m) <= n < 2^31.
struct FastDivider {
  std::int32_t divisor = 1;
  std::uint32_t multiplier = 1;
  std::uint32_t shift = 0;

  static FastDivider of(std::int32_t divisor) {
    std::uint32_t shift = 0;
    while ((std::uint64_t{1} << shift) < static_cast<std::uint64_t>(divisor)) ++shift;
    const std::uint64_t d = static_cast<std::uint64_t>(divisor);
    const std::uint64_t multiplier =
        ((std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - d)) / d + 1;
    return {divisor, static_cast<std::uint32_t>(multiplier), shift};
  }

  BITEXPORT_HD std::int32_t quotient(std::int32_t value) const {
    const auto n = static_cast<std::uint32_t>(value);
    const auto high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * multiplier >> 32);
    return static_cast<std::int32_t>((high + n) >> shift);
  }
  BITEXPORT_HD std::int32_t remainder(std::int32_t value, std::int32_t quotient_of_value) const {
    return value - quotient_of_value * divisor;
  }
};

template <typename T>
BITEXPORT_HD constexpr T ceil_div(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename T>
BITEXPORT_HD constexpr T round_up(T value, T multiple) {
  return ceil_div(value, multiple) * multiple;
}

BITEXPORT_HD std::int32_t count_bits(std::uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __popc(word);
#else
  return popcount(word);
#endif
}

// Two operations, each rounded: what the function body computes. A compiler that fused them would
// round once. The emulation is compiled with -ffp-contract=off.
BITEXPORT_HD float multiply_then_add(float scale, float value, float bias) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(scale, value), bias);
#else
  const float product = scale * value;
  return product + bias;
#endif
}

// ---- Numbers of 16 bits, as raw bits -----------------------------------------------------------

BITEXPORT_HD float float_of_half(std::uint16_t half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half));
#else
  return half_to_float(half);
#endif
}

// Rounds to nearest, ties to even.
BITEXPORT_HD std::uint16_t half_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(value));
#else
  return float_to_half(value);
#endif
}

BITEXPORT_HD std::uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  return half_detail::to_bits(value);
#endif
}

BITEXPORT_HD float float_of_bits(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return half_detail::from_bits(bits);
#endif
}

BITEXPORT_HD float float_of_bfloat(std::uint16_t bfloat) {
  return float_of_bits(static_cast<std::uint32_t>(bfloat) << 16);
}

// A bfloat16 has 8 significant bits, a float 24: three terms hold a float exactly, two hold a half.
inline constexpr int kBfloatTerms = 3;
inline constexpr int kBfloatTermsOfHalf = 2;

struct BfloatTerms {
  std::uint16_t term[kBfloatTerms];
};

// Cuts 8 significant bits off three times. What is left is exact each time, and so is the sum of
// the terms, down to numbers whose tail lies below the smallest subnormal.
BITEXPORT_HD BfloatTerms split_to_bfloat(float value) {
  BfloatTerms terms{};
  const std::uint32_t bits = bits_of_float(value);
  if ((bits & 0x7FFFFFFFu) >= 0x7F800000u) {
    // Infinity, or NaN kept a NaN; no second term, because infinity less infinity is NaN.
    const bool is_nan = (bits & 0x7FFFFFu) != 0;
    terms.term[0] = static_cast<std::uint16_t>(bits >> 16 | (is_nan ? 0x40u : 0u));
    return terms;
  }
  float rest = value;
  BITEXPORT_UNROLL
  for (int i = 0; i < kBfloatTerms; ++i) {
    terms.term[i] = static_cast<std::uint16_t>(bits_of_float(rest) >> 16);
    rest -= float_of_bfloat(terms.term[i]);
  }
  return terms;
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_HOST_DEVICE_H_
