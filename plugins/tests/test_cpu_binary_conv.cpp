// Every CPU kernel against the plain loops: accumulators equal, epilogues equal bit for bit.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "core/conv_shape.h"
#include "core/reference.h"
#include "core/sign_planes.h"
#include "kernels/cpu/binary_conv.h"
#include "kernels/cpu/variants.h"

namespace {

using bitexport::Activation;
using bitexport::ConvArguments;
using bitexport::ConvShape;
using bitexport::cpu::BinaryConvKernel;
using bitexport::cpu::BinaryConvPlan;
using bitexport::cpu::Epilogue;
using bitexport::cpu::Isa;
using bitexport_test::Random;
using bitexport_test::state;

constexpr float kLow = -1.0f;
constexpr float kHigh = 0.75f;

// What is computed, and the reference's result.
struct Variant {
  Activation activation;
  bool residual;
  std::vector<float> y;
};

struct Case {
  ConvShape shape;
  std::vector<float> x;
  std::vector<float> threshold;
  std::vector<std::uint32_t> weight;
  std::vector<float> scale;
  std::vector<float> bias;
  std::vector<float> residual;
  std::vector<float> slope;
  std::vector<float> shift;
  std::vector<std::int32_t> accumulators;  // the reference's
  std::vector<Variant> variants;
  // Of shapes with one group alone: X, and the result without a residual, as signs.
  std::vector<float> next;
  std::vector<std::uint32_t> x_signs;
  std::vector<std::uint32_t> y_signs;

  bitexport::cpu::SignBounds bounds() const {
    return {shape, scale.data(), bias.data(), next.data()};
  }

  Epilogue epilogue(const Variant& variant, std::int64_t first) const {
    Epilogue result = {scale.data(), bias.data(),
                       variant.residual ? residual.data() + first : nullptr};
    result.activation = variant.activation;
    result.slope = slope.data();
    result.shift = shift.data();
    result.low = kLow;
    result.high = kHigh;
    return result;
  }
};

std::vector<float> random_floats(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.real();
  return values;
}

std::vector<float> reference_y(const Case& c, Activation activation, bool residual) {
  namespace reference = bitexport::reference;
  std::vector<float> y(c.accumulators.size());
  reference::scale_and_shift(c.shape, c.accumulators.data(), c.scale.data(), c.bias.data(),
                             residual ? c.residual.data() : nullptr, y.data());
  if (activation == Activation::kPRelu) {
    reference::prelu_and_shift(c.shape, c.slope.data(), c.shift.data(), y.data());
  }
  if (activation == Activation::kClip) reference::clip(c.shape, kLow, kHigh, y.data());
  return y;
}

// Some sums lie exactly on the next threshold, and some thresholds are no number or infinite.
void add_signs(Random& random, Case& c) {
  const std::vector<float>& y = c.variants.front().y;
  const std::int64_t images = c.shape.batch;
  const std::int64_t channels = c.shape.out_channels;
  const std::int64_t pixels = static_cast<std::int64_t>(y.size()) / images / channels;
  c.next = random_floats(random, channels);
  for (std::int64_t co = 0; co < channels; co += 2) {
    const auto pixel = random.below(static_cast<std::uint32_t>(pixels));
    c.next[static_cast<std::size_t>(co)] = y[static_cast<std::size_t>(co * pixels + pixel)];
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
    const auto co = random.below(static_cast<std::uint32_t>(channels));
    if (channels > 4) c.next[co] = value;
  }
  c.y_signs = bitexport::reference::sign_planes(images, channels, pixels, y.data(), c.next.data());
  c.x_signs = bitexport::reference::sign_planes(
      images, c.shape.in_channels, std::int64_t{c.shape.vertical.size} * c.shape.horizontal.size,
      c.x.data(), c.threshold.data());
}

Case make_case(Random& random, const ConvShape& shape) {
  Case c{shape, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  c.x = random_floats(random, shape.input_elements());
  // NaN is below every threshold; -0 and 0 are equal; infinities are numbers.
  constexpr float kSpecial[] = {std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity(), -0.0f};
  for (const float value : kSpecial) {
    c.x[random.below(static_cast<std::uint32_t>(c.x.size()))] = value;
  }
  c.threshold = random_floats(random, shape.in_channels);
  std::vector<float> signs = random_floats(random, shape.weight_elements());
  for (float& sign : signs) sign = sign < 0 ? -1.0f : 1.0f;
  c.weight.resize(static_cast<std::size_t>(shape.weight_words()));
  const std::int64_t without_sign =
      bitexport::pack_weight(signs.data(), shape.out_channels, shape.in_channels_per_group(),
                             shape.vertical.kernel, shape.horizontal.kernel, c.weight.data());
  CHECK_EQUAL(without_sign, 0);
  c.scale = random_floats(random, shape.out_channels);
  c.bias = random_floats(random, shape.out_channels);
  c.residual = random_floats(random, shape.output_elements());
  for (const float value : kSpecial) {
    c.residual[random.below(static_cast<std::uint32_t>(c.residual.size()))] = value;
  }
  // Negative slopes, and some above 1.
  c.slope = random_floats(random, shape.out_channels);
  for (float& slope : c.slope) slope *= 1.5f;
  c.shift = random_floats(random, shape.out_channels);
  c.accumulators.resize(static_cast<std::size_t>(shape.output_elements()));
  bitexport::reference::binary_conv(shape, c.x.data(), c.threshold.data(), c.weight.data(),
                                    c.accumulators.data());
  const bool turn = random.below(2) == 0;
  c.variants = {{Activation::kNone, false, {}},
                {Activation::kNone, true, {}},
                {Activation::kPRelu, turn, {}},
                {Activation::kClip, !turn, {}}};
  for (Variant& v : c.variants) v.y = reference_y(c, v.activation, v.residual);
  if (shape.group == 1) add_signs(random, c);
  return c;
}

// An aligned workspace with poison after its end.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : bytes_((bytes + 63) / 64 * 64),
        memory_(static_cast<std::uint8_t*>(std::aligned_alloc(64, bytes_ + 64))) {
    for (std::size_t i = 0; i < bytes_ + 64; ++i) memory_[i] = 0xa5;
  }
  ~Workspace() { std::free(memory_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() { return memory_; }
  bool end_untouched() const {
    for (std::size_t i = bytes_; i < bytes_ + 64; ++i) {
      if (memory_[i] != 0xa5) return false;
    }
    return true;
  }

 private:
  std::size_t bytes_;
  std::uint8_t* memory_;
};

// The same number, or a NaN twice.
void check_same(float got, float want) {
  if (std::isnan(want)) {
    CHECK(std::isnan(got));
  } else {
    CHECK_EQUAL(got, want);
  }
}

void check_image(const Case& c, const BinaryConvPlan& plan, std::int32_t image) {
  const ConvShape& shape = c.shape;
  const std::int64_t inputs = shape.input_elements() / shape.batch;
  const std::int64_t outputs = shape.output_elements() / shape.batch;
  Workspace workspace(plan.workspace_bytes());
  // Backwards: the order of units must not matter.
  for (std::int32_t unit = plan.pack_units() - 1; unit >= 0; --unit) {
    plan.pack(unit, c.x.data() + image * inputs, c.threshold.data(), workspace.data());
  }
  CHECK(workspace.end_untouched());
  std::vector<std::int32_t> accumulators(static_cast<std::size_t>(outputs), -1);
  for (std::int32_t unit = plan.conv_units() - 1; unit >= 0; --unit) {
    plan.accumulate(unit, workspace.data(), accumulators.data());
  }
  const auto first = static_cast<std::size_t>(image * outputs);
  for (std::size_t i = 0; i < accumulators.size(); ++i) {
    CHECK_EQUAL(accumulators[i], c.accumulators[first + i]);
  }
  for (const Variant& variant : c.variants) {
    const Epilogue epilogue = c.epilogue(variant, image * outputs);
    std::vector<float> y(static_cast<std::size_t>(outputs));
    for (std::int32_t unit = plan.conv_units() - 1; unit >= 0; --unit) {
      plan.convolve(unit, workspace.data(), epilogue, y.data());
    }
    for (std::size_t i = 0; i < y.size(); ++i) check_same(y[i], variant.y[first + i]);
  }
}

// From and to signs; the packed activations must be those of the floats.
void check_signs(const Case& c, const BinaryConvPlan& plan, std::int32_t image) {
  const ConvShape& shape = c.shape;
  Workspace workspace(plan.workspace_bytes());
  const auto input = c.x_signs.size() / static_cast<std::size_t>(shape.batch);
  const std::int64_t inputs = shape.input_elements() / shape.batch;
  for (std::int32_t unit = plan.pack_units() - 1; unit >= 0; --unit) {
    if (shape.in_channels >= bitexport::kFewestSigns) {
      plan.pack_signs(unit, c.x_signs.data() + static_cast<std::size_t>(image) * input,
                      workspace.data());
    } else {
      plan.pack(unit, c.x.data() + image * inputs, c.threshold.data(), workspace.data());
    }
  }
  CHECK(workspace.end_untouched());
  const auto output = c.y_signs.size() / static_cast<std::size_t>(shape.batch);
  const auto first = static_cast<std::size_t>(image) * output;
  // The word after the last one stays.
  std::vector<std::uint32_t> words(output + 1, 0xa5a5a5a5u);
  for (std::int32_t unit = plan.sign_units() - 1; unit >= 0; --unit) {
    plan.convolve_to_signs(unit, workspace.data(), c.bounds(), words.data());
  }
  for (std::size_t i = 0; i < output; ++i) CHECK_EQUAL(words[i], c.y_signs[first + i]);
  CHECK_EQUAL(words[output], 0xa5a5a5a5u);
}

void check_kernel(const Case& c, const BinaryConvKernel& kernel) {
  const auto plan = kernel.plan(c.shape);
  for (std::int32_t image = 0; image < c.shape.batch; ++image) {
    check_image(c, *plan, image);
    if (c.shape.group == 1) check_signs(c, *plan, image);
  }
}

void check_shape(Random& random, const ConvArguments& arguments, const ConvShape& shape,
                 const std::vector<Isa>& isas) {
  const Case c = make_case(random, shape);
  const std::string text = bitexport_test::to_string(arguments);
  for (const Isa isa : isas) {
    state().where = std::string(isa_name(isa)) + " " + text;
    check_kernel(c, *bitexport::cpu::make_binary_conv(shape, c.weight.data(), isa));
  }
#if defined(BITEXPORT_HAVE_X86)
  // Also the shapes at which it is too slow to be chosen.
  if (isas.back() == Isa::kAmx) {
    state().where = "amx, unasked, " + text;
    check_kernel(c, *bitexport::cpu::make_amx(shape, c.weight.data()));
  }
#endif
}

// Two threads take every other unit.
void check_threads(Random& random, const ConvShape& shape, Isa isa) {
  const Case c = make_case(random, shape);
  const auto kernel = bitexport::cpu::make_binary_conv(shape, c.weight.data(), isa);
  // Two sessions' first images may ask for a plan at the same time.
  std::unique_ptr<const BinaryConvPlan> plan;
  std::unique_ptr<const BinaryConvPlan> other;
  std::thread planner([&] { other = kernel->plan(shape); });
  plan = kernel->plan(shape);
  planner.join();
  CHECK_EQUAL(other->workspace_bytes(), plan->workspace_bytes());
  Workspace workspace(plan->workspace_bytes());
  // With a residual, and an activation.
  const Variant& variant = c.variants[1];
  const Variant& activated = c.variants[2];
  std::vector<float> y(variant.y.size());
  std::vector<float> z(variant.y.size());
  const auto in_two = [](std::int32_t units, auto work) {
    std::thread odd([&] {
      for (std::int32_t unit = 1; unit < units; unit += 2) work(unit);
    });
    for (std::int32_t unit = 0; unit < units; unit += 2) work(unit);
    odd.join();
  };
  in_two(plan->pack_units(), [&](std::int32_t unit) {
    plan->pack(unit, c.x.data(), c.threshold.data(), workspace.data());
  });
  in_two(plan->conv_units(), [&](std::int32_t unit) {
    plan->convolve(unit, workspace.data(), c.epilogue(variant, 0), y.data());
    plan->convolve(unit, workspace.data(), c.epilogue(activated, 0), z.data());
  });
  for (std::size_t i = 0; i < y.size(); ++i) {
    check_same(y[i], variant.y[i]);
    check_same(z[i], activated.y[i]);
  }
  if (shape.group > 1) return;
  in_two(plan->pack_units(),
         [&](std::int32_t unit) { plan->pack_signs(unit, c.x_signs.data(), workspace.data()); });
  std::vector<std::uint32_t> words(c.y_signs.size());
  in_two(plan->sign_units(), [&](std::int32_t unit) {
    plan->convolve_to_signs(unit, workspace.data(), c.bounds(), words.data());
  });
  for (std::size_t i = 0; i < words.size(); ++i) CHECK_EQUAL(words[i], c.y_signs[i]);
}

bool refuses(const BinaryConvKernel& kernel, const ConvShape& shape) {
  try {
    kernel.plan(shape);
  } catch (const std::length_error&) {
    return true;
  }
  return false;
}

// A pixel with far pads: an output channel of more pixels than 32 bits count. No kernel may crash;
// the portable one counts rows alone.
void check_too_many_pixels(Isa isa) {
  const auto result =
      bitexport::make_conv_shape({{1, 2, 1, 1}, {1, 2, 1, 1}, {1, 1}, {0, 0, 46341, 46341}});
  CHECK(result.ok());
  const std::uint32_t weight = 1;
  const auto kernel = bitexport::cpu::make_binary_conv(result.shape, &weight, isa);
  CHECK_EQUAL(refuses(*kernel, result.shape), isa != Isa::kPortable);
#if defined(BITEXPORT_HAVE_X86)
  if (isa == Isa::kAmx) {
    CHECK(refuses(*bitexport::cpu::make_amx(result.shape, &weight), result.shape));
  }
#endif
}

ConvArguments square(std::int64_t in, std::int64_t out, std::int64_t size, std::int64_t kernel,
                     std::int64_t stride, std::int64_t group = 1) {
  const std::int64_t pad = kernel / 2;
  return {{1, in, size, size},
          {out, in / group, kernel, kernel},
          {stride, stride},
          {pad, pad, pad, pad},
          {1, 1},
          group};
}

}  // namespace

int main() {
  Random random(20261121);
  std::vector<Isa> isas = bitexport::cpu::usable_isas();
#if defined(BITEXPORT_EMULATED_AMX)
  // The other kernels are those of the test without the emulation.
  if (isas.back() != Isa::kAmx) {
    std::cout << "no AVX-512 VPOPCNTDQ, which the kernel for AMX needs beside it\n";
    return bitexport_test::kSkipped;
  }
  isas = {Isa::kAmx};
#endif
  for (const Isa isa : isas) std::cout << "kernel: " << isa_name(isa) << "\n";

  constexpr std::array<std::int64_t, 7> kChannels = {1, 3, 4, 5, 33, 64, 67};
  bitexport_test::for_each_conv_case(kChannels,
                                     [&](const ConvArguments& arguments, const ConvShape& shape) {
                                       check_shape(random, arguments, shape, isas);
                                     });
  // Layers of real networks: many tiles, many blocks of taps, more than 32 pairs of channels, odd
  // channel counts, depthwise, a linear layer.
  const ConvArguments layers[] = {
      square(64, 64, 20, 3, 1),
      square(64, 128, 23, 3, 2),
      square(512, 70, 7, 3, 1),
      square(130, 5, 15, 5, 1),
      square(32, 32, 13, 3, 1, 32),
      square(96, 67, 14, 1, 2),
      square(9216, 65, 1, 1, 1),
      square(40, 24, 17, 3, 3, 4),
      square(16, 130, 40, 1, 1),
      square(8000, 2, 3, 3, 1),
      square(40, 80, 70, 3, 2, 40),
      square(3, 3, 90, 8, 1, 3),
      square(3, 3, 20, 9, 1, 3),
      square(24, 9, 12, 9, 1),
      square(64, 17, 30, 5, 1),
      square(25000, 3, 2, 1, 1),
      square(100, 40, 2, 3, 1),
      square(33, 9, 1, 3, 1),
      // Images whose pixels leave much of a vector empty: one to four vectors of output channels,
      // two tiles of them, several blocks and units, taps that fill no group of look-ups up, and
      // pairs of pixels on padding alone.
      square(96, 160, 7, 3, 1),
      square(520, 110, 7, 3, 1),
      square(270, 576, 9, 3, 2, 3),
      square(200, 96, 14, 2, 1),
      // Whole strips of 64 pixels, and of less; several units of strips and of channels.
      square(70, 48, 24, 1, 1),
      square(64, 96, 60, 3, 1),
      square(140, 33, 33, 3, 2),
      // Chunks of output channels that are no whole words of signs.
      square(96, 200, 6, 1, 1),
      square(64, 300, 9, 3, 1),
      square(32, 72, 2, 3, 1),
      // Accumulators that need 17 bits with their sign, where counters need 16.
      square(4000, 40, 3, 3, 1),
      square(4000, 70, 3, 3, 1),
      square(799, 128, 13, 1, 1),
      {{2, 140, 7, 9}, {96, 140, 3, 2}, {2, 1}, {9, 1, 0, 5}, {2, 3}},
      // Depthwise: several units, rows of every kind, more pixels than a stage holds, two output
      // channels of an input channel, and a row wider than a stage.
      square(150, 150, 7, 3, 1, 150),
      square(30, 60, 14, 3, 1, 30),
      square(20, 20, 35, 5, 2, 20),
      square(9, 9, 16, 3, 2, 9),
      square(2, 2, 80, 3, 1, 2),
      square(7, 7, 29, 3, 3, 7),
      square(300, 300, 2, 1, 1, 300),
      square(5, 5, 6, 2, 1, 5),
      {{2, 2, 3, 4200}, {2, 1, 3, 3}, {1, 1}, {0, 1, 2, 0}, {1, 1}, 2},
      {{1, 3, 24, 31}, {3, 1, 3, 3}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 3},
      // Kernels of many columns, pads wider than the image, strides and dilations of either axis.
      {{1, 12, 6, 90}, {4, 12, 2, 66}, {1, 1}, {1, 40, 0, 70}},
      {{2, 12, 6, 91}, {4, 12, 2, 40}, {1, 2}, {1, 40, 0, 70}},
      {{1, 12, 9, 37}, {4, 12, 3, 4}, {2, 3}, {5, 60, 3, 80}, {3, 2}},
      {{1, 9, 40, 3}, {5, 9, 5, 3}, {4, 1}, {50, 0, 20, 9}, {2, 1}},
      // Strides past the image.
      {{1, 70, 2, 50}, {40, 70, 1, 9}, {1000, 1}, {0, 4, 0, 4}},
      {{2, 66, 3, 4}, {34, 66, 3, 3}, {7, 9}, {1, 1, 2, 3}},
  };
  for (const ConvArguments& arguments : layers) {
    const bitexport::ConvShapeResult result = bitexport::make_conv_shape(arguments);
    CHECK(result.ok());
#if defined(BITEXPORT_TEST_PART)
    // A sanitized emulation takes long.
    if (result.shape.output_elements() * result.shape.in_channels > 2'000'000) continue;
#endif
    check_shape(random, arguments, result.shape, isas);
  }
  state().where = "threads";
  for (const Isa isa : isas) {
    // Many tiles, and a single one.
    check_threads(random, bitexport::make_conv_shape(square(64, 64, 30, 3, 1)).shape, isa);
    check_threads(random, bitexport::make_conv_shape(square(256, 96, 7, 3, 1)).shape, isa);
    check_threads(random, bitexport::make_conv_shape(square(96, 96, 15, 3, 2, 96)).shape, isa);
    check_threads(random, bitexport::make_conv_shape(square(300, 300, 7, 3, 1, 300)).shape, isa);
  }
  state().where = "too many pixels";
  for (const Isa isa : isas) check_too_many_pixels(isa);
  return bitexport_test::finish();
}
