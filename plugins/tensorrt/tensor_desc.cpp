#include "tensorrt/tensor_desc.h"

#include <algorithm>

#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

Sizes::Expr not_null(Sizes::Expr expression) {
  if (expression == nullptr) throw Failure("TensorRT made no expression for a size of the output");
  return expression;
}

// An unbelieved rank must not lead a loop past the array.
int readable_rank(const Dims& dims) { return std::clamp(dims.nbDims, 0, Dims::MAX_DIMS); }

}  // namespace

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (int i = 0; i < readable_rank(dims); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
  }
  return text + "]";
}

void require_dims(const char* name, const PluginTensorDesc& tensor,
                  std::initializer_list<std::int64_t> expected) {
  Dims wanted{};
  wanted.nbDims = static_cast<std::int32_t>(expected.size());
  std::copy(expected.begin(), expected.end(), wanted.d);
  const bool same = tensor.dims.nbDims == wanted.nbDims &&
                    std::equal(expected.begin(), expected.end(), tensor.dims.d);
  if (!same) {
    throw Failure(std::string("expected ") + name + " of shape " + to_string(wanted) + ", got " +
                  to_string(tensor.dims));
  }
}

cuda::DataType data_type(const PluginTensorDesc& tensor) {
  if (tensor.type == nvinfer1::DataType::kFLOAT) return cuda::DataType::kFloat32;
  if (tensor.type == nvinfer1::DataType::kHALF) return cuda::DataType::kFloat16;
  throw Failure("expected activations of type FLOAT or HALF, got TensorRT's data type " +
                std::to_string(static_cast<std::int32_t>(tensor.type)));
}

cuda::Layout layout(const PluginTensorDesc& tensor) {
  if (tensor.format == nvinfer1::TensorFormat::kLINEAR) return cuda::Layout::kNchw;
  if (tensor.format == nvinfer1::TensorFormat::kHWC8) return cuda::Layout::kNhwc8;
  throw Failure("expected activations in format LINEAR or HWC8, got TensorRT's format " +
                std::to_string(static_cast<std::int32_t>(tensor.format)));
}

Sizes::Expr Sizes::constant(std::int64_t value) const { return not_null(builder_.constant(value)); }

Sizes::Expr Sizes::operation(DimensionOperation operation, Expr first, Expr second) const {
  return not_null(builder_.operation(operation, *not_null(first), *not_null(second)));
}

Sizes::Expr Sizes::steps(Expr size, std::int64_t offset, std::int64_t divisor) const {
  const Expr room = operation(DimensionOperation::kSUM, size, constant(offset));
  const Expr whole = operation(DimensionOperation::kFLOOR_DIV, room, constant(divisor));
  return operation(DimensionOperation::kSUM, whole, constant(1));
}

}  // namespace trt
}  // namespace bitexport
