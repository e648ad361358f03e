// CodebookGemm's kernels, run by the emulator, against plain loops. The numbers are multiples of
// 2^-8 and 2^-4, so that float32 sums are exact and Y is equal bit for bit.

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "core/reference.h"
#include "cuda_tensors.h"
#include "emulated_conv.h"
#include "kernels/cuda/gemm_plan.h"

namespace {

using namespace bitexport::cuda;
using namespace bitexport_test;

struct Case {
  GemmProblem problem;
  std::vector<float> x;
  std::vector<std::uint32_t> codes;
  std::vector<std::uint16_t> centroids;
  std::vector<float> weight;
  std::vector<float> scale;
  std::vector<float> bias;
};

Case make_case(Random& random, const GemmProblem& problem) {
  Case c = {problem, {}, {}, {}, {}, {}, {}};
  const std::int64_t blocks = problem.in_features / problem.depth;
  const std::int64_t words = bitexport::code_words(blocks, bitexport::CodeBits::k16);
  c.x = random_floats(random, std::int64_t{problem.batch} * problem.in_features);
  c.scale = random_floats(random, problem.out_features);
  c.bias = random_floats(random, problem.out_features);
  c.codes.resize(static_cast<std::size_t>(problem.out_features * words));
  for (std::int32_t o = 0; o < problem.out_features; ++o) {
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(blocks));
    for (std::uint16_t& code : codes) {
      code = static_cast<std::uint16_t>(random.below(static_cast<std::uint32_t>(problem.entries)));
    }
    CHECK(bitexport::pack_codes(codes.data(), blocks, bitexport::CodeBits::k16,
                                c.codes.data() + o * words));
  }
  std::vector<float> centroids(static_cast<std::size_t>(problem.entries * problem.depth));
  for (float& number : centroids) {
    number = (static_cast<float>(random.below(33)) - 16.0f) / 16.0f;
    c.centroids.push_back(bitexport::float_to_half(number));
  }
  c.weight.resize(static_cast<std::size_t>(problem.out_features * problem.in_features));
  CHECK(bitexport::reference::expand_codebook(c.codes.data(), problem.out_features, blocks,
                                              bitexport::CodeBits::k16, centroids.data(),
                                              problem.entries, problem.depth, c.weight.data()));
  return c;
}

const auto visit_codes = [](const ConvPlan& plan, auto visit) {
  return visit_real_block<WeightSource::kCodes>(plan.type, plan.tactic.tile, visit);
};

// Follows a plan as launch.cpp does.
void run(const GemmPlan& plan, GemmBuffers& buffers, const GemmProblem& problem, int tactic) {
  if (!plan.by_conv) {
    visit_gemm_block(plan.type, plan.block_batch, plan.step, [&](auto tag) {
      using Block = typename decltype(tag)::Type;
      emulate_blocks<Block>(plan.blocks, [&](auto& exec, std::int64_t block) {
        run_gemm<Block>(plan.args, exec, block);
      });
    });
    return;
  }
  ConvPlan conv;
  CHECK(make_conv_plan(plan.conv_problem, plan.conv_buffers, plan.conv_tactic, nullptr, &conv));
  DeviceBuffer workspace(conv.workspace_bytes);
  buffers.workspace = workspace.data();
  GemmPlan complete;
  CHECK(make_gemm_plan(problem, buffers, tactic, &complete));
  CHECK(make_conv_plan(complete.conv_problem, complete.conv_buffers, complete.conv_tactic, nullptr,
                       &conv));
  if (conv.tactic.family == Family::kDirect) {
    emulate_direct<WeightKind::kCodebook16>(conv);
    return;
  }
  emulate_plan(conv, visit_codes);
}

// test_cuda_real_conv runs the convolutions' blocks; one family shows that layers become right
// ones.
bool is_checked(const GemmPlan& plan) {
  if (!plan.by_conv) return true;
  ConvPlan conv;
  CHECK(make_conv_plan(plan.conv_problem, plan.conv_buffers, plan.conv_tactic, nullptr, &conv));
  const bool codes = conv.tactic.family == Family::kDirect || conv.tactic.family == Family::kCodes;
  return codes && is_emulated(conv, visit_codes);
}

void check_tactic(const Case& c, int tactic) {
  const GemmProblem& problem = c.problem;
  const TensorForm in = {problem.type, Layout::kNchw, problem.batch, problem.in_features, 1};
  const TensorForm out = {problem.type, Layout::kNchw, problem.batch, problem.out_features, 1};
  state().where = "N " + std::to_string(problem.batch) + " Ci " +
                  std::to_string(problem.in_features) + " Co " +
                  std::to_string(problem.out_features) + " depth " + std::to_string(problem.depth) +
                  ", tactic " + std::to_string(tactic) + " " + to_string(in);
  DeviceBuffer x(in.bytes());
  DeviceBuffer y(out.bytes());
  DeviceBuffer codebook(c.centroids.size() * 2);
  put_tensor(in, c.x, x);
  std::memcpy(codebook.data(), c.centroids.data(), c.centroids.size() * 2);
  GemmBuffers buffers = {x.data(),      c.codes.data(), codebook.data(), c.scale.data(),
                         c.bias.data(), y.data(),       nullptr};
  GemmPlan plan;
  CHECK(make_gemm_plan(problem, buffers, tactic, &plan));
  if (!is_checked(plan)) return;
  run(plan, buffers, problem, tactic);
  for (std::int64_t n = 0; n < problem.batch; ++n) {
    for (std::int64_t o = 0; o < problem.out_features; ++o) {
      double sum = 0;
      for (std::int64_t i = 0; i < problem.in_features; ++i) {
        sum += double{c.x[static_cast<std::size_t>(n * problem.in_features + i)]} *
               double{c.weight[static_cast<std::size_t>(o * problem.in_features + i)]};
      }
      float expected = c.scale[static_cast<std::size_t>(o)] * static_cast<float>(sum);
      expected += c.bias[static_cast<std::size_t>(o)];
      CHECK_EQUAL(get_element(out, y, n * problem.out_features + o), rounded(out, expected));
    }
  }
}

}  // namespace

int main() {
  Random random(20261121);
  struct Size {
    std::int32_t batch, in, out, entries, depth;
  };
  constexpr Size kSizes[] = {{1, 2048, 70, 1000, 4}, {3, 512, 66, 300, 8}, {8, 96, 9, 40, 3},
                             {9, 640, 33, 256, 16},  {2, 35, 5, 7, 5},     {70, 104, 40, 64, 4},
                             {0, 64, 8, 16, 4},      {5, 4, 3, 2, 4},      {17, 72, 24, 50, 1}};
  for (const Size& size : kSizes) {
    for (const DataType type : {DataType::kFloat16, DataType::kFloat32}) {
      const Case c =
          make_case(random, {size.batch, size.in, size.out, size.entries, size.depth, type});
      std::array<int, 32> tactics{};
      const int count = list_gemm_tactics(c.problem, 90, tactics.data(), 32);
      CHECK(2 <= count && count <= 32);
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        check_tactic(c, tactics[i]);
      }
      check_tactic(c, kReferenceTactic);
    }
  }
  return finish();
}
