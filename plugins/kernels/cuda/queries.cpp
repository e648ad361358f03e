#include "kernels/cuda/queries.h"

#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/tactics.h"

namespace bitexport {
namespace cuda {

int conv_tactics(const ConvProblem& problem, int compute_capability, int* tactics, int capacity) {
  return list_conv_tactics(problem, compute_capability, tactics, capacity);
}

std::size_t conv_workspace_bytes(const ConvProblem& problem, int tactic) {
  ConvPlan plan;
  return make_conv_plan(problem, ConvBuffers{}, tactic, nullptr, &plan) ? plan.workspace_bytes : 0;
}

int gemm_tactics(const GemmProblem& problem, int compute_capability, int* tactics, int capacity) {
  return list_gemm_tactics(problem, compute_capability, tactics, capacity);
}

std::size_t gemm_workspace_bytes(const GemmProblem& problem, int tactic) {
  GemmPlan plan;
  if (!make_gemm_plan(problem, GemmBuffers{}, tactic, &plan) || !plan.by_conv) return 0;
  return conv_workspace_bytes(plan.conv_problem, plan.conv_tactic);
}

}  // namespace cuda
}  // namespace bitexport
