#include "tensorrt/profile.h"

#include <algorithm>

#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

std::size_t largest_workspace(const Layer& layer, const PluginTensorDesc* inputs, int capability) {
  std::size_t bytes = 0;
  for (const int tactic : layer.tactics(inputs, capability)) {
    bytes = std::max(bytes, layer.workspace_bytes(inputs, tactic));
  }
  return bytes;
}

// False where the batch is one already.
bool halve_batch(const OpSpec& spec, std::vector<PluginTensorDesc>& inputs) {
  if (inputs[0].dims.d[0] <= 1) return false;
  for (int i = 0; i < spec.inputs.count; ++i) {
    const bool has_batch = spec.inputs[i].type == ElementType::kActivation;
    if (has_batch) inputs[static_cast<std::size_t>(i)].dims.d[0] /= 2;
  }
  return true;
}

}  // namespace

std::vector<PluginTensorDesc> inputs_at(const DynamicPluginTensorDesc* inputs, std::int32_t count,
                                        Bound bound) {
  std::vector<PluginTensorDesc> descs;
  for (std::int32_t i = 0; i < count; ++i) {
    PluginTensorDesc desc = inputs[i].desc;
    const Dims& sizes = inputs[i].*bound;
    for (int d = 0; d < std::min(desc.dims.nbDims, Dims::MAX_DIMS); ++d) {
      const bool known = sizes.nbDims == desc.dims.nbDims && sizes.d[d] > 0;
      if (known) desc.dims.d[d] = sizes.d[d];
      if (desc.dims.d[d] < 0) return {};
    }
    descs.push_back(desc);
  }
  return descs;
}

std::size_t profile_workspace_bytes(const Layer& layer, const DynamicPluginTensorDesc* inputs,
                                    std::int32_t count, int compute_capability) {
  using Desc = DynamicPluginTensorDesc;
  if (inputs_at(inputs, count, &Desc::max).empty()) {
    throw Failure("expected known sizes for the workspace, got X of shape " +
                  to_string(inputs[0].desc.dims));
  }
  std::size_t bytes = 0;
  for (const Bound bound : {&Desc::max, &Desc::opt, &Desc::min}) {
    std::vector<PluginTensorDesc> descs = inputs_at(inputs, count, bound);
    // A kernel that splits its sums needs the more room the smaller the batch, and TensorRT asks
    // once for all batches.
    for (bool smaller = !descs.empty(); smaller; smaller = halve_batch(layer.spec(), descs)) {
      bytes = std::max(bytes, largest_workspace(layer, descs.data(), compute_capability));
    }
  }
  return bytes;
}

}  // namespace trt
}  // namespace bitexport
