#include "kernels/cuda/gemm_plan.h"

#include <limits>
#include <vector>

namespace bitexport {
namespace cuda {

namespace {

// Numbers of tactics: 1 + log2 of the rows of X that a block takes, or a convolution's number and
// this. Never change or reuse one.
constexpr int kFirstByWarps = 1;
constexpr int kByWarps = 4;
constexpr int kByConv = 1000;

// Rows of X up to which reading the codes again for each eight of them is likely the faster way.
constexpr std::int32_t kFewRows = 16;

bool is_consistent(const GemmProblem& problem) {
  return problem.batch >= 0 && problem.in_features >= 1 && problem.out_features >= 1 &&
         1 <= problem.entries && problem.entries <= 1 << 16 && problem.depth >= 1 &&
         problem.in_features % problem.depth == 0;
}

// Rows of X are pixels; a row is at once NCHW and, in whole vectors of 8 channels, NHWC8.
bool as_conv(const GemmProblem& problem, ConvProblem* conv) {
  const std::int64_t batch = problem.batch;
  const std::int64_t in = problem.in_features;
  const std::int64_t out = problem.out_features;
  const ConvShapeResult result = make_conv_shape({{batch, in, 1, 1}, {out, in, 1, 1}});
  if (!result.ok()) return false;
  const bool vectors = problem.type == DataType::kFloat16 && in % 8 == 0 && out % 8 == 0;
  *conv = {
      result.shape, WeightKind::kCodebook16, problem.type, vectors ? Layout::kNhwc8 : Layout::kNchw,
      false,        problem.entries,         problem.depth};
  return true;
}

bool plan_by_conv(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                  GemmPlan* plan) {
  plan->by_conv = true;
  plan->conv_tactic = tactic;
  plan->conv_buffers = {buffers.x, buffers.codes, buffers.codebook,
                        nullptr,   buffers.scale, buffers.bias,
                        nullptr,   buffers.y,     buffers.workspace};
  ConvPlan conv;
  return as_conv(problem, &plan->conv_problem) &&
         make_conv_plan(plan->conv_problem, plan->conv_buffers, tactic, nullptr, &conv);
}

}  // namespace

bool make_gemm_plan(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                    GemmPlan* plan) {
  *plan = GemmPlan{};
  plan->type = problem.type;
  if (!is_consistent(problem)) return false;
  if (tactic == kReferenceTactic) return plan_by_conv(problem, buffers, tactic, plan);
  if (tactic >= kByConv) return plan_by_conv(problem, buffers, tactic - kByConv, plan);
  const int power = tactic - kFirstByWarps;
  if (power < 0 || power >= kByWarps) return false;
  plan->block_batch = 1 << power;
  plan->step = problem.depth % 8 == 0 ? 8 : problem.depth % 4 == 0 ? 4 : 1;
  GemmArgs& args = plan->args;
  args.batch = problem.batch;
  args.in_features = problem.in_features;
  args.out_features = problem.out_features;
  args.depth = problem.depth;
  args.words_per_row = code_words(problem.in_features / problem.depth, CodeBits::k16);
  args.x = buffers.x;
  args.codes = buffers.codes;
  args.centroids = static_cast<const std::uint16_t*>(buffers.codebook);
  args.scale = buffers.scale;
  args.bias = buffers.bias;
  args.y = buffers.y;
  visit_gemm_block(problem.type, plan->block_batch, plan->step, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    plan->blocks = ceil_div<std::int64_t>(problem.batch, Block::kBatch) *
                   ceil_div<std::int64_t>(problem.out_features, Block::kOutputs);
  });
  return plan->blocks <= std::numeric_limits<std::int32_t>::max();
}

int list_gemm_tactics(const GemmProblem& problem, int compute_capability, int* tactics,
                      int capacity) {
  if (!is_consistent(problem)) return 0;
  std::vector<int> by_warps;
  for (int power = kByWarps - 1; power >= 0; --power) {
    // A block of more rows than there are wastes what it computes for the missing ones.
    if (power == 0 || 1 << (power - 1) < problem.batch) by_warps.push_back(kFirstByWarps + power);
  }
  std::vector<int> numbers;
  ConvProblem conv;
  if (as_conv(problem, &conv)) {
    numbers.resize(
        static_cast<std::size_t>(list_conv_tactics(conv, compute_capability, nullptr, 0)));
    list_conv_tactics(conv, compute_capability, numbers.data(), static_cast<int>(numbers.size()));
    for (int& number : numbers) number += kByConv;
  }
  numbers.insert(problem.batch <= kFewRows ? numbers.begin() : numbers.end(), by_warps.begin(),
                 by_warps.end());
  for (int i = 0; i < capacity && i < static_cast<int>(numbers.size()); ++i) {
    tactics[i] = numbers[static_cast<std::size_t>(i)];
  }
  return static_cast<int>(numbers.size());
}

}  // namespace cuda
}  // namespace bitexport
