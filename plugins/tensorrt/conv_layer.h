// SignConv, the ops whose names begin with BinaryConv, CodebookConv and CodebookConv16.

#ifndef BITEXPORT_TENSORRT_CONV_LAYER_H_
#define BITEXPORT_TENSORRT_CONV_LAYER_H_

#include <cstddef>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cuda/conv_op.h"
#include "kernels/cuda/launch.h"
#include "tensorrt/layer.h"

namespace bitexport {
namespace trt {

class ConvLayer : public Layer {
 public:
  explicit ConvLayer(const Attributes& attributes);

  bool takes(nvinfer1::DataType type, nvinfer1::TensorFormat format) const override;
  void infer_output(const nvinfer1::DimsExprs* inputs, const Sizes& sizes,
                    nvinfer1::DimsExprs& output) const override;
  nvinfer1::Dims output_dims(const TensorDesc* inputs) const override;
  std::vector<int> tactics(const TensorDesc* inputs, int compute_capability) const override;
  std::size_t workspace_bytes(const TensorDesc* inputs, int tactic) const override;
  cudaError_t launch(const TensorDesc* inputs, int tactic, const Bindings& at) const override;

 private:
  ConvShape shape_on(const nvinfer1::Dims& x) const;
  cuda::ConvProblem problem(const TensorDesc* inputs) const;
  void require_weight(const ConvShape& shape, const TensorDesc* inputs) const;

  cuda::ConvPlaces at_;
  cuda::WeightKind kind_;
  Activation activation_;
  ConvArguments arguments_;  // `input` is not set
};

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_CONV_LAYER_H_
