// Which tactics there are for a problem and a GPU, and that each of them has a plan.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/tactics.h"

namespace {

using namespace bitexport::cuda;
using namespace bitexport_test;

constexpr int kCapabilities[] = {75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121};

std::vector<int> tactics_of(const ConvProblem& problem, int capability) {
  std::vector<int> tactics(
      static_cast<std::size_t>(list_conv_tactics(problem, capability, nullptr, 0)));
  list_conv_tactics(problem, capability, tactics.data(), static_cast<int>(tactics.size()));
  return tactics;
}

ConvProblem problem_of(const bitexport::ConvShape& shape, WeightKind kind) {
  const bool sign = kind == WeightKind::kSign || kind == WeightKind::kBinary;
  return {shape, kind, DataType::kFloat16, Layout::kNhwc8, false, sign ? 0 : 16, sign ? 0 : 1};
}

void check_plans(const ConvProblem& problem, int capability) {
  std::vector<int> tactics = tactics_of(problem, capability);
  CHECK(!tactics.empty());
  CHECK_EQUAL(tactics.back(), conv_tactic(Family::kDirect, 0));
  for (const int number : tactics) {
    CHECK(0 < number && number < kReferenceTactic);
    const Tactic tactic = parse_tactic(number);
    CHECK(tactic.ok && !tactic.reference);
    CHECK(device_has(tactic.family, problem.type, capability));
    ConvPlan plan;
    CHECK(make_conv_plan(problem, ConvBuffers{}, number, nullptr, &plan));
    CHECK_EQUAL(plan.workspace_bytes % 256, std::size_t{0});
    visit_block(tactic.family, problem.type, tactic.tile, plan.chunk_bytes, [&](auto tag) {
      CHECK(std::int64_t{decltype(tag)::Type::kSharedBytes} <= most_shared_bytes(capability));
    });
  }
  std::sort(tactics.begin(), tactics.end());
  CHECK(std::unique(tactics.begin(), tactics.end()) == tactics.end());
}

bool has(const std::vector<int>& tactics, Family family) {
  return std::any_of(tactics.begin(), tactics.end(),
                     [family](int number) { return parse_tactic(number).family == family; });
}

// Native MMA of bits where there is one, int8 everywhere; bfloat16 not on sm_75.
void check_families(const bitexport::ConvShape& shape) {
  for (const int capability : kCapabilities) {
    state().where = "capability " + std::to_string(capability);
    const auto binary = tactics_of(problem_of(shape, WeightKind::kBinary), capability);
    CHECK_EQUAL(has(binary, Family::kXor), capability < 90);
    CHECK_EQUAL(has(binary, Family::kAnd), capability == 90);
    CHECK(has(binary, Family::kBytes));
    ConvProblem real = problem_of(shape, WeightKind::kSign);
    CHECK(has(tactics_of(real, capability), Family::kSigns));
    real.type = DataType::kFloat32;
    real.layout = Layout::kNchw;
    CHECK_EQUAL(has(tactics_of(real, capability), Family::kSigns), capability >= 80);
    const auto codes = tactics_of(problem_of(shape, WeightKind::kCodebook8), capability);
    CHECK(has(codes, Family::kCodes) && has(codes, Family::kDense));
  }
}

// What no kernel takes is refused, and numbers that mean nothing are.
void check_refusals(const bitexport::ConvShape& shape) {
  state().where = "refusals";
  ConvProblem problem = problem_of(shape, WeightKind::kCodebook8);
  ConvPlan plan;
  const auto planned = [&plan](const ConvProblem& of, int tactic) {
    return make_conv_plan(of, ConvBuffers{}, tactic, nullptr, &plan);
  };
  CHECK(planned(problem, conv_tactic(Family::kCodes, 2)));
  CHECK(!planned(problem, conv_tactic(Family::kXor, 2)));
  CHECK(!planned(problem, conv_tactic(Family::kCodes, kTileCount)));
  for (const int number : {-1, 0, 1, 15, 1000, kReferenceTactic + 1}) {
    CHECK(!planned(problem, number));
  }
  problem.entries = 257;
  CHECK(!planned(problem, conv_tactic(Family::kCodes, 2)));
  CHECK_EQUAL(list_conv_tactics(problem, 90, nullptr, 0), 0);
  problem.entries = 16;
  problem.depth = 7;  // does not divide 64 * 9 weights
  CHECK(!planned(problem, kReferenceTactic));
  problem.depth = 1;
  problem.type = DataType::kFloat32;  // and NHWC8
  CHECK(!planned(problem, kReferenceTactic));
}

// Numbers are kept in files (TensorRT's timing caches and engines): a change here breaks those.
void check_numbers() {
  state().where = "numbers";
  CHECK_EQUAL(conv_tactic(Family::kXor, 0), 16);
  CHECK_EQUAL(conv_tactic(Family::kAnd, 1), 33);
  CHECK_EQUAL(conv_tactic(Family::kBytes, 2), 50);
  CHECK_EQUAL(conv_tactic(Family::kSigns, 3), 67);
  CHECK_EQUAL(conv_tactic(Family::kCodes, 4), 84);
  CHECK_EQUAL(conv_tactic(Family::kDense, 0), 96);
  CHECK_EQUAL(conv_tactic(Family::kDirect, 0), 112);
}

// Sizes near the limits: more than 2^31 elements must have a plan or be refused, not wrap.
void check_large() {
  state().where = "large";
  const auto large =
      bitexport::make_conv_shape({{40000, 256, 56, 56}, {256, 256, 3, 3}, {1, 1}, {1, 1, 1, 1}});
  CHECK(large.ok());
  ConvPlan plan;
  const ConvProblem problem = problem_of(large.shape, WeightKind::kBinary);
  CHECK(make_conv_plan(problem, ConvBuffers{}, conv_tactic(Family::kAnd, 0), nullptr, &plan));
  CHECK_EQUAL(plan.conv_blocks, std::int64_t{40000} * 56 * 56 / 128 * 2);
  CHECK(plan.workspace_bytes >= std::size_t{40000} * 56 * 56 * 32);
  const auto too_many = bitexport::make_conv_shape({{2000000000, 1, 40, 40}, {64, 1, 1, 1}});
  CHECK(too_many.ok());
  CHECK(!make_conv_plan(problem_of(too_many.shape, WeightKind::kBinary), ConvBuffers{},
                        conv_tactic(Family::kAnd, 0), nullptr, &plan));
}

void check_gemm() {
  for (const std::int32_t batch : {0, 1, 3, 16, 17, 256}) {
    state().where = "gemm, batch " + std::to_string(batch);
    const GemmProblem problem = {batch, 2048, 1000, 256, 4, DataType::kFloat16};
    std::array<int, 32> tactics{};
    const int count = list_gemm_tactics(problem, 80, tactics.data(), 32);
    CHECK(1 <= count && count <= 32);
    CHECK_EQUAL(tactics[0] < 1000, batch <= 16);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      GemmPlan plan;
      CHECK(make_gemm_plan(problem, GemmBuffers{}, tactics[i], &plan));
    }
  }
}

}  // namespace

int main() {
  constexpr std::array<std::int64_t, 4> kChannels = {1, 16, 40, 64};
  constexpr WeightKind kKinds[] = {WeightKind::kSign, WeightKind::kBinary, WeightKind::kCodebook8,
                                   WeightKind::kCodebook16};
  std::size_t count = 0;
  for_each_conv_case(
      kChannels, [&](const bitexport::ConvArguments& arguments, const bitexport::ConvShape& shape) {
        state().where = to_string(arguments);
        check_plans(problem_of(shape, kKinds[count % 4]), kCapabilities[count % 11]);
        ++count;
      });
  const auto shape =
      bitexport::make_conv_shape({{1, 64, 56, 56}, {64, 64, 3, 3}, {1, 1}, {1, 1, 1, 1}}).shape;
  check_families(shape);
  check_refusals(shape);
  check_numbers();
  check_large();
  check_gemm();
  return finish();
}
