// The CUDA kernels of BinaryConv, run block by block by the emulator, against the plain loops:
// accumulators equal, Y equal bit for bit.

#include <array>
#include <cstdint>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "core/reference.h"
#include "cuda_tensors.h"
#include "emulated_conv.h"

namespace {

using bitexport::Activation;
using bitexport::ConvArguments;
using bitexport::ConvShape;
using namespace bitexport::cuda;
using namespace bitexport_test;

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
};

constexpr float kLow = -1.0f;
constexpr float kHigh = 0.75f;

Case make_case(Random& random, const ConvShape& shape) {
  Case c{shape, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  c.x = random_floats(random, shape.input_elements());
  // NaN is below every threshold; -0 and 0 are equal; infinities are numbers.
  constexpr float kSpecial[] = {std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity(), -0.0f};
  for (const float value : kSpecial) {
    if (!c.x.empty()) c.x[random.below(static_cast<std::uint32_t>(c.x.size()))] = value;
  }
  c.threshold = random_floats(random, shape.in_channels);
  std::vector<float> signs = random_floats(random, shape.weight_elements());
  for (float& sign : signs) sign = sign < 0 ? -1.0f : 1.0f;
  c.weight.resize(static_cast<std::size_t>(shape.weight_words()));
  CHECK_EQUAL(
      bitexport::pack_weight(signs.data(), shape.out_channels, shape.in_channels_per_group(),
                             shape.vertical.kernel, shape.horizontal.kernel, c.weight.data()),
      0);
  c.scale = random_floats(random, shape.out_channels);
  c.bias = random_floats(random, shape.out_channels);
  c.residual = random_floats(random, shape.output_elements());
  c.slope = random_floats(random, shape.out_channels);
  c.shift = random_floats(random, shape.out_channels);
  c.accumulators.resize(static_cast<std::size_t>(shape.output_elements()));
  bitexport::reference::binary_conv(shape, c.x.data(), c.threshold.data(), c.weight.data(),
                                    c.accumulators.data());
  return c;
}

// One way to compute a case.
struct Variant {
  int tactic;
  DataType type;
  Layout layout;
  bool residual;
  Activation activation;
};

const auto visit_plan = [](const ConvPlan& plan, auto visit) {
  switch (plan.tactic.family) {
    case Family::kXor:
      return visit_binary_block<MmaOp::kXorPopc>(plan.tactic.tile, plan.chunk_bytes, visit);
    case Family::kAnd:
      return visit_binary_block<MmaOp::kAndPopc>(plan.tactic.tile, plan.chunk_bytes, visit);
    default:
      return visit_binary_block<MmaOp::kBytes>(plan.tactic.tile, plan.chunk_bytes, visit);
  }
};

void run(const ConvProblem& problem, ConvBuffers& buffers, int tactic, std::int32_t* accumulators) {
  ConvPlan plan;
  CHECK(make_conv_plan(problem, buffers, tactic, accumulators, &plan));
  DeviceBuffer workspace(plan.workspace_bytes);
  buffers.workspace = workspace.data();
  CHECK(make_conv_plan(problem, buffers, tactic, accumulators, &plan));
  if (plan.tactic.family == Family::kDirect) {
    emulate_direct<WeightKind::kBinary>(plan);
    return;
  }
  emulate_plan(plan, visit_plan);
}

void check_case(const Case& c, const Variant& variant) {
  const ConvShape& shape = c.shape;
  const TensorForm in = {variant.type, variant.layout, shape.batch, shape.in_channels,
                         std::int64_t{1} * shape.vertical.size * shape.horizontal.size};
  const TensorForm out = {
      variant.type, variant.layout, shape.batch, shape.out_channels,
      std::int64_t{1} * shape.vertical.out_size() * shape.horizontal.out_size()};
  state().where += ", tactic " + std::to_string(variant.tactic) + " " + to_string(in) +
                   (variant.residual ? " residual" : "") + " activation " +
                   std::to_string(static_cast<int>(variant.activation));
  DeviceBuffer x(in.bytes());
  DeviceBuffer residual(out.bytes());
  DeviceBuffer y(out.bytes());
  put_tensor(in, c.x, x);
  put_tensor(out, c.residual, residual);
  const ConvProblem problem = {
      shape, WeightKind::kBinary, variant.type, variant.layout, variant.residual, 0,
      0,     variant.activation};
  ConvBuffers buffers = {x.data(),       c.weight.data(), nullptr,         c.threshold.data(),
                         c.scale.data(), c.bias.data(),   residual.data(), y.data(),
                         nullptr,        c.slope.data(),  c.shift.data(),  &kLow,
                         &kHigh};
  run(problem, buffers, variant.tactic, nullptr);
  std::vector<float> expected(c.accumulators.size());
  bitexport::reference::scale_and_shift(shape, c.accumulators.data(), c.scale.data(), c.bias.data(),
                                        variant.residual ? c.residual.data() : nullptr,
                                        expected.data());
  if (variant.activation == Activation::kPRelu) {
    bitexport::reference::prelu_and_shift(shape, c.slope.data(), c.shift.data(), expected.data());
  } else if (variant.activation == Activation::kClip) {
    bitexport::reference::clip(shape, kLow, kHigh, expected.data());
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK_EQUAL(get_element(out, y, static_cast<std::int64_t>(i)), rounded(out, expected[i]));
  }
  check_padding(out, y);
}

void check_accumulators(const Case& c, const Variant& variant) {
  const ConvShape& shape = c.shape;
  const TensorForm in = {variant.type, variant.layout, shape.batch, shape.in_channels,
                         std::int64_t{1} * shape.vertical.size * shape.horizontal.size};
  DeviceBuffer x(in.bytes());
  put_tensor(in, c.x, x);
  DeviceBuffer accumulators(c.accumulators.size() * 4);
  const ConvProblem problem = {shape, WeightKind::kBinary, variant.type, variant.layout, false, 0,
                               0};
  ConvBuffers buffers = {x.data(), c.weight.data(), nullptr, c.threshold.data(), nullptr, nullptr,
                         nullptr,  nullptr,         nullptr};
  run(problem, buffers, variant.tactic, accumulators.as<std::int32_t>());
  for (std::size_t i = 0; i < c.accumulators.size(); ++i) {
    CHECK_EQUAL(accumulators.as<std::int32_t>()[i], c.accumulators[i]);
  }
}

ConvArguments square(std::int64_t batch, std::int64_t in, std::int64_t out, std::int64_t size,
                     std::int64_t kernel, std::int64_t stride, std::int64_t group = 1) {
  const std::int64_t pad = kernel / 2;
  return {{batch, in, size, size},
          {out, in / group, kernel, kernel},
          {stride, stride},
          {pad, pad, pad, pad},
          {1, 1},
          group};
}

// Takes the families, tiles, types and layouts in turn, so that each meets each kind of shape.
class Variants {
 public:
  Variant next(const ConvProblem& problem) {
    static constexpr Family kFamilies[] = {Family::kXor, Family::kAnd, Family::kBytes};
    static constexpr Layout kLayouts[] = {Layout::kNchw, Layout::kNchw, Layout::kNhwc8};
    const std::size_t turn = turn_++;
    const Layout layout = kLayouts[turn % 3];
    ConvProblem own = problem;
    own.layout = layout;
    own.type = turn % 3 == 0 ? DataType::kFloat32 : DataType::kFloat16;
    const Family family = kFamilies[turn / 3 % 3];
    int tactic = conv_tactic(Family::kDirect, 0);
    if (turn % 31 == 0) {
      tactic = kReferenceTactic;
    } else if (family_takes(family, own)) {
      ConvPlan plan;
      do {
        tactic = conv_tactic(family, static_cast<int>(tile_++ % kTileCount));
        CHECK(make_conv_plan(own, ConvBuffers{}, tactic, nullptr, &plan));
      } while (!is_emulated(plan, visit_plan));
    }
    // Out of step with layouts and families.
    return {tactic, own.type, layout, turn % 4 == 1, static_cast<Activation>(turn / 9 % 3)};
  }

 private:
  std::size_t tile_ = 0;
  std::size_t turn_ = 0;
};

}  // namespace

int main() {
  Random random(20261121);
  Variants variants;
  std::size_t count = 0;
  constexpr std::array<std::int64_t, 8> kChannels = {1, 33, 64, 8, 128, 5, 260, 96};
  for_each_conv_case(kChannels, [&](const ConvArguments& arguments, const ConvShape& shape) {
    if (count++ % 3 != 0) return;
    state().where = to_string(arguments);
    const Case c = make_case(random, shape);
    const Variant variant =
        variants.next({shape, WeightKind::kBinary, DataType::kFloat16, Layout::kNchw, false, 0, 0});
    check_case(c, variant);
    if (count % 8 == 0) check_accumulators(c, variant);
  });
  // Layers of real networks: many tiles both ways, many k tiles, odd channel counts, groups, empty
  // and larger batches.
  const ConvArguments layers[] = {
      square(3, 64, 70, 9, 3, 1),     square(1, 64, 128, 15, 3, 2),   square(1, 512, 70, 7, 3, 1),
      square(3, 130, 5, 7, 5, 1),     square(1, 32, 32, 9, 3, 1, 32), square(1, 96, 67, 14, 1, 2),
      square(140, 1100, 65, 1, 1, 1), square(1, 40, 24, 11, 3, 3, 4), square(0, 64, 64, 8, 3, 1),
      square(1, 16, 13, 9, 7, 1),     square(1, 256, 48, 5, 3, 1, 2), square(1, 48, 24, 9, 3, 1, 3),
  };
  for (const ConvArguments& arguments : layers) {
    const bitexport::ConvShapeResult result = bitexport::make_conv_shape(arguments);
    CHECK(result.ok());
    const Case c = make_case(random, result.shape);
    for (int i = 0; i < 5; ++i) {
      state().where = to_string(arguments);
      const Variant variant = variants.next(
          {result.shape, WeightKind::kBinary, DataType::kFloat16, Layout::kNchw, false, 0, 0});
      check_case(c, variant);
      check_accumulators(c, variant);
    }
  }
  return finish();
}
