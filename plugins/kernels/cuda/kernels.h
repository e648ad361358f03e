// The kernels behind launch.h: one launcher for each file of device code. Plans are complete, and
// the device has the instructions; 0 blocks launch nothing.

#ifndef BITEXPORT_KERNELS_CUDA_KERNELS_H_
#define BITEXPORT_KERNELS_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/gemm_plan.h"

namespace bitexport {
namespace cuda {

cudaError_t launch_prologue(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_xor(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_and(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_bytes(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_signs(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_codes(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_dense(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_direct(const ConvPlan& plan, cudaStream_t stream);
cudaError_t launch_gemm(const GemmPlan& plan, cudaStream_t stream);

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_KERNELS_H_
