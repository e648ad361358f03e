// What the CUDA kernels offer to adapters: raw device pointers, plain structs, a stream.
//
// Nothing here allocates, synchronizes or throws. A launcher checks what it can on the host and
// returns cudaErrorInvalidValue for a problem or a tactic that it does not take, among them a
// tactic that conv_tactics or gemm_tactics does not list for the current device.
//
// Pointers are aligned to 16 bytes, the workspace to 256, as what cudaMalloc gives.
//
// Accuracy. kBinary accumulates in integers; the epilogue multiplies, adds and adds in float32,
// rounding after each, as the function body does, and a float16 result is rounded once more. The
// real-valued kinds sum in float32: with float16 X every product is exact; float32 X is split into
// three bfloat16 terms that add up to it exactly (a centroid of float16 into two), so that no
// product loses more than 2^-23 of itself. See docs/cuda-kernels.md.

#ifndef BITEXPORT_KERNELS_CUDA_LAUNCH_H_
#define BITEXPORT_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/problem.h"
#include "kernels/cuda/queries.h"

namespace bitexport {
namespace cuda {

cudaError_t conv(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                 cudaStream_t stream);

// The bare accumulators [N, Co, Ho, Wo] of a kBinary problem; scale, bias, residual and y are not
// read.
cudaError_t binary_accumulate(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                              std::int32_t* accumulators, cudaStream_t stream);

cudaError_t gemm(const GemmProblem& problem, const GemmBuffers& buffers, int tactic,
                 cudaStream_t stream);

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_LAUNCH_H_
