// Shapes of tensors as TensorRT describes them: comparison, messages, arithmetic on unknown sizes.

#ifndef BITEXPORT_TENSORRT_TENSOR_DESC_H_
#define BITEXPORT_TENSORRT_TENSOR_DESC_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/cuda/launch.h"
#include "tensorrt/api.h"

namespace bitexport {
namespace trt {

// "[1, 64, -1, -1]"
std::string to_string(const nvinfer1::Dims& dims);

// Throws a Failure where the shape of `tensor` is not the expected one; `name` is for the message.
void require_dims(const char* name, const nvinfer1::PluginTensorDesc& tensor,
                  std::initializer_list<std::int64_t> expected);

// What X, R and Y are for a kernel; throws a Failure for a type or format that was never offered.
cuda::DataType data_type(const nvinfer1::PluginTensorDesc& tensor);
cuda::Layout layout(const nvinfer1::PluginTensorDesc& tensor);

// Sizes that TensorRT may learn only when it runs. Throws a Failure where it has no memory left.
class Sizes {
 public:
  using Expr = const nvinfer1::IDimensionExpr*;

  explicit Sizes(nvinfer1::IExprBuilder& builder) : builder_(builder) {}

  Expr constant(std::int64_t value) const;
  // (size + offset) / divisor + 1, rounded down: how often a window of a stride fits.
  Expr steps(Expr size, std::int64_t offset, std::int64_t divisor) const;

 private:
  Expr operation(nvinfer1::DimensionOperation operation, Expr first, Expr second) const;

  nvinfer1::IExprBuilder& builder_;
};

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_TENSOR_DESC_H_
