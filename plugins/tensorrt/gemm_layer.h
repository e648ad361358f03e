// CodebookGemm.

#ifndef BITEXPORT_TENSORRT_GEMM_LAYER_H_
#define BITEXPORT_TENSORRT_GEMM_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/launch.h"
#include "tensorrt/layer.h"

namespace bitexport {
namespace trt {

class GemmLayer : public Layer {
 public:
  explicit GemmLayer(const Attributes& attributes);

  bool takes(nvinfer1::DataType type, nvinfer1::TensorFormat format) const override;
  void infer_output(const nvinfer1::DimsExprs* inputs, const Sizes& sizes,
                    nvinfer1::DimsExprs& output) const override;
  nvinfer1::Dims output_dims(const TensorDesc* inputs) const override;
  std::vector<int> tactics(const TensorDesc* inputs, int compute_capability) const override;
  std::size_t workspace_bytes(const TensorDesc* inputs, int tactic) const override;
  cudaError_t launch(const TensorDesc* inputs, int tactic, const Bindings& at) const override;

 private:
  void require_x(const nvinfer1::Dims& x) const;
  cuda::GemmProblem problem(const TensorDesc* inputs) const;

  std::int32_t out_features_;
  std::int32_t in_features_;
};

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_GEMM_LAYER_H_
