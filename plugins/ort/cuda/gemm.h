// CodebookGemm on a GPU: Y [N, Co] = S * (X [N, Ci] @ W^T) + B with W [Co, Ci] from 16-bit codes.

#ifndef BITEXPORT_ORT_CUDA_GEMM_H_
#define BITEXPORT_ORT_CUDA_GEMM_H_

#include <cstdint>

#include "core/op_spec.h"
#include "ort/binding.h"
#include "ort/cuda/run.h"

namespace bitexport {
namespace ort {
namespace gpu {

class Gemm {
 public:
  Gemm(const OpSpec& spec, const KernelInfo& info);

  void compute(KernelContext& context) const;

  // Y's shape is left to the graph: nothing behind a linear layer plans by it.
  static void infer_output_shape(const Api&, OrtShapeInferContext*) {}

 private:
  std::int64_t wshape_[2];  // Co, Ci
  mutable LastChoice choice_;
};

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CUDA_GEMM_H_
