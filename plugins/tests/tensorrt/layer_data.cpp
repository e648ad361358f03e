#include "tests/tensorrt/layer_data.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <iostream>
#include <limits>
#include <string_view>

#include "core/half.h"
#include "core/reference.h"

namespace bitexport_test {
namespace {

using bitexport::ConvShape;
namespace reference = bitexport::reference;

// A quiet NaN: what stands in the channels' padding must not matter.
constexpr std::uint16_t kPoison = 0x7E00;

std::vector<float> random_floats(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.real();
  return values;
}

template <typename T>
std::vector<std::uint8_t> bytes_of(const std::vector<T>& values) {
  std::vector<std::uint8_t> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Values at, right above and right below those that X takes, and infinities, which folding makes of
// a channel that is always on or off.
std::vector<float> random_thresholds(Random& random, std::int64_t count) {
  std::vector<float> values = random_floats(random, count);
  for (float& value : values) {
    const std::uint32_t kind = random.below(8);
    if (kind == 0) value += 0x1p-20f;
    if (kind == 1) value -= 0x1p-20f;
    if (kind == 2 && random.below(4) == 0) {
      value = std::numeric_limits<float>::infinity() * (random.below(2) == 0 ? 1.0f : -1.0f);
    }
  }
  return values;
}

std::vector<float> random_x(Random& random, const Node& node) {
  std::vector<float> x = random_floats(random, node.shape.input_elements());
  if (x.empty()) return x;
  if (!node.is_binary()) {
    // All 24 bits of a float32; of float16 these are exact.
    const bool is_half = node.type == nvinfer1::DataType::kHALF;
    for (float& value : x) value = is_half ? value : value * (1.0f + random.real() * 0x1p-9f);
    return x;
  }
  // NaN is below every threshold; -0 and 0 are equal.
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -0.0f, std::numeric_limits<float>::infinity()}) {
    x[random.below(static_cast<std::uint32_t>(x.size()))] = value;
  }
  return x;
}

// A weight as words, and as the numbers that they stand for [Co, Ci/group, kh, kw].
struct Weight {
  std::vector<std::uint32_t> words;
  std::vector<std::uint16_t> codebook;
  std::vector<float> values;
};

Weight random_signs(Random& random, const ConvShape& s) {
  Weight weight;
  weight.values = random_floats(random, s.weight_elements());
  for (float& sign : weight.values) sign = sign < 0 ? -1.0f : 1.0f;
  weight.words.resize(static_cast<std::size_t>(s.weight_words()));
  const std::int64_t without_sign =
      bitexport::pack_weight(weight.values.data(), s.out_channels, s.in_channels_per_group(),
                             s.vertical.kernel, s.horizontal.kernel, weight.words.data());
  CHECK_EQUAL(without_sign, 0);
  return weight;
}

Weight random_codes(Random& random, const Node& node) {
  const ConvShape& s = node.shape;
  Weight weight;
  std::vector<float> codebook = random_floats(random, std::int64_t{node.entries} * node.depth);
  for (const float value : codebook) {
    weight.codebook.push_back(bitexport::float_to_half(value));
  }
  const std::int64_t blocks = s.weight_elements() / s.out_channels / node.depth;
  const std::int64_t row_words = bitexport::code_words(blocks, node.code_bits());
  weight.words.resize(static_cast<std::size_t>(s.out_channels * row_words));
  for (std::int64_t row = 0; row < s.out_channels; ++row) {
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(blocks));
    for (std::uint16_t& code : codes) {
      code = static_cast<std::uint16_t>(random.below(static_cast<std::uint32_t>(node.entries)));
    }
    codes[0] = static_cast<std::uint16_t>(node.entries - 1);
    CHECK(bitexport::pack_codes(codes.data(), blocks, node.code_bits(),
                                weight.words.data() + row * row_words));
  }
  weight.values.resize(static_cast<std::size_t>(s.weight_elements()));
  CHECK(reference::expand_codebook(weight.words.data(), s.out_channels, blocks, node.code_bits(),
                                   codebook.data(), node.entries, node.depth,
                                   weight.values.data()));
  return weight;
}

// Rounding of the float32 sums and of the result. A sum of n products in any order is off by at
// most n * 2^-24 of the sum of their magnitudes, and so is an epilogue of three operations. float16
// products are exact in float32. A float32 product is made of up to six products of parts, which
// leave out less than 2^-23 of it.
double tolerance_of(const Node& node, double sums, double value, double terms) {
  const bool is_half = node.type == nvinfer1::DataType::kHALF;
  const double of_sums = ((is_half ? 1 : 6) * terms + 6) * 0x1p-24 * sums;
  return of_sums +
         (is_half ? 0x1p-11 * (std::abs(value) + of_sums) + 0x1p-25 : 0x1p-23 * std::abs(value));
}

struct Epilogue {
  std::vector<float> scale;
  std::vector<float> bias;
  std::vector<float> residual;  // empty without one
  std::vector<float> slope;     // within -1 and 1, so that errors do not grow
  std::vector<float> shift;
  float low = -1.0f;
  float high = 0.75f;

  double activated(bitexport::Activation activation, std::size_t channel, double t) const {
    if (activation == bitexport::Activation::kPRelu) {
      return (t >= 0 ? t : double{slope[channel]} * t) + double{shift[channel]};
    }
    if (activation == bitexport::Activation::kClip) return t < low ? low : t > high ? high : t;
    return t;
  }
};

void fill_expected(const Node& node, const std::vector<float>& x, const Weight& weight,
                   const Epilogue& epilogue, LayerData& data) {
  const ConvShape& s = node.shape;
  const auto activation = [&](auto n, auto ci, auto h, auto w) -> double {
    const float value = x[static_cast<std::size_t>(reference::input_index(s, n, ci, h, w))];
    if (!node.is_binary()) return value;
    return value >= data.threshold[static_cast<std::size_t>(ci)] ? 1.0 : -1.0;
  };
  const auto weight_at = [&](auto co, auto c, auto kh, auto kw) -> double {
    const std::int64_t channel = std::int64_t{co} * s.in_channels_per_group() + c;
    const std::int64_t tap = std::int64_t{kh} * s.horizontal.kernel + kw;
    return weight.values[static_cast<std::size_t>(channel * s.taps() + tap)];
  };
  const auto magnitude = [](auto f) {
    return [f](auto a, auto b, auto c, auto d) { return std::abs(f(a, b, c, d)); };
  };
  const double terms = node.is_binary() ? 0.0 : 1.0 * s.in_channels_per_group() * s.taps();
  reference::for_each_output(s, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
    const auto at = static_cast<std::size_t>(index);
    const auto channel = static_cast<std::size_t>(co);
    const double scale = epilogue.scale[channel];
    const double residual = epilogue.residual.empty() ? 0.0 : epilogue.residual[at];
    const double sum = reference::convolve_at<double>(s, n, co, row, column, activation, weight_at);
    const double size = reference::convolve_at<double>(s, n, co, row, column, magnitude(activation),
                                                       magnitude(weight_at));
    const double value = epilogue.activated(bitexport::activation_of(*node.spec), channel,
                                            scale * sum + epilogue.bias[channel] + residual);
    const double sums = std::abs(scale) * size + std::abs(epilogue.bias[channel]) +
                        std::abs(residual) + std::abs(epilogue.shift[channel]);
    data.expected[at] = value;
    data.tolerance[at] = tolerance_of(node, sums, value, terms);
    if (node.is_binary()) data.accumulators[at] = static_cast<std::int32_t>(sum);
  });
}

Activations activations_of(const nvinfer1::PluginTensorDesc& desc) {
  const bool is_image = desc.dims.nbDims == 4;
  return {desc.dims.d[0],
          desc.dims.d[1],
          is_image ? desc.dims.d[2] : 1,
          is_image ? desc.dims.d[3] : 1,
          desc.type == nvinfer1::DataType::kHALF,
          desc.format == nvinfer1::TensorFormat::kHWC8};
}

}  // namespace

LayerData make_layer_data(Random& random, const Node& node) {
  const ConvShape& s = node.shape;
  const auto outputs = static_cast<std::size_t>(s.output_elements());
  LayerData data{{}, activations_of(output_desc(node)), {}, {}, {}, {}};
  data.expected.resize(outputs);
  data.tolerance.resize(outputs);
  data.accumulators.resize(node.is_binary() ? outputs : 0);
  const std::vector<float> x = random_x(random, node);
  data.threshold = random_thresholds(random, s.in_channels);
  const Weight weight = node.has_codebook() ? random_codes(random, node) : random_signs(random, s);
  Epilogue epilogue = {random_floats(random, s.out_channels),
                       random_floats(random, s.out_channels),
                       {},
                       random_floats(random, s.out_channels),
                       random_floats(random, s.out_channels)};
  if (bitexport::input_index(*node.spec, "R") >= 0) {
    epilogue.residual = random_floats(random, s.output_elements());
  }
  fill_expected(node, x, weight, epilogue, data);
  const std::vector<nvinfer1::PluginTensorDesc> descs = input_descs(node);
  for (const bitexport::InputSpec& input : node.spec->inputs) {
    const std::string_view name = input.name;
    const std::vector<std::uint32_t>& words = weight.words;
    if (name == "X") data.inputs.push_back(encode(activations_of(descs[0]), x, kPoison));
    if (name == "R") data.inputs.push_back(encode(data.output, epilogue.residual, kPoison));
    if (name == "W" || name == "Codes") data.inputs.push_back(bytes_of(words));
    if (name == "CB") data.inputs.push_back(bytes_of(weight.codebook));
    if (name == "Th") data.inputs.push_back(bytes_of(data.threshold));
    if (name == "S") data.inputs.push_back(bytes_of(epilogue.scale));
    if (name == "B") data.inputs.push_back(bytes_of(epilogue.bias));
    if (name == "Slope") data.inputs.push_back(bytes_of(epilogue.slope));
    if (name == "Shift") data.inputs.push_back(bytes_of(epilogue.shift));
    if (name == "Lo") data.inputs.push_back(bytes_of(std::vector<float>{epilogue.low}));
    if (name == "Hi") data.inputs.push_back(bytes_of(std::vector<float>{epilogue.high}));
  }
  return data;
}

void check_output(const LayerData& data, const void* y) {
  const std::vector<float> got = decode(data.output, y);
  std::size_t worst = 0;
  double worst_excess = -1.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(double{got[i]} - data.expected[i]);
    const double excess = std::isnan(error) ? INFINITY : error - data.tolerance[i];
    if (excess > worst_excess) worst = i;
    worst_excess = std::max(worst_excess, excess);
  }
  const bool within = worst_excess <= 0.0 || got.empty();
  CHECK(within);
  CHECK(padding_is_zero(data.output, y));
  if (within) return;
  std::cerr << "  element " << worst << ": got " << got[worst] << ", expected "
            << data.expected[worst] << " within " << data.tolerance[worst] << "\n";
}

}  // namespace bitexport_test
