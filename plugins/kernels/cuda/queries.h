// What adapters ask of the kernels before they launch one. Plain C++, as the plans are.

#ifndef BITEXPORT_KERNELS_CUDA_QUERIES_H_
#define BITEXPORT_KERNELS_CUDA_QUERIES_H_

#include <cstddef>

#include "kernels/cuda/problem.h"

namespace bitexport {
namespace cuda {

// Writes up to `capacity` tactics that take the problem on a device of this compute capability
// (major * 10 + minor), the likely fastest first; returns how many there are.
int conv_tactics(const ConvProblem& problem, int compute_capability, int* tactics, int capacity);
std::size_t conv_workspace_bytes(const ConvProblem& problem, int tactic);

int gemm_tactics(const GemmProblem& problem, int compute_capability, int* tactics, int capacity);
std::size_t gemm_workspace_bytes(const GemmProblem& problem, int tactic);

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_QUERIES_H_
