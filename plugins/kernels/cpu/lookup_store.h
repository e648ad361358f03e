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

// Counters of up to 32 output channels, from a multiple of 32 on: those of channel i lie at
// first + i * pitch.
struct WordCounters {
  std::int32_t channel;
  std::int32_t count;
  const std::uint16_t* first;
  std::int64_t pitch;
};

// Writes the signs of pixels to `words`, theirs in the plane of those channels; valid as above.
inline void write_words_plainly(const SignBounds& bounds, const WordCounters& counters,
                                std::int32_t pixels, const float* valid, std::uint32_t* words) {
  for (std::int32_t i = 0; i < pixels; ++i) words[i] = bounds.flips(counters.channel / 32);
  for (std::int32_t j = 0; j < counters.count; ++j) {
    const std::int32_t bound = bounds.bound(counters.channel + j);
    const std::uint16_t* mismatches = counters.first + j * counters.pitch;
    for (std::int32_t i = 0; i < pixels; ++i) {
      const std::int32_t accumulator = static_cast<std::int32_t>(valid[i]) - 2 * mismatches[i];
      words[i] ^= accumulator >= bound ? 1u << j : 0u;
    }
  }
}

#if defined(BITEXPORT_HAVE_X86)
// The bits of up to 16 channels for 16 pixels, in 16 bits each; counters aligned to a vector.
inline __m256i half_words(const std::uint16_t* counters, std::int64_t pitch, std::int32_t channels,
                          const std::int16_t* limits, __m256i valid) {
  __m256i bits = _mm256_setzero_si256();
  __m256i bit = _mm256_set1_epi16(1);
  for (std::int32_t j = 0; j < channels; ++j) {
    const __m256i mismatches =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(counters + j * pitch));
    const __m256i accumulator = _mm256_sub_epi16(valid, _mm256_add_epi16(mismatches, mismatches));
    const __m256i above = _mm256_cmpgt_epi16(accumulator, _mm256_set1_epi16(limits[j]));
    bits = _mm256_or_si256(bits, _mm256_and_si256(above, bit));
    bit = _mm256_add_epi16(bit, bit);
  }
  return bits;
}

// 16 numbers that are whole, as 16 bits.
inline __m256i narrow_valid(const float* valid) {
  const __m256i low = _mm256_cvttps_epi32(_mm256_loadu_ps(valid));
  const __m256i high = _mm256_cvttps_epi32(_mm256_loadu_ps(valid + 8));
  // The pack works within 128-bit lanes; an index counts 64 bits.
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
}
#endif

// As write_words_plainly. `valid` and the counters may be read up to a vector past the pixels.
inline void write_words(const SignBounds& bounds, const WordCounters& counters, std::int32_t pixels,
                        const float* valid, std::uint32_t* words) {
#if defined(BITEXPORT_HAVE_X86)
  if (bounds.is_narrow()) {
    constexpr std::int32_t kHalf = 16;  // of a word's channels, and pixels at once
    const std::int16_t* limits = bounds.limits() + counters.channel;
    const __m256i flips =
        _mm256_set1_epi32(static_cast<int>(bounds.flips(counters.channel / (2 * kHalf))));
    for (std::int32_t i = 0; i < pixels; i += kHalf) {
      const __m256i some = narrow_valid(valid + i);
      const __m256i low = half_words(counters.first + i, counters.pitch,
                                     std::min(kHalf, counters.count), limits, some);
      const __m256i high = half_words(counters.first + kHalf * counters.pitch + i, counters.pitch,
                                      counters.count - kHalf, limits + kHalf, some);
      // Both work within 128-bit lanes: pixels 0 to 3 and 8 to 11, and the others.
      const __m256i even = _mm256_xor_si256(_mm256_unpacklo_epi16(low, high), flips);
      const __m256i odd = _mm256_xor_si256(_mm256_unpackhi_epi16(low, high), flips);
      alignas(32) std::uint32_t both[kHalf];
      std::uint32_t* const to = i + kHalf <= pixels ? words + i : both;
      auto* const out = reinterpret_cast<__m256i*>(to);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
      if (to == both) {
        std::memcpy(words + i, both, static_cast<std::size_t>(pixels - i) * sizeof(*words));
      }
    }
    return;
  }
#endif
  write_words_plainly(bounds, counters, pixels, valid, words);
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
