// The launchers, linked with every kernel: what they answer where no kernel can run. With a GPU at
// hand, running them is up to another program; this one needs none.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tactics.h"

int main() {
  using namespace bitexport::cuda;
  const auto shape =
      bitexport::make_conv_shape({{1, 64, 8, 8}, {64, 64, 3, 3}, {1, 1}, {1, 1, 1, 1}}).shape;
  const ConvProblem problem = {
      shape, WeightKind::kBinary, DataType::kFloat32, Layout::kNchw, false, 0, 0};
  int tactic = 0;
  CHECK(conv_tactics(problem, 90, &tactic, 1) > 1);
  CHECK(conv_workspace_bytes(problem, tactic) >= 64 * 8);
  CHECK_EQUAL(conv_workspace_bytes(problem, kReferenceTactic), std::size_t{0});
  CHECK_EQUAL(conv(problem, {}, -1, nullptr), cudaErrorInvalidValue);
  CHECK_EQUAL(conv(problem, {}, tactic, nullptr), cudaErrorInvalidValue);  // no workspace
  CHECK_EQUAL(binary_accumulate(problem, {}, tactic, nullptr, nullptr), cudaErrorInvalidValue);
  ConvProblem empty = problem;
  empty.shape.batch = 0;
  CHECK_EQUAL(conv(empty, {}, tactic, nullptr), cudaSuccess);
  const GemmProblem gemm_problem = {0, 64, 32, 16, 4, DataType::kFloat16};
  CHECK(gemm_tactics(gemm_problem, 90, &tactic, 1) > 1);
  CHECK_EQUAL(gemm(gemm_problem, {}, tactic, nullptr), cudaSuccess);

  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    // The runtime's own error comes through.
    const cudaError_t error = conv(problem, {}, kReferenceTactic, nullptr);
    CHECK(error != cudaSuccess && error != cudaErrorInvalidValue);
  }
  return bitexport_test::finish();
}
