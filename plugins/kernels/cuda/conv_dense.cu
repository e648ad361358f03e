#include "kernels/cuda/conv_global.cuh"
#include "kernels/cuda/kernels.h"

namespace bitexport {
namespace cuda {

cudaError_t launch_dense(const ConvPlan& plan, cudaStream_t stream) {
  return launch_real<WeightSource::kDense>(plan, stream);
}

}  // namespace cuda
}  // namespace bitexport
