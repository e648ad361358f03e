#include "kernels/cuda/conv_global.cuh"
#include "kernels/cuda/kernels.h"

namespace bitexport {
namespace cuda {

cudaError_t launch_and(const ConvPlan& plan, cudaStream_t stream) {
  return launch_binary<MmaOp::kAndPopc>(plan, stream);
}

}  // namespace cuda
}  // namespace bitexport
