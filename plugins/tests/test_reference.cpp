#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/reference.h"
#include "tests/check.h"
#include "tests/conv_cases.h"

namespace {

namespace reference = bitexport::reference;
using bitexport::CodeBits;
using bitexport::ConvArguments;
using bitexport::ConvShape;
using bitexport_test::Random;
using bitexport_test::state;

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

std::vector<float> random_reals(std::int64_t count, Random& random) {
  std::vector<float> values(size_of(count));
  for (float& value : values) value = random.real();
  return values;
}

std::vector<float> random_signs(std::int64_t count, Random& random) {
  std::vector<float> values(size_of(count));
  for (float& value : values) value = random.below(2) == 0 ? -1.0f : 1.0f;
  return values;
}

std::vector<std::uint32_t> packed_weight(const ConvShape& shape, const std::vector<float>& weight) {
  std::vector<std::uint32_t> words(size_of(shape.weight_words()));
  CHECK_EQUAL(
      bitexport::pack_weight(weight.data(), shape.out_channels, shape.in_channels_per_group(),
                             shape.vertical.kernel, shape.horizontal.kernel, words.data()),
      0);
  return words;
}

template <typename T>
void check_same(const std::vector<T>& got, const std::vector<T>& expected) {
  CHECK_EQUAL(got.size(), expected.size());
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    CHECK_EQUAL(got[i], expected[i]);
  }
}

// A convolution written without any of the code under test: pad X with zeros in memory, then slide
// a window that knows no borders.
std::vector<double> padded_conv(const ConvArguments& a, const std::vector<float>& x,
                                const std::vector<float>& weight) {
  const std::int64_t height = a.input[2] + a.pads[0] + a.pads[2];
  const std::int64_t width = a.input[3] + a.pads[1] + a.pads[3];
  std::vector<double> padded(size_of(a.input[0] * a.input[1] * height * width), 0.0);
  for (std::int64_t plane = 0; plane < a.input[0] * a.input[1]; ++plane) {
    for (std::int64_t h = 0; h < a.input[2]; ++h) {
      for (std::int64_t w = 0; w < a.input[3]; ++w) {
        padded[size_of((plane * height + h + a.pads[0]) * width + w + a.pads[1])] =
            double{x[size_of((plane * a.input[2] + h) * a.input[3] + w)]};
      }
    }
  }
  std::vector<double> y;
  for (std::int64_t n = 0; n < a.input[0]; ++n) {
    for (std::int64_t co = 0; co < a.weight[0]; ++co) {
      const std::int64_t group = co / (a.weight[0] / a.group);
      for (std::int64_t top = 0; top + a.dilations[0] * (a.weight[2] - 1) < height;
           top += a.strides[0]) {
        for (std::int64_t left = 0; left + a.dilations[1] * (a.weight[3] - 1) < width;
             left += a.strides[1]) {
          double sum = 0.0;
          for (std::int64_t i = 0; i < a.weight[1] * a.weight[2] * a.weight[3]; ++i) {
            const std::int64_t kw = i % a.weight[3];
            const std::int64_t kh = i / a.weight[3] % a.weight[2];
            const std::int64_t c = i / a.weight[3] / a.weight[2];
            const std::int64_t plane = n * a.input[1] + group * a.weight[1] + c;
            const std::int64_t at =
                (plane * height + top + kh * a.dilations[0]) * width + left + kw * a.dilations[1];
            sum += padded[size_of(at)] *
                   double{weight[size_of(co * a.weight[1] * a.weight[2] * a.weight[3] + i)]};
          }
          y.push_back(sum);
        }
      }
    }
  }
  return y;
}

void check_binary_case(const ConvArguments& arguments, const ConvShape& shape, Random& random) {
  state().where = bitexport_test::to_string(arguments);
  const auto x = random_reals(shape.input_elements(), random);
  const auto threshold = random_reals(shape.in_channels, random);
  const auto weight = random_signs(shape.weight_elements(), random);
  const auto words = packed_weight(shape, weight);

  std::vector<std::uint32_t> activations(size_of(shape.activation_words()));
  reference::pack_activations(shape, x.data(), threshold.data(), activations.data());
  const std::size_t outputs = size_of(shape.output_elements());
  std::vector<std::int32_t> from_reals(outputs, -1);
  std::vector<std::int32_t> from_words(outputs, -2);
  std::vector<std::int32_t> from_xor(outputs, -3);
  reference::binary_conv(shape, x.data(), threshold.data(), words.data(), from_reals.data());
  reference::binary_conv(shape, activations.data(), words.data(), from_words.data());
  reference::binary_conv_xor(shape, activations.data(), words.data(), from_xor.data());
  check_same(from_words, from_reals);
  check_same(from_xor, from_reals);

  std::vector<float> signs = x;
  const std::int64_t plane = arguments.input[2] * arguments.input[3];
  for (std::size_t i = 0; i < signs.size(); ++i) {
    const std::int64_t ci = static_cast<std::int64_t>(i) / plane % shape.in_channels;
    signs[i] = x[i] >= threshold[size_of(ci)] ? 1.0f : -1.0f;
  }
  const std::vector<double> expected = padded_conv(arguments, signs, weight);
  check_same(std::vector<double>(from_reals.begin(), from_reals.end()), expected);
}

void test_binary_matrix(Random& random) {
  int cases = 0;
  bitexport_test::for_each_conv_case(std::array<std::int64_t, 7>{1, 3, 31, 32, 33, 64, 70},
                                     [&](const ConvArguments& arguments, const ConvShape& shape) {
                                       check_binary_case(arguments, shape, random);
                                       ++cases;
                                     });
  state().where.clear();
  CHECK(cases > 1000);
}

// Sums of multiples of 1/256 below 2^53 are exact in double, in any order; S and B are powers of
// two, so the one rounding is the cast to float on both sides: results are equal, not just close.
void test_sign_conv_matrix(Random& random) {
  bitexport_test::for_each_conv_case(
      std::array<std::int64_t, 3>{2, 33, 5},
      [&](const ConvArguments& arguments, const ConvShape& shape) {
        state().where = bitexport_test::to_string(arguments);
        const auto x = random_reals(shape.input_elements(), random);
        const auto weight = random_signs(shape.weight_elements(), random);
        const auto words = packed_weight(shape, weight);
        const std::vector<float> scale(size_of(shape.out_channels), 0.5f);
        const std::vector<float> bias(size_of(shape.out_channels), -2.0f);
        std::vector<float> y(size_of(shape.output_elements()));
        reference::sign_conv(shape, x.data(), words.data(), scale.data(), bias.data(), y.data());
        std::vector<float> expected;
        for (const double sum : padded_conv(arguments, x, weight)) {
          expected.push_back(static_cast<float>(0.5 * sum - 2.0));
        }
        check_same(y, expected);
      });
  state().where.clear();
}

// All signs +1, 33 channels, 3x3 with pads of 1: a corner sees 4 taps, an edge 6, the middle 9.
void test_known_convolution() {
  const auto shape =
      bitexport::make_conv_shape({{1, 33, 3, 3}, {1, 33, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1})
          .shape;
  const std::vector<float> zeros(size_of(shape.input_elements()), 0.0f);
  const std::vector<float> threshold(33, 0.0f);
  const auto words = packed_weight(shape, std::vector<float>(33 * 9, 1.0f));
  std::vector<std::int32_t> y(9);
  // 0 is at the threshold 0, so it counts as +1.
  reference::binary_conv(shape, zeros.data(), threshold.data(), words.data(), y.data());
  check_same(y, {33 * 4, 33 * 6, 33 * 4, 33 * 6, 33 * 9, 33 * 6, 33 * 4, 33 * 6, 33 * 4});
}

// A NaN activation is not at or above its threshold: -1, by packed words and by reals alike.
void test_nan_activation() {
  const auto shape =
      bitexport::make_conv_shape({{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1})
          .shape;
  const float x = std::nanf("");
  const float threshold = 0.0f;
  const std::uint32_t weight = 1;
  std::uint32_t word = 7;
  std::int32_t y = 0;
  reference::pack_activations(shape, &x, &threshold, &word);
  CHECK_EQUAL(word, 0u);
  reference::binary_conv(shape, &x, &threshold, &weight, &y);
  CHECK_EQUAL(y, -1);
}

void test_scale_and_shift() {
  const auto shape =
      bitexport::make_conv_shape({{2, 1, 1, 1}, {2, 1, 1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1})
          .shape;
  const std::vector<std::int32_t> accumulators = {1, -2, 3, -4};
  const std::vector<float> scale = {0.5f, 2.0f};
  const std::vector<float> bias = {1.0f, -1.0f};
  const std::vector<float> residual = {10.0f, 20.0f, 30.0f, 40.0f};
  std::vector<float> y(4);
  reference::scale_and_shift(shape, accumulators.data(), scale.data(), bias.data(), nullptr,
                             y.data());
  check_same(y, {1.5f, -5.0f, 2.5f, -9.0f});
  reference::scale_and_shift(shape, accumulators.data(), scale.data(), bias.data(), residual.data(),
                             y.data());
  check_same(y, {11.5f, 15.0f, 32.5f, 31.0f});
}

template <typename T>
void check_codebook(CodeBits bits, std::int64_t rows, std::int64_t blocks, std::int64_t block_size,
                    std::int64_t centroids, Random& random) {
  state().where = "rows " + std::to_string(rows) + ", blocks " + std::to_string(blocks) +
                  ", block size " + std::to_string(block_size) + ", centroids " +
                  std::to_string(centroids);
  std::vector<T> codebook(size_of(centroids * block_size));
  for (T& value : codebook) value = static_cast<T>(random.below(65536));
  const std::int64_t words_per_row = bitexport::code_words(blocks, bits);
  std::vector<std::uint16_t> codes(size_of(rows * blocks));
  std::vector<std::uint32_t> words(size_of(rows * words_per_row));
  for (std::uint16_t& code : codes) {
    code = static_cast<std::uint16_t>(random.below(static_cast<std::uint32_t>(centroids)));
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    CHECK(bitexport::pack_codes(codes.data() + row * blocks, blocks, bits,
                                words.data() + row * words_per_row));
  }
  std::vector<T> weight(codes.size() * size_of(block_size));
  CHECK(reference::expand_codebook(words.data(), rows, blocks, bits, codebook.data(), centroids,
                                   block_size, weight.data()));
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const std::size_t d = size_of(block_size);
    CHECK_EQUAL(weight[i], codebook[codes[i / d] * d + i % d]);
  }
  state().where.clear();
}

void test_codebooks(Random& random) {
  for (const std::int64_t blocks : {1, 3, 4, 9}) {
    for (const std::int64_t block_size : {1, 4, 9}) {
      check_codebook<float>(CodeBits::k8, 3, blocks, block_size, 256, random);
      check_codebook<std::uint16_t>(CodeBits::k16, 3, blocks, block_size, 2048, random);
    }
  }
  const std::uint32_t word = 0x00000300u;
  const float codebook[] = {1.0f, 2.0f, 3.0f};
  float weight[4];
  CHECK(!reference::expand_codebook(&word, 1, 4, CodeBits::k8, codebook, 3, 1, weight));
}

}  // namespace

int main() {
  Random random(20240612);
  test_known_convolution();
  test_nan_activation();
  test_binary_matrix(random);
  test_sign_conv_matrix(random);
  test_scale_and_shift();
  test_codebooks(random);
  return bitexport_test::finish();
}
