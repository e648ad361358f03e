#include "kernels/cuda/launch.h"

#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/kernels.h"

namespace bitexport {
namespace cuda {

namespace {

// major * 10 + minor of the current device.
cudaError_t device_capability(int* capability) {
  int device = 0;
  int major = 0;
  int minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = major * 10 + minor;
  return error;
}

cudaError_t launch_main(const ConvPlan& plan, cudaStream_t stream) {
  switch (plan.tactic.family) {
    case Family::kXor:
      return launch_xor(plan, stream);
    case Family::kAnd:
      return launch_and(plan, stream);
    case Family::kBytes:
      return launch_bytes(plan, stream);
    case Family::kSigns:
      return launch_signs(plan, stream);
    case Family::kCodes:
      return launch_codes(plan, stream);
    case Family::kDense:
      return launch_dense(plan, stream);
    case Family::kDirect:
      return launch_direct(plan, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t run(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                std::int32_t* accumulators, cudaStream_t stream) {
  ConvPlan plan;
  if (!make_conv_plan(problem, buffers, tactic, accumulators, &plan)) return cudaErrorInvalidValue;
  if (problem.shape.batch == 0) return cudaSuccess;
  if (plan.workspace_bytes > 0 && buffers.workspace == nullptr) return cudaErrorInvalidValue;
  int capability = 0;
  cudaError_t error = device_capability(&capability);
  if (error != cudaSuccess) return error;
  if (!device_has(plan.tactic.family, problem.type, capability)) return cudaErrorInvalidValue;
  error = launch_prologue(plan, stream);
  return error == cudaSuccess ? launch_main(plan, stream) : error;
}

}  // namespace

cudaError_t conv(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                 cudaStream_t stream) {
  return run(problem, buffers, tactic, nullptr, stream);
}

cudaError_t binary_accumulate(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                              std::int32_t* accumulators, cudaStream_t stream) {
  if (problem.kind != WeightKind::kBinary || accumulators == nullptr) return cudaErrorInvalidValue;
  return run(problem, buffers, tactic, accumulators, stream);
}

cudaError_t gemm(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                 cudaStream_t stream) {
  GemmPlan plan;
  if (!make_gemm_plan(problem, buffers, tactic, &plan)) return cudaErrorInvalidValue;
  if (plan.by_conv) return conv(plan.conv_problem, plan.conv_buffers, plan.conv_tactic, stream);
  return launch_gemm(plan, stream);
}

}  // namespace cuda
}  // namespace bitexport
