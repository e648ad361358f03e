// The small pieces of the CUDA kernels: divisions, number formats, bit orders, and shared memory
// layouts, whose freedom from bank conflicts is proved by counting.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "core/border_classes.h"
#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/host_device.h"

namespace {

using namespace bitexport::cuda;
using namespace bitexport_test;

void check_divider(Random& random) {
  state().where = "divider";
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  std::vector<std::int32_t> divisors = {1, 2, 3, 4, 5, 7, 9, 49, 147, 1 << 30, kMost - 1, kMost};
  for (int i = 0; i < 200; ++i) {
    divisors.push_back(1 + static_cast<std::int32_t>(random.below(1u << (1 + i % 31))) % kMost);
  }
  for (const std::int32_t divisor : divisors) {
    const FastDivider divider = FastDivider::of(divisor);
    std::vector<std::int32_t> values = {0, 1, divisor - 1, divisor, kMost - 1, kMost};
    for (int i = 0; i < 100; ++i) {
      values.push_back(static_cast<std::int32_t>(random.below(1u << 31)));
      // Around multiples of the divisor.
      const std::int32_t multiple = values.back() / divisor * divisor;
      values.push_back(multiple);
      values.push_back(std::max(multiple - 1, 0));
    }
    for (const std::int32_t value : values) {
      CHECK_EQUAL(divider.quotient(value), value / divisor);
      CHECK_EQUAL(divider.remainder(value, divider.quotient(value)), value % divisor);
    }
  }
}

void check_bfloat_terms(Random& random) {
  state().where = "bfloat terms";
  const auto sum = [](float value) {
    const BfloatTerms terms = split_to_bfloat(value);
    return float_of_bfloat(terms.term[0]) + float_of_bfloat(terms.term[1]) +
           float_of_bfloat(terms.term[2]);
  };
  for (int i = 0; i < 100000; ++i) {
    // Exponents that keep the last term's bits above the smallest subnormal.
    const std::uint32_t exponent = 24 + random.below(255 - 24);
    const std::uint32_t bits = random.below(2) << 31 | exponent << 23 | random.below(1u << 23);
    const float value = float_of_bits(bits);
    CHECK_EQUAL(sum(value), value);
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {0.0f, kInfinity, -kInfinity}) CHECK_EQUAL(sum(value), value);
  CHECK(std::isnan(sum(std::numeric_limits<float>::quiet_NaN())));
  // A NaN whose only set bits are among those cut off.
  CHECK(std::isnan(sum(float_of_bits(0x7F800001u))));
  for (std::uint32_t half = 0; half < 0x7C00; ++half) {
    const float value = float_of_half(static_cast<std::uint16_t>(half));
    const BfloatTerms terms = split_to_bfloat(value);
    CHECK_EQUAL(float_of_bfloat(terms.term[0]) + float_of_bfloat(terms.term[1]), value);
  }
}

void check_bits(Random& random) {
  state().where = "bits";
  for (int i = 0; i < 200; ++i) {
    const std::uint32_t word = random.below(1u << 31) << 1 | random.below(2);
    const auto bit = [word](int at) { return word >> at & 1u; };
    const std::uint32_t halves = unshuffled(word);
    for (int p = 0; p < 16; ++p) {
      CHECK_EQUAL(halves >> p & 1u, bit(2 * p));
      CHECK_EQUAL(halves >> (16 + p) & 1u, bit(2 * p + 1));
    }
    // Register `part` of step `half` holds channels 2 pair, 2 pair + 1 of 8 of 16 of the word.
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 2; ++part) {
        for (int pair = 0; pair < 4; ++pair) {
          const std::uint32_t numbers = signs_to_numbers(halves, pair, part, half, kMinusOneHalves);
          const int channel = 16 * half + 8 * part + 2 * pair;
          CHECK_EQUAL(numbers & 0xFFFFu, bit(channel) ? 0x3C00u : 0xBC00u);
          CHECK_EQUAL(numbers >> 16, bit(channel + 1) ? 0x3C00u : 0xBC00u);
          CHECK_EQUAL(signs_to_numbers(halves, pair, part, half, kMinusOneBfloats) & 0xFFFFu,
                      bit(channel) ? 0x3F80u : 0xBF80u);
        }
      }
    }
    for (int step = 0; step < 8; ++step) {
      for (int byte = 0; byte < 4; ++byte) {
        const auto at = [byte](std::uint32_t bytes) {
          return static_cast<std::int8_t>(bytes >> (8 * byte));
        };
        CHECK_EQUAL(at(bits_to_bytes(word, step)), static_cast<int>(bit(8 * byte + step)));
        CHECK_EQUAL(at(bits_to_signed_bytes(word, step)), bit(8 * byte + step) ? 1 : -1);
      }
    }
  }
}

// How often the worst of 32 banks is asked for different words.
int conflicts(const std::vector<std::uint32_t>& offsets, std::uint32_t bytes) {
  std::map<std::uint32_t, std::set<std::uint32_t>> words;
  for (const std::uint32_t offset : offsets) {
    for (std::uint32_t word = offset / 4; word < (offset + bytes) / 4; ++word) {
      words[word % 32].insert(word);
    }
  }
  std::size_t most = 0;
  for (const auto& bank : words) most = std::max(most, bank.second.size());
  return static_cast<int>(most);
}

template <int kRowBytes>
void check_tile() {
  state().where = "tile rows of " + std::to_string(kRowBytes);
  constexpr int kVectors = kRowBytes / kVectorBytes;
  std::set<std::uint32_t> places;
  for (int row = 0; row < 64; ++row) {
    for (int vector = 0; vector < kVectors; ++vector) {
      places.insert(swizzled<kRowBytes>(row, vector));
    }
  }
  CHECK_EQUAL(places.size(), static_cast<std::size_t>(64 * kVectors));
  CHECK_EQUAL(*places.rbegin(), static_cast<std::uint32_t>(64 * kRowBytes - kVectorBytes));
  for (int step = 0; step < kRowBytes / kMmaBytes; ++step) {
    // ldmatrix reads a matrix, eight lanes' rows of 16 bytes, at once.
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::vector<std::uint32_t> a, b;
      for (int lane = 8 * matrix; lane < 8 * matrix + 8; ++lane) {
        a.push_back(swizzled<kRowBytes>(a_row_of_lane(lane), 2 * step + a_half_of_lane(lane)));
        b.push_back(swizzled<kRowBytes>(b_column_of_lane(lane), 2 * step + b_half_of_lane(lane)));
      }
      CHECK_EQUAL(conflicts(a, kVectorBytes), 1);
      CHECK_EQUAL(conflicts(b, kVectorBytes), 1);
    }
  }
  for (int first = 0; first < 64; first += 8) {
    // A quarter of a warp writes eight vectors in the order of the threads.
    std::vector<std::uint32_t> writes;
    for (int i = first; i < first + 8; ++i) {
      writes.push_back(swizzled<kRowBytes>(i / kVectors, i % kVectors));
    }
    CHECK_EQUAL(conflicts(writes, kVectorBytes), 1);
  }
}

void check_staging() {
  state().where = "staging tile";
  std::set<std::uint32_t> places;
  for (int row = 0; row < 32; ++row) {
    for (int column = 0; column < 32; ++column) places.insert(staged(row, column));
  }
  CHECK_EQUAL(places.size(), std::size_t{1024});
  const auto of_lanes = [](auto offset) {
    std::vector<std::uint32_t> offsets;
    for (int lane = 0; lane < 32; ++lane) offsets.push_back(offset(lane));
    return conflicts(offsets, 4);
  };
  for (int i = 0; i < 32; ++i) {
    CHECK_EQUAL(of_lanes([i](int lane) { return staged(lane, i); }), 1);
    // A fragment's accumulators, at (row group, column 2 pair) of a tile of 8 by 8.
    CHECK_EQUAL(of_lanes([i](int lane) {
                  return staged(i / 8 * 8 + lane / 4, i % 4 * 8 + lane % 4 * 2 + i / 4 % 2);
                }),
                1);
    CHECK_EQUAL(of_lanes([i](int lane) {
                  return staged(staging_row(lane / 4, i / 8), lane % 4 * 8 + i % 8);
                }),
                1);
  }
  std::set<int> rows;
  for (int step = 0; step < 4; ++step) {
    for (int group = 0; group < 8; ++group) rows.insert(staging_row(group, step));
  }
  CHECK_EQUAL(rows.size(), std::size_t{32});
}

// The classes by number separate what those by table do.
void check_border_classes() {
  constexpr std::array<std::int64_t, 1> kChannels = {1};
  for_each_conv_case(
      kChannels, [](const bitexport::ConvArguments& arguments, const bitexport::ConvShape& shape) {
        state().where = to_string(arguments);
        const bitexport::BorderClasses classes(shape);
        std::map<std::int32_t, std::int32_t> number_of_class;
        std::set<std::int32_t> numbers;
        for (std::int32_t row = 0; row < shape.vertical.out_size(); ++row) {
          for (std::int32_t column = 0; column < shape.horizontal.out_size(); ++column) {
            const std::int32_t number = border_class(shape, row, column);
            const auto [entry, is_new] =
                number_of_class.insert({classes.class_of(row, column), number});
            CHECK_EQUAL(entry->second, number);
            if (is_new) numbers.insert(number);
          }
        }
        CHECK_EQUAL(numbers.size(), number_of_class.size());
      });
}

}  // namespace

int main() {
  Random random(20261121);
  check_divider(random);
  check_bfloat_terms(random);
  check_bits(random);
  check_tile<64>();
  check_tile<128>();
  check_staging();
  check_border_classes();
  return finish();
}
