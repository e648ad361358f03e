#include "ort/conv_node.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace bitexport {
namespace ort {
namespace {

constexpr std::size_t kRank = 4;

void require(const ConvShapeResult& result, const std::string& hint) {
  if (result.ok()) return;
  throw Failure(std::string(describe(result.error)) + ", got " + std::to_string(result.got) + hint);
}

// ---- Shape inference ----------------------------------------------------------------------------

// A dimension as the runtime knows it: a number, or a name, or (size -1, no name) not at all.
struct Dim {
  std::int64_t size = -1;
  const char* symbol = "";

  bool known() const { return size >= 0 || symbol[0] != '\0'; }
};

using Dims = std::array<Dim, kRank>;

// The attributes and shapes of a node whose output shape is asked for.
class InferenceContext {
 public:
  InferenceContext(const Api& api, OrtShapeInferContext* context) : api_(api), context_(context) {}

  std::int64_t integer(const char* name) const {
    std::int64_t value = 0;
    read(name, AttributeType::kInt, &value, sizeof(value));
    return value;
  }

  void integers(const char* name, std::int64_t* values, std::size_t count) const {
    read(name, AttributeType::kInts, values, count * sizeof(*values));
  }

  // X's dimensions; none where its rank is unknown or wrong.
  std::optional<Dims> input() const {
    const OrtTensorTypeAndShapeInfo* info = input_info();
    std::size_t rank = 0;
    check(api_, api_.GetDimensionsCount(info, &rank));
    if (rank != kRank) return std::nullopt;
    std::int64_t sizes[kRank];
    const char* symbols[kRank] = {};
    check(api_, api_.GetDimensions(info, sizes, kRank));
    check(api_, api_.GetSymbolicDimensions(info, symbols, kRank));
    Dims dims;
    for (std::size_t i = 0; i < kRank; ++i) {
      dims[i].size = sizes[i];
      if (symbols[i] != nullptr) dims[i].symbol = symbols[i];
    }
    return dims;
  }

  // Y is of X's type.
  void set_output(const Dims& dims) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_, api_.CreateTensorTypeAndShapeInfo(&info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
        info, api_.ReleaseTensorTypeAndShapeInfo);
    std::int64_t sizes[kRank];
    const char* symbols[kRank];
    for (std::size_t i = 0; i < kRank; ++i) {
      sizes[i] = dims[i].size;
      symbols[i] = dims[i].symbol;
    }
    TensorType type = TensorType::kUndefined;
    check(api_, api_.GetTensorElementType(input_info(), &type));
    check(api_, api_.SetTensorElementType(info, type));
    check(api_, api_.SetDimensions(info, sizes, kRank));
    check(api_, api_.SetSymbolicDimensions(info, symbols, kRank));
    check(api_, api_.ShapeInferContext_SetOutputTypeShape(context_, 0, info));
  }

 private:
  // Of X, which every node has; the runtime has counted the inputs. Stays the context's.
  const OrtTensorTypeAndShapeInfo* input_info() const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_, api_.ShapeInferContext_GetInputTypeShape(context_, 0, &info));
    return info;
  }

  void read(const char* name, AttributeType type, void* data, std::size_t bytes) const {
    const OrtOpAttr* attribute = nullptr;
    check(api_, api_.ShapeInferContext_GetAttribute(context_, name, &attribute));
    std::size_t got = 0;
    check(api_, api_.ReadOpAttr(attribute, type, data, bytes, &got));
    if (got != bytes) throw Failure(std::string(name) + " has a wrong number of integers");
  }

  const Api& api_;
  OrtShapeInferContext* context_;
};

// Y's size along an axis. A named size stays itself where the axis keeps every size as it is.
Dim output_dim(const ConvAxis& axis, const Dim& input) {
  if (input.size >= 0) return {axis.out_size(), ""};
  const std::int64_t pads = std::int64_t{axis.pad_begin} + axis.pad_end;
  const bool keeps_size =
      axis.stride == 1 && pads == std::int64_t{axis.dilation} * (axis.kernel - 1);
  return keeps_size ? input : Dim{};
}

std::optional<Dims> infer(const ConvArguments& attributes, const Dims& x) {
  ConvShapeResult result = smallest_conv_shape(attributes);
  if (!result.ok()) return std::nullopt;
  ConvArguments arguments = attributes;
  arguments.input[0] = 1;
  arguments.input[1] = result.shape.in_channels;
  arguments.input[2] = x[2].size >= 0 ? x[2].size : result.shape.vertical.size;
  arguments.input[3] = x[3].size >= 0 ? x[3].size : result.shape.horizontal.size;
  result = make_conv_shape(arguments);
  if (!result.ok()) return std::nullopt;
  const Dims y = {x[0],
                  {result.shape.out_channels, ""},
                  output_dim(result.shape.vertical, x[2]),
                  output_dim(result.shape.horizontal, x[3])};
  // The runtime would take an unknown size for the number -1.
  for (const Dim& dim : y) {
    if (!dim.known()) return std::nullopt;
  }
  return y;
}

}  // namespace

ConvShape smallest_shape(const ConvArguments& attributes) {
  const ConvShapeResult result = smallest_conv_shape(attributes);
  require(result, "; export the model again");
  return result.shape;
}

ConvShape conv_shape(const ConvArguments& attributes, const Shape& x) {
  if (x.size() != kRank) throw Failure("expected an input [N, Ci, H, W], got " + to_string(x));
  ConvArguments arguments = attributes;
  for (std::size_t i = 0; i < kRank; ++i) arguments.input[i] = x[i];
  const ConvShapeResult result = make_conv_shape(arguments);
  require(result, "; the input is " + to_string(x));
  return result.shape;
}

Shape output_shape(const ConvShape& shape) {
  return {shape.batch, shape.out_channels, shape.vertical.out_size(), shape.horizontal.out_size()};
}

void infer_conv_shape(const Api& api, OrtShapeInferContext* context) {
  try {
    InferenceContext node(api, context);
    const std::optional<Dims> x = node.input();
    if (!x) return;
    const std::optional<Dims> y = infer(read_conv_attributes(node), *x);
    if (y) node.set_output(*y);
  } catch (const Failure&) {  // NOLINT(bugprone-empty-catch)
    // Said by name when the kernel is made.
  }
}

}  // namespace ort
}  // namespace bitexport
