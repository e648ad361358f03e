#include "tensorrt/gemm_layer.h"

#include <algorithm>
#include <limits>
#include <string>

#include "tensorrt/codebook_desc.h"
#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

using cuda::GemmProblem;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::TensorFormat;
using In = CodebookInput;

constexpr int kRank = 2;

}  // namespace

GemmLayer::GemmLayer(const Attributes& attributes)
    : Layer(attributes),
      out_features_(attributes["wshape"][0]),
      in_features_(attributes["wshape"][1]) {
  if (out_features_ < 1 || in_features_ < 1) {
    throw Failure("every number of wshape must be from 1 to 2^31 - 1, got " +
                  attributes.to_string() + "; export the model again");
  }
}

bool GemmLayer::takes(DataType type, TensorFormat format) const {
  return format == TensorFormat::kLINEAR && (type == DataType::kHALF || type == DataType::kFLOAT);
}

void GemmLayer::require_x(const Dims& x) const {
  const bool fits = x.nbDims == kRank && x.d[0] >= 0 && x.d[1] == in_features_ &&
                    x.d[0] <= std::numeric_limits<std::int32_t>::max();
  if (!fits) {
    throw Failure("expected X of shape [N, " + std::to_string(in_features_) + "], got " +
                  to_string(x));
  }
}

void GemmLayer::infer_output(const nvinfer1::DimsExprs* inputs, const Sizes& sizes,
                             nvinfer1::DimsExprs& output) const {
  const nvinfer1::DimsExprs& x = inputs[In::kX];
  const std::int64_t stand_ins[] = {1, in_features_};
  Dims known{x.nbDims, {}};
  for (int i = 0; i < std::min<int>(x.nbDims, kRank); ++i) {
    known.d[i] = x.d[i]->isConstant() ? x.d[i]->getConstantValue() : stand_ins[i];
  }
  require_x(known);
  output.nbDims = kRank;
  output.d[0] = x.d[0];
  output.d[1] = sizes.constant(out_features_);
}

GemmProblem GemmLayer::problem(const TensorDesc* inputs) const {
  const TensorDesc& x = inputs[In::kX];
  require_x(x.dims);
  const CodebookSize codebook = require_codebook(inputs[In::kCodes], inputs[In::kCB], CodeBits::k16,
                                                 out_features_, in_features_);
  require_dims("S", inputs[In::kS], {1, out_features_});
  require_dims("B", inputs[In::kB], {1, out_features_});
  return {static_cast<std::int32_t>(x.dims.d[0]),
          in_features_,
          out_features_,
          codebook.entries,
          codebook.depth,
          data_type(x)};
}

Dims GemmLayer::output_dims(const TensorDesc* inputs) const {
  const GemmProblem gemm = problem(inputs);
  return {kRank, {gemm.batch, gemm.out_features}};
}

std::vector<int> GemmLayer::tactics(const TensorDesc* inputs, int compute_capability) const {
  const GemmProblem gemm = problem(inputs);
  std::vector<int> tactics(
      static_cast<std::size_t>(cuda::gemm_tactics(gemm, compute_capability, nullptr, 0)));
  cuda::gemm_tactics(gemm, compute_capability, tactics.data(), static_cast<int>(tactics.size()));
  return tactics;
}

std::size_t GemmLayer::workspace_bytes(const TensorDesc* inputs, int tactic) const {
  return cuda::gemm_workspace_bytes(problem(inputs), tactic);
}

cudaError_t GemmLayer::launch(const TensorDesc* inputs, int tactic, const Bindings& at) const {
  const GemmProblem gemm = problem(inputs);
  if (gemm.batch == 0) return cudaSuccess;
  const cuda::GemmBuffers buffers = {at.inputs[In::kX],
                                     static_cast<const std::uint32_t*>(at.inputs[In::kCodes]),
                                     at.inputs[In::kCB],
                                     static_cast<const float*>(at.inputs[In::kS]),
                                     static_cast<const float*>(at.inputs[In::kB]),
                                     at.output,
                                     at.workspace};
  return cuda::gemm(gemm, buffers, tactic, at.stream);
}

}  // namespace trt
}  // namespace bitexport
