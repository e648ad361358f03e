#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "core/packing.h"
#include "tests/check.h"

namespace {

using bitexport::CodeBits;
using bitexport_test::Random;
using bitexport_test::state;

// What a word holds before it is written, to catch words that are not.
constexpr std::uint32_t kStale = 0xDEADBEEFu;

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

void test_known_signs() {
  const auto pack_one = [](std::int64_t set, std::int64_t channels, std::int64_t word) {
    std::vector<std::uint8_t> positive(size_of(channels), 0);
    positive[size_of(set)] = 1;
    std::vector<std::uint32_t> words(size_of(bitexport::sign_words(channels)), kStale);
    bitexport::pack_signs(positive.data(), channels, words.data());
    return words[size_of(word)];
  };
  CHECK_EQUAL(pack_one(0, 1, 0), 1u);
  CHECK_EQUAL(pack_one(31, 32, 0), 0x80000000u);
  CHECK_EQUAL(pack_one(32, 33, 0), 0u);
  CHECK_EQUAL(pack_one(32, 33, 1), 1u);
  CHECK_EQUAL(pack_one(37, 40, 1), 32u);
  CHECK_EQUAL(bitexport::sign_words(0), 0);
  CHECK_EQUAL(bitexport::sign_words(1), 1);
  CHECK_EQUAL(bitexport::sign_words(32), 1);
  CHECK_EQUAL(bitexport::sign_words(33), 2);
}

void test_sign_round_trip(Random& random) {
  for (std::int64_t channels = 0; channels <= 130; ++channels) {
    state().where = "channels " + std::to_string(channels);
    std::vector<std::uint8_t> positive(size_of(channels));
    std::int64_t count = 0;
    for (std::uint8_t& sign : positive) {
      sign = static_cast<std::uint8_t>(random.below(2));
      count += sign;
    }
    const std::int64_t word_count = bitexport::sign_words(channels);
    std::vector<std::uint32_t> words(size_of(word_count + 1), kStale);
    bitexport::pack_signs(positive.data(), channels, words.data());
    CHECK_EQUAL(words.back(), kStale);

    // Equal numbers of bits: those past the last channel are 0.
    std::int64_t bits = 0;
    for (std::int64_t i = 0; i < word_count; ++i) bits += bitexport::popcount(words[size_of(i)]);
    CHECK_EQUAL(bits, count);

    std::vector<std::uint8_t> back(size_of(channels + 1), 7);
    bitexport::unpack_signs(words.data(), channels, back.data());
    CHECK_EQUAL(back.back(), 7);
    for (std::size_t c = 0; c < positive.size(); ++c) {
      CHECK_EQUAL(back[c], positive[c]);
      CHECK_EQUAL(bitexport::sign_at(words.data(), static_cast<std::int64_t>(c)), positive[c] == 1);
    }
  }
  state().where.clear();
}

void test_popcount(Random& random) {
  CHECK_EQUAL(bitexport::popcount(0), 0);
  CHECK_EQUAL(bitexport::popcount(0xFFFFFFFFu), 32);
  for (int i = 0; i < 1000; ++i) {
    const std::uint32_t word = random.below(0xFFFFFFFFu);
    int bits = 0;
    for (int bit = 0; bit < 32; ++bit) bits += static_cast<int>(word >> bit & 1u);
    CHECK_EQUAL(bitexport::popcount(word), bits);
  }
}

void test_known_codes() {
  const std::uint16_t codes[] = {1, 2, 3, 4, 5};
  std::uint32_t words[3] = {kStale, kStale, kStale};
  CHECK(bitexport::pack_codes(codes, 5, CodeBits::k8, words));
  CHECK_EQUAL(words[0], 0x04030201u);
  CHECK_EQUAL(words[1], 0x00000005u);
  CHECK(bitexport::pack_codes(codes, 5, CodeBits::k16, words));
  CHECK_EQUAL(words[0], 0x00020001u);
  CHECK_EQUAL(words[1], 0x00040003u);
  CHECK_EQUAL(words[2], 0x00000005u);
  CHECK_EQUAL(bitexport::code_words(0, CodeBits::k8), 0);
  CHECK_EQUAL(bitexport::code_words(4, CodeBits::k8), 1);
  CHECK_EQUAL(bitexport::code_words(5, CodeBits::k8), 2);
  CHECK_EQUAL(bitexport::code_words(5, CodeBits::k16), 3);
}

void test_code_that_does_not_fit() {
  const std::uint16_t codes[] = {0, 256};
  std::uint32_t word = 0;
  CHECK(!bitexport::pack_codes(codes, 2, CodeBits::k8, &word));
  CHECK(bitexport::pack_codes(codes, 2, CodeBits::k16, &word));
}

void test_code_round_trip(Random& random) {
  for (const CodeBits bits : {CodeBits::k8, CodeBits::k16}) {
    for (std::int64_t count = 0; count <= 40; ++count) {
      state().where =
          "count " + std::to_string(count) + ", bits " + std::to_string(static_cast<int>(bits));
      std::vector<std::uint16_t> codes(size_of(count));
      for (std::uint16_t& code : codes) {
        code = static_cast<std::uint16_t>(random.below(1u << static_cast<int>(bits)));
      }
      const std::int64_t word_count = bitexport::code_words(count, bits);
      std::vector<std::uint32_t> words(size_of(word_count + 1), kStale);
      CHECK(bitexport::pack_codes(codes.data(), count, bits, words.data()));
      CHECK_EQUAL(words.back(), kStale);

      // The slots past the last code are 0.
      for (std::int64_t i = count; i < word_count * bitexport::codes_per_word(bits); ++i) {
        CHECK_EQUAL(bitexport::code_at(words.data(), i, bits), 0);
      }
      std::vector<std::uint16_t> back(size_of(count + 1), 7);
      bitexport::unpack_codes(words.data(), count, bits, back.data());
      CHECK_EQUAL(back.back(), 7);
      for (std::size_t i = 0; i < codes.size(); ++i) CHECK_EQUAL(back[i], codes[i]);
    }
  }
  state().where.clear();
}

template <typename T>
void check_weight(std::int64_t co, std::int64_t ci, std::int64_t kh, std::int64_t kw,
                  Random& random) {
  state().where = "weight " + std::to_string(co) + "x" + std::to_string(ci) + "x" +
                  std::to_string(kh) + "x" + std::to_string(kw);
  std::vector<T> weight(size_of(co * ci * kh * kw));
  std::int64_t zeros = 0;
  for (T& value : weight) {
    value = static_cast<T>(static_cast<int>(random.below(5)) - 2);
    if (value == T{0}) ++zeros;
  }
  const std::int64_t words_per_tap = bitexport::sign_words(ci);
  std::vector<std::uint32_t> words(size_of(co * kh * kw * words_per_tap + 1), kStale);
  CHECK_EQUAL(bitexport::pack_weight(weight.data(), co, ci, kh, kw, words.data()), zeros);
  CHECK_EQUAL(words.back(), kStale);
  for (std::int64_t o = 0; o < co; ++o) {
    for (std::int64_t y = 0; y < kh; ++y) {
      for (std::int64_t x = 0; x < kw; ++x) {
        const std::uint32_t* tap = words.data() + ((o * kh + y) * kw + x) * words_per_tap;
        for (std::int64_t c = 0; c < ci; ++c) {
          const T value = weight[size_of(((o * ci + c) * kh + y) * kw + x)];
          CHECK_EQUAL(bitexport::sign_at(tap, c), value > T{0});
        }
        for (std::int64_t c = ci; c < words_per_tap * bitexport::kChannelsPerWord; ++c) {
          CHECK(!bitexport::sign_at(tap, c));
        }
      }
    }
  }
}

void test_weights(Random& random) {
  for (const std::int64_t ci : {1, 3, 31, 32, 33, 64, 65}) {
    check_weight<float>(3, ci, 3, 2, random);
    check_weight<std::int8_t>(2, ci, 1, 1, random);
  }
  state().where.clear();
  const float nan_and_zeros[] = {std::numeric_limits<float>::quiet_NaN(), -0.0f, 0.0f, 1e-40f};
  std::uint32_t word = kStale;
  CHECK_EQUAL(bitexport::pack_weight(nan_and_zeros, 1, 4, 1, 1, &word), 3);
  CHECK_EQUAL(word, 8u);
}

void test_op_lookup() {
  CHECK_EQUAL(bitexport::op_index("BinaryConvAdd"), 2);
  CHECK_EQUAL(bitexport::op_index("Conv"), -1);
  CHECK_EQUAL(bitexport::input_index(bitexport::kOps[0], "Th"), -1);
  using bitexport::Activation;
  const auto activation = [](const char* op) {
    return bitexport::activation_of(bitexport::kOps[bitexport::op_index(op)]);
  };
  CHECK(activation("BinaryConvAdd") == Activation::kNone);
  CHECK(activation("BinaryConvAddPRelu") == Activation::kPRelu);
  CHECK(activation("BinaryConvClip") == Activation::kClip);
  CHECK(activation("BinaryConvOfSignsClip") == Activation::kClip);
  // No GPU has what hands signs on.
  const int chained = bitexport::op_index("BinaryConvSign");
  CHECK_EQUAL(chained, bitexport::kDeviceOps.count);
  CHECK(bitexport::makes_signs(bitexport::kOps[chained]));
  CHECK(!bitexport::takes_signs(bitexport::kOps[chained]));
  CHECK(bitexport::takes_signs(bitexport::kOps[bitexport::op_index("BinaryConvOfSigns")]));
}

}  // namespace

int main() {
  Random random(20240611);
  test_known_signs();
  test_sign_round_trip(random);
  test_popcount(random);
  test_known_codes();
  test_code_that_does_not_fit();
  test_code_round_trip(random);
  test_weights(random);
  test_op_lookup();
  return bitexport_test::finish();
}
