// The CUDA kernels of SignConv and CodebookConv, run block by block by the emulator, against the
// plain loops.
//
// The numbers are multiples of 2^-8 (2^-4 for centroids), so that every product and every sum is
// exact in float32: Y is equal bit for bit. Float32 with all its bits is checked within 2^-20 of
// the sum of the products' magnitudes: 2^-23 for each product, and float32 additions.

#include <array>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "core/reference.h"
#include "cuda_tensors.h"
#include "emulated_conv.h"

namespace {

using bitexport::CodeBits;
using bitexport::ConvArguments;
using bitexport::ConvShape;
using namespace bitexport::cuda;
using namespace bitexport_test;

// Numbers and what they make, as floats in NCHW.
struct Case {
  ConvProblem problem;
  std::vector<float> x;
  std::vector<std::uint32_t> words;
  std::vector<std::uint16_t> centroids;
  std::vector<float> weight;  // [Co, Ci/group, kh, kw]
  std::vector<float> scale;
  std::vector<float> bias;
  std::vector<float> residual;
};

void make_codes(Random& random, Case& c) {
  const ConvShape& shape = c.problem.shape;
  const CodeBits bits = c.problem.kind == WeightKind::kCodebook8 ? CodeBits::k8 : CodeBits::k16;
  const std::int64_t row = std::int64_t{shape.in_channels_per_group()} * shape.taps();
  const std::int64_t blocks = row / c.problem.depth;
  const std::int64_t words = bitexport::code_words(blocks, bits);
  c.words.resize(static_cast<std::size_t>(shape.out_channels * words));
  for (std::int32_t co = 0; co < shape.out_channels; ++co) {
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(blocks));
    for (std::uint16_t& code : codes) {
      code =
          static_cast<std::uint16_t>(random.below(static_cast<std::uint32_t>(c.problem.entries)));
    }
    CHECK(bitexport::pack_codes(codes.data(), blocks, bits, c.words.data() + co * words));
  }
  std::vector<float> centroids(static_cast<std::size_t>(c.problem.entries * c.problem.depth));
  for (float& number : centroids) {
    number = (static_cast<float>(random.below(33)) - 16.0f) / 16.0f;
    c.centroids.push_back(bitexport::float_to_half(number));
  }
  c.weight.resize(static_cast<std::size_t>(shape.weight_elements()));
  CHECK(bitexport::reference::expand_codebook(c.words.data(), shape.out_channels, blocks, bits,
                                              centroids.data(), c.problem.entries, c.problem.depth,
                                              c.weight.data()));
}

void make_signs(Random& random, Case& c) {
  const ConvShape& shape = c.problem.shape;
  c.weight = random_floats(random, shape.weight_elements());
  for (float& sign : c.weight) sign = sign < 0 ? -1.0f : 1.0f;
  c.words.resize(static_cast<std::size_t>(shape.weight_words()));
  CHECK_EQUAL(
      bitexport::pack_weight(c.weight.data(), shape.out_channels, shape.in_channels_per_group(),
                             shape.vertical.kernel, shape.horizontal.kernel, c.words.data()),
      0);
}

Case make_case(Random& random, const ConvProblem& problem) {
  Case c = {problem, {}, {}, {}, {}, {}, {}, {}};
  c.x = random_floats(random, problem.shape.input_elements());
  if (problem.kind == WeightKind::kSign) {
    make_signs(random, c);
  } else {
    make_codes(random, c);
  }
  c.scale = random_floats(random, problem.shape.out_channels);
  c.bias = random_floats(random, problem.shape.out_channels);
  c.residual = random_floats(random, problem.shape.output_elements());
  return c;
}

const auto visit_plan = [](const ConvPlan& plan, auto visit) {
  switch (plan.tactic.family) {
    case Family::kSigns:
      return visit_real_block<WeightSource::kSigns>(plan.type, plan.tactic.tile, visit);
    case Family::kCodes:
      return visit_real_block<WeightSource::kCodes>(plan.type, plan.tactic.tile, visit);
    default:
      return visit_real_block<WeightSource::kDense>(plan.type, plan.tactic.tile, visit);
  }
};

void run(const ConvProblem& problem, ConvBuffers& buffers, int tactic) {
  ConvPlan plan;
  CHECK(make_conv_plan(problem, buffers, tactic, nullptr, &plan));
  DeviceBuffer workspace(plan.workspace_bytes);
  buffers.workspace = workspace.data();
  CHECK(make_conv_plan(problem, buffers, tactic, nullptr, &plan));
  if (plan.tactic.family != Family::kDirect) {
    emulate_plan(plan, visit_plan);
    return;
  }
  switch (problem.kind) {
    case WeightKind::kSign:
      return emulate_direct<WeightKind::kSign>(plan);
    case WeightKind::kCodebook8:
      return emulate_direct<WeightKind::kCodebook8>(plan);
    default:
      return emulate_direct<WeightKind::kCodebook16>(plan);
  }
}

TensorForm form_of(const ConvProblem& problem, std::int64_t channels, const ConvShape& shape,
                   bool out) {
  const std::int64_t in_plane = std::int64_t{1} * shape.vertical.size * shape.horizontal.size;
  const std::int64_t out_plane =
      std::int64_t{1} * shape.vertical.out_size() * shape.horizontal.out_size();
  return {problem.type, problem.layout, shape.batch, channels, out ? out_plane : in_plane};
}

// Where `exact` is false, an element may differ by 2^-20 of what its products amount to.
void check_case(const Case& c, int tactic, bool exact) {
  const ConvShape& shape = c.problem.shape;
  const TensorForm in = form_of(c.problem, shape.in_channels, shape, false);
  const TensorForm out = form_of(c.problem, shape.out_channels, shape, true);
  state().where += ", tactic " + std::to_string(tactic) + " " + to_string(in) + " depth " +
                   std::to_string(c.problem.depth) + (c.problem.residual ? " residual" : "");
  DeviceBuffer x(in.bytes());
  DeviceBuffer residual(out.bytes());
  DeviceBuffer y(out.bytes());
  DeviceBuffer codebook(c.centroids.size() * 2);
  put_tensor(in, c.x, x);
  put_tensor(out, c.residual, residual);
  if (!c.centroids.empty()) {
    std::memcpy(codebook.data(), c.centroids.data(), c.centroids.size() * 2);
  }
  ConvBuffers buffers = {x.data(),      c.words.data(),  codebook.data(), nullptr, c.scale.data(),
                         c.bias.data(), residual.data(), y.data(),        nullptr};
  run(c.problem, buffers, tactic);
  const auto activation = [&](std::int32_t n, std::int32_t ci, std::int32_t h, std::int32_t w) {
    return c.x[static_cast<std::size_t>(bitexport::reference::input_index(shape, n, ci, h, w))];
  };
  const auto magnitude = [&](std::int32_t n, std::int32_t ci, std::int32_t h, std::int32_t w) {
    return std::fabs(activation(n, ci, h, w));
  };
  const auto weight = [&](std::int32_t co, std::int32_t channel, std::int32_t kh, std::int32_t kw) {
    const std::int64_t per_group = shape.in_channels_per_group();
    return c.weight[static_cast<std::size_t>((co * per_group + channel) * shape.taps() +
                                             kh * shape.horizontal.kernel + kw)];
  };
  const auto weight_magnitude = [&](auto... at) { return std::fabs(weight(at...)); };
  bitexport::reference::for_each_output(
      shape, [&](auto n, auto co, auto row, auto column, std::int64_t index) {
        const double sum = bitexport::reference::convolve_at<double>(shape, n, co, row, column,
                                                                     activation, weight);
        const float scale = c.scale[static_cast<std::size_t>(co)];
        float expected = scale * static_cast<float>(sum);
        expected += c.bias[static_cast<std::size_t>(co)];
        if (c.problem.residual) expected += c.residual[static_cast<std::size_t>(index)];
        const float got = get_element(out, y, index);
        if (exact) {
          CHECK_EQUAL(got, rounded(out, expected));
          return;
        }
        const double products = bitexport::reference::convolve_at<double>(
            shape, n, co, row, column, magnitude, weight_magnitude);
        // The epilogue rounds two or three times, each within half a unit of float32.
        const double bound = std::fabs(scale) * products * 0x1p-20 + 0x1p-21;
        CHECK(std::fabs(got - expected) <= bound);
      });
  check_padding(out, y);
}

// Takes kinds, types, layouts, families, tiles and depths in turn.
class Variants {
 public:
  ConvProblem next_problem(const ConvShape& shape) {
    static constexpr WeightKind kKinds[] = {WeightKind::kSign, WeightKind::kCodebook8,
                                            WeightKind::kSign, WeightKind::kCodebook16};
    const std::size_t turn = turn_++;
    ConvProblem problem = {
        shape, kKinds[turn % 4], DataType::kFloat16, Layout::kNhwc8, turn % 5 == 1, 0, 0};
    if (turn % 3 == 0) problem.type = DataType::kFloat32;
    if (turn % 3 != 1) problem.layout = Layout::kNchw;
    if (problem.kind != WeightKind::kSign) {
      problem.depth = depth(shape.in_channels_per_group() * shape.taps(), turn);
      problem.entries = problem.kind == WeightKind::kCodebook8 ? 200 : 300;
    }
    return problem;
  }
  int next_tactic(const ConvProblem& problem) {
    // All devices' tactics: 90 has the instructions and the shared memory for each of them.
    std::array<int, 16> tactics{};
    const int count = list_conv_tactics(problem, 90, tactics.data(), 16);
    CHECK(1 <= count && count <= 16);
    if (turn_ % 29 == 0) return kReferenceTactic;
    ConvPlan plan;
    int tactic;
    do {
      tactic = tactics[which_++ % static_cast<std::size_t>(count)];
      CHECK(make_conv_plan(problem, ConvBuffers{}, tactic, nullptr, &plan));
    } while (!is_emulated(plan, visit_plan));
    return tactic;
  }

 private:
  static std::int32_t depth(std::int32_t row, std::size_t turn) {
    static constexpr std::int32_t kDepths[] = {8, 9, 4, 16, 18, 3, 2, 1};
    for (std::size_t i = 0; i < 8; ++i) {
      const std::int32_t depth = kDepths[(turn / 2 + i) % 8];
      if (row % depth == 0) return depth;
    }
    return 1;
  }

  std::size_t turn_ = 0;
  std::size_t which_ = 0;
};

// Numbers with all the bits that a float has, down to small and up to large ones.
void fill_all_bits(Random& random, Case& c) {
  for (float& number : c.x) {
    const float fraction = 1.0f + static_cast<float>(random.below(1u << 23)) * 0x1p-23f;
    const int exponent = static_cast<int>(random.below(12)) - 8;
    number = std::ldexp(random.below(2) == 0 ? fraction : -fraction, exponent);
  }
}

}  // namespace

int main() {
  Random random(20261121);
  Variants variants;
  std::size_t count = 0;
  constexpr std::array<std::int64_t, 7> kChannels = {1, 40, 8, 64, 5, 72, 35};
  for_each_conv_case(kChannels, [&](const ConvArguments& arguments, const ConvShape& shape) {
    if (count++ % 5 != 0) return;
    state().where = to_string(arguments);
    Case c = make_case(random, variants.next_problem(shape));
    const bool exact = c.problem.type == DataType::kFloat16 || count % 2 == 0;
    if (!exact) fill_all_bits(random, c);
    check_case(c, variants.next_tactic(c.problem), exact);
  });
  // Layers of real networks: many tiles both ways, groups, depthwise, a linear layer, no images.
  const ConvArguments layers[] = {
      {{2, 64, 12, 12}, {72, 64, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
      {{1, 256, 9, 9}, {140, 256, 1, 1}, {2, 2}, {0, 0, 0, 0}, {1, 1}, 1},
      {{1, 32, 9, 9}, {32, 1, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 32},
      {{1, 48, 9, 9}, {24, 16, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 3},
      {{70, 520, 1, 1}, {65, 520, 1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
      {{0, 64, 8, 8}, {64, 64, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
      {{1, 3, 16, 16}, {64, 3, 7, 7}, {2, 2}, {3, 3, 3, 3}, {1, 1}, 1},
  };
  for (const ConvArguments& arguments : layers) {
    const bitexport::ConvShapeResult result = bitexport::make_conv_shape(arguments);
    CHECK(result.ok());
    for (int i = 0; i < 8; ++i) {
      state().where = to_string(arguments);
      Case c = make_case(random, variants.next_problem(result.shape));
      const bool exact = c.problem.type == DataType::kFloat16;
      if (!exact) fill_all_bits(random, c);
      check_case(c, variants.next_tactic(c.problem), exact);
    }
  }
  return finish();
}
