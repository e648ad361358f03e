// launch.h on host memory by the kernels' own code: the plans are followed by the emulator.

#include <cstdint>

#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tactics.h"
#include "tests/check.h"
#include "tests/emulated_conv.h"
#include "tests/tensorrt/host_kernels.h"

namespace bitexport {
namespace cuda {
namespace {

const auto visit_plan = [](const ConvPlan& plan, auto visit) {
  const int tile = plan.tactic.tile;
  switch (plan.tactic.family) {
    case Family::kXor:
      return visit_binary_block<MmaOp::kXorPopc>(tile, plan.chunk_bytes, visit);
    case Family::kAnd:
      return visit_binary_block<MmaOp::kAndPopc>(tile, plan.chunk_bytes, visit);
    case Family::kBytes:
      return visit_binary_block<MmaOp::kBytes>(tile, plan.chunk_bytes, visit);
    case Family::kSigns:
      return visit_real_block<WeightSource::kSigns>(plan.type, tile, visit);
    case Family::kCodes:
      return visit_real_block<WeightSource::kCodes>(plan.type, tile, visit);
    default:
      return visit_real_block<WeightSource::kDense>(plan.type, tile, visit);
  }
};

void emulate_direct(const ConvPlan& plan, WeightKind kind) {
  switch (kind) {
    case WeightKind::kSign:
      return bitexport_test::emulate_direct<WeightKind::kSign>(plan);
    case WeightKind::kBinary:
      return bitexport_test::emulate_direct<WeightKind::kBinary>(plan);
    case WeightKind::kCodebook8:
      return bitexport_test::emulate_direct<WeightKind::kCodebook8>(plan);
    case WeightKind::kCodebook16:
      return bitexport_test::emulate_direct<WeightKind::kCodebook16>(plan);
  }
}

// As in launch.cpp.
cudaError_t run(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                std::int32_t* accumulators) {
  ConvPlan plan;
  if (!make_conv_plan(problem, buffers, tactic, accumulators, &plan)) return cudaErrorInvalidValue;
  if (problem.shape.batch == 0) return cudaSuccess;
  if (plan.workspace_bytes > 0 && buffers.workspace == nullptr) return cudaErrorInvalidValue;
  const int capability = bitexport_test::host_device().compute_capability;
  if (!device_has(plan.tactic.family, problem.type, capability)) return cudaErrorInvalidValue;
  if (plan.tactic.family == Family::kDirect) {
    emulate_direct(plan, problem.kind);
  } else {
    bitexport_test::emulate_plan(plan, visit_plan);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t conv(const ConvProblem& problem, const ConvBuffers& buffers, int tactic, cudaStream_t) {
  return run(problem, buffers, tactic, nullptr);
}

cudaError_t binary_accumulate(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                              std::int32_t* accumulators, cudaStream_t) {
  return run(problem, buffers, tactic, accumulators);
}

cudaError_t gemm(const GemmProblem& problem, const GemmBuffers& buffers, int tactic, cudaStream_t) {
  GemmPlan plan;
  if (!make_gemm_plan(problem, buffers, tactic, &plan)) return cudaErrorInvalidValue;
  if (plan.by_conv) return run(plan.conv_problem, plan.conv_buffers, plan.conv_tactic, nullptr);
  visit_gemm_block(plan.type, plan.block_batch, plan.step, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    bitexport_test::emulate_blocks<Block>(plan.blocks, [&](auto& exec, std::int64_t block) {
      run_gemm<Block>(plan.args, exec, block);
    });
  });
  return cudaSuccess;
}

}  // namespace cuda
}  // namespace bitexport
