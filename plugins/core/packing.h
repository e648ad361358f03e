// The one place in C++ that knows how signs and codes lie in 32-bit words.
//
// Bit order ("sign words"): bit i (least significant first) of word j is channel 32 * j + i; a set
// bit means +1, a clear bit -1. The last word of a channel count that is no multiple of 32 is
// filled up with 0 bits, which stand for no channel at all.
//
// Code order ("code words"): four uint8 or two uint16 codes in a word, the first code in the least
// significant bits; missing codes at the end of a row are 0.
//
// bitexport/packing.py is the Python side; tests/test_packing_cpp.py proves them equal.
//
// Words are INT32 in the tensors and uint32_t here: shifts and bit counts want unsigned words, and
// the signed and unsigned form of one integer type may alias, so adapters just cast the pointer.
// Everything is built with shifts, so the order does not depend on the host's endianness.

#ifndef BITEXPORT_CORE_PACKING_H_
#define BITEXPORT_CORE_PACKING_H_

#include <cstdint>

namespace bitexport {

inline constexpr int kChannelsPerWord = 32;

// The widths that a packed code can have; an enum, so that no third one can be asked for.
enum class CodeBits : int { k8 = 8, k16 = 16 };

// Number of 32-bit words that hold `channels` signs.
constexpr std::int64_t sign_words(std::int64_t channels) {
  return (channels + kChannelsPerWord - 1) / kChannelsPerWord;
}

// Number of codes in one word.
constexpr int codes_per_word(CodeBits bits) { return 32 / static_cast<int>(bits); }

// Number of 32-bit words that hold `count` codes.
constexpr std::int64_t code_words(std::int64_t count, CodeBits bits) {
  return (count + codes_per_word(bits) - 1) / codes_per_word(bits);
}

// Number of set bits (C++17 has no std::popcount).
constexpr int popcount(std::uint32_t word) {
  word -= (word >> 1) & 0x55555555u;
  word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
  word = (word + (word >> 4)) & 0x0F0F0F0Fu;
  return static_cast<int>((word * 0x01010101u) >> 24);
}

// True where channel `channel` of `words` is +1.
constexpr bool sign_at(const std::uint32_t* words, std::int64_t channel) {
  return (words[channel / kChannelsPerWord] >> (channel % kChannelsPerWord) & 1u) != 0;
}

// Code number `index` of `words`.
constexpr std::uint16_t code_at(const std::uint32_t* words, std::int64_t index, CodeBits bits) {
  const int width = static_cast<int>(bits);
  const int shift = static_cast<int>(index % codes_per_word(bits)) * width;
  const std::uint32_t mask = (1u << width) - 1u;
  return static_cast<std::uint16_t>(words[index / codes_per_word(bits)] >> shift & mask);
}

// Packs the signs positive(0) .. positive(channels - 1) into words[sign_words(channels)].
template <typename Positive>
constexpr void pack_signs_of(std::int64_t channels, Positive positive, std::uint32_t* words) {
  for (std::int64_t word = 0; word < sign_words(channels); ++word) {
    std::uint32_t packed = 0;
    for (int bit = 0; bit < kChannelsPerWord; ++bit) {
      const std::int64_t channel = word * kChannelsPerWord + bit;
      if (channel < channels && positive(channel)) packed |= 1u << bit;
    }
    words[word] = packed;
  }
}

// Packs positive[channels], nonzero where the sign is +1, into words[sign_words(channels)].
constexpr void pack_signs(const std::uint8_t* positive, std::int64_t channels,
                          std::uint32_t* words) {
  pack_signs_of(channels, [positive](std::int64_t c) { return positive[c] != 0; }, words);
}

// Inverse of pack_signs: positive[channels] becomes 1 where the sign is +1, else 0.
constexpr void unpack_signs(const std::uint32_t* words, std::int64_t channels,
                            std::uint8_t* positive) {
  for (std::int64_t c = 0; c < channels; ++c) positive[c] = sign_at(words, c) ? 1 : 0;
}

// Packs codes[count] into words[code_words(count, bits)].
//
// Returns false, with `words` half written, where a code does not fit in `bits`.
[[nodiscard]] constexpr bool pack_codes(const std::uint16_t* codes, std::int64_t count,
                                        CodeBits bits, std::uint32_t* words) {
  const int width = static_cast<int>(bits);
  for (std::int64_t word = 0; word < code_words(count, bits); ++word) words[word] = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t code = codes[i];
    if (code >> width != 0) return false;
    const int shift = static_cast<int>(i % codes_per_word(bits)) * width;
    words[i / codes_per_word(bits)] |= code << shift;
  }
  return true;
}

// Inverse of pack_codes: fills codes[count].
constexpr void unpack_codes(const std::uint32_t* words, std::int64_t count, CodeBits bits,
                            std::uint16_t* codes) {
  for (std::int64_t i = 0; i < count; ++i) codes[i] = code_at(words, i, bits);
}

// Packs a weight [Co, Ci/group, kh, kw] of float or int8 into words [Co, kh, kw,
// sign_words(Ci/group)].
//
// Returns how many weights are neither above nor below 0 (zero or NaN). They have no sign; they are
// packed as -1, and the caller decides whether that may be.
template <typename T>
[[nodiscard]] constexpr std::int64_t pack_weight(const T* weight, std::int64_t out_channels,
                                                 std::int64_t in_channels_per_group,
                                                 std::int64_t kernel_height,
                                                 std::int64_t kernel_width, std::uint32_t* words) {
  const std::int64_t taps = kernel_height * kernel_width;
  const std::int64_t words_per_tap = sign_words(in_channels_per_group);
  std::int64_t without_sign = 0;
  for (std::int64_t co = 0; co < out_channels; ++co) {
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const T* channels = weight + co * in_channels_per_group * taps + tap;
      pack_signs_of(
          in_channels_per_group,
          [channels, taps, &without_sign](std::int64_t c) {
            const T value = channels[c * taps];
            if (!(value > T{0}) && !(value < T{0})) ++without_sign;
            return value > T{0};
          },
          words + (co * taps + tap) * words_per_tap);
    }
  }
  return without_sign;
}

}  // namespace bitexport

#endif  // BITEXPORT_CORE_PACKING_H_
