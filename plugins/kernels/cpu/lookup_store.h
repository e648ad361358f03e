// The epilogue of the look-up kernels.
//
// To be included once in a file, between the lines of target.h.

#include "kernels/cpu/channel_epilogue.h"

namespace bitexport {
namespace cpu {
namespace {

// Neighbouring pixels of one output channel.
struct Pixels {
  std::int64_t first;  // index in Y
  std::int32_t count;
};

// C * n_valid of every output pixel, with zeros up to `size`.
std::vector<float> valid_inputs(const ConvShape& shape, std::int32_t size) {
  std::vector<float> valid;
  for (std::int32_t row = 0; row < shape.vertical.out_size(); ++row) {
    for (std::int32_t column = 0; column < shape.horizontal.out_size(); ++column) {
      valid.push_back(
          static_cast<float>(shape.in_channels_per_group() * shape.valid_taps(row, column)));
    }
  }
  valid.resize(static_cast<std::size_t>(size));
  return valid;
}

#if defined(BITEXPORT_HAVE_X86)
// As ChannelEpilogue::activated.
template <Activation kActivation>
__m256 activated(const ChannelEpilogue<kActivation>& channel, __m256 t) {
  const __m256 first = _mm256_set1_ps(channel.slope_or_low());
  const __m256 second = _mm256_set1_ps(channel.shift_or_high());
  if (kActivation == Activation::kPRelu) {
    const __m256 positive = _mm256_cmp_ps(t, _mm256_setzero_ps(), _CMP_GE_OQ);
    return _mm256_add_ps(_mm256_blendv_ps(_mm256_mul_ps(first, t), t, positive), second);
  }
  // The second operand is the result where one of them is a NaN.
  if (kActivation == Activation::kClip) {
    return _mm256_min_ps(second, _mm256_max_ps(first, t));
  }
  return t;
}
#endif

template <Activation kActivation>
__attribute__((always_inline)) inline void write_channel(
    const ChannelEpilogue<kActivation>& channel, std::int32_t count, const std::uint16_t* counters,
    const float* valid, const float* residual, float* out) {
  std::int32_t i = 0;
#if defined(BITEXPORT_HAVE_X86)
  const __m256 scale = _mm256_set1_ps(channel.scale());
  const __m256 bias = _mm256_set1_ps(channel.bias());
  for (; i + 8 <= count; i += 8) {
    const __m128i narrow = _mm_load_si128(reinterpret_cast<const __m128i*>(counters + i));
    const __m256 mismatches = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(narrow));
    const __m256 accumulator =
        _mm256_sub_ps(_mm256_loadu_ps(valid + i), _mm256_add_ps(mismatches, mismatches));
    __m256 value = _mm256_add_ps(_mm256_mul_ps(scale, accumulator), bias);
    if (residual != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(residual + i));
    _mm256_storeu_ps(out + i, activated(channel, value));
  }
#endif
  // For NEON, compilers make vectors of this.
  for (; i < count; ++i) {
    const float value = channel.sum(valid[i] - 2.0f * static_cast<float>(counters[i]));
    out[i] = channel.activated(residual == nullptr ? value : value + residual[i]);
  }
}

// Writes pixels of output channel co to y [Co, Ho, Wo].
//
// counters and valid: of each of the pixels, its mismatches, aligned to 16 bytes, and C * n_valid.
// Inline: a call per channel takes a tenth of the time of 64 channels of 56 x 56 with AVX-512.
__attribute__((always_inline)) inline void store_channel(const Epilogue& epilogue, std::int32_t co,
                                                         const Pixels& pixels,
                                                         const std::uint16_t* counters,
                                                         const float* valid, float* y) {
  with_activation(epilogue, [&](auto activation) {
    const ChannelEpilogue<decltype(activation)::value> channel(epilogue, co);
    const float* residual =
        epilogue.residual == nullptr ? nullptr : epilogue.residual + pixels.first;
    write_channel(channel, pixels.count, counters, valid, residual, y + pixels.first);
  });
}

// Puts the bits of pixels of output channel co into `words`, theirs in a plane of signs; the first
// channel of a word begins it.
template <bool kBegins>
__attribute__((always_inline)) inline void write_bits(const SignEpilogue& epilogue, std::int32_t co,
                                                      std::int32_t count,
                                                      const std::uint16_t* counters,
                                                      const float* valid, std::uint32_t* words) {
  const ChannelEpilogue<Activation::kNone> channel(epilogue, co);
  const float next = epilogue.next[co];
  const std::uint32_t bit = 1u << (co % 32);
  std::int32_t i = 0;
#if defined(BITEXPORT_HAVE_X86)
  const __m256 scale = _mm256_set1_ps(channel.scale());
  const __m256 bias = _mm256_set1_ps(channel.bias());
  const __m256 limit = _mm256_set1_ps(next);
  const __m256i bits = _mm256_set1_epi32(static_cast<int>(bit));
  for (; i + 8 <= count; i += 8) {
    const __m128i narrow = _mm_load_si128(reinterpret_cast<const __m128i*>(counters + i));
    const __m256 mismatches = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(narrow));
    const __m256 accumulator =
        _mm256_sub_ps(_mm256_loadu_ps(valid + i), _mm256_add_ps(mismatches, mismatches));
    const __m256 t = _mm256_add_ps(_mm256_mul_ps(scale, accumulator), bias);
    const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(t, limit, _CMP_GE_OQ));
    auto* const to = reinterpret_cast<__m256i*>(words + i);
    const __m256i own = _mm256_and_si256(above, bits);
    _mm256_storeu_si256(to, kBegins ? own : _mm256_or_si256(_mm256_loadu_si256(to), own));
  }
#endif
  for (; i < count; ++i) {
    const float t = channel.sum(valid[i] - 2.0f * static_cast<float>(counters[i]));
    const std::uint32_t own = t >= next ? bit : 0u;
    words[i] = kBegins ? own : words[i] | own;
  }
}

// As store_channel, the bits of their signs. words [ceil(Co / 32), plane]; the first of the pixels
// is pixel `first` of its plane.
__attribute__((always_inline)) inline void store_signs(const SignEpilogue& epilogue,
                                                       std::int32_t co, std::int64_t plane,
                                                       const Pixels& pixels,
                                                       const std::uint16_t* counters,
                                                       const float* valid, std::uint32_t* words) {
  std::uint32_t* const own = words + co / 32 * plane + pixels.first;
  if (co % 32 == 0) {
    write_bits<true>(epilogue, co, pixels.count, counters, valid, own);
  } else {
    write_bits<false>(epilogue, co, pixels.count, counters, valid, own);
  }
}

// Writes the sums C * n_valid - 2 * mismatches of the pixels to accumulators [Co, Ho, Wo].
inline void store_accumulators(const Pixels& pixels, const std::uint16_t* counters,
                               const float* valid, std::int32_t* accumulators) {
  for (std::int32_t i = 0; i < pixels.count; ++i) {
    accumulators[pixels.first + i] = static_cast<std::int32_t>(valid[i]) - 2 * counters[i];
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
