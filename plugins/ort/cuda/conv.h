// SignConv, BinaryConv with or without a residual and an activation, CodebookConv and
// CodebookConv16 on a GPU.
//
// Weights, thresholds, scales and biases are the node's inputs, which the runtime keeps in device
// memory: nothing has to be uploaded or prepared here.

#ifndef BITEXPORT_ORT_CUDA_CONV_H_
#define BITEXPORT_ORT_CUDA_CONV_H_

#include <cstdint>

#include "core/conv_shape.h"
#include "core/op_spec.h"
#include "kernels/cuda/conv_op.h"
#include "kernels/cuda/problem.h"
#include "ort/binding.h"
#include "ort/conv_node.h"
#include "ort/cuda/run.h"

namespace bitexport {
namespace ort {
namespace gpu {

class Conv {
 public:
  Conv(const OpSpec& spec, const KernelInfo& info);

  void compute(KernelContext& context) const;

  static void infer_output_shape(const Api& api, OrtShapeInferContext* context) {
    infer_conv_shape(api, context);
  }

 private:
  // Checks all inputs and fills in what of a problem and its buffers they are.
  void read(const KernelContext& context, cuda::ConvProblem& problem,
            cuda::ConvBuffers& buffers) const;

  cuda::ConvPlaces at_;
  cuda::WeightKind kind_;
  Activation activation_;
  ConvArguments attributes_;
  mutable LastChoice choice_;
};

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CUDA_CONV_H_
