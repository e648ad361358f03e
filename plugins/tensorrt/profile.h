// An optimization profile: the sizes that TensorRT builds a layer for.

#ifndef BITEXPORT_TENSORRT_PROFILE_H_
#define BITEXPORT_TENSORRT_PROFILE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensorrt/api.h"
#include "tensorrt/layer.h"

namespace bitexport {
namespace trt {

// A bound of a profile: &DynamicPluginTensorDesc::min, ::opt or ::max.
using Bound = nvinfer1::Dims nvinfer1::DynamicPluginTensorDesc::*;

// The inputs with their sizes at a bound; a bound that is not set counts as the size in the
// description. Empty where a size is still unknown.
std::vector<nvinfer1::PluginTensorDesc> inputs_at(const nvinfer1::DynamicPluginTensorDesc* inputs,
                                                  std::int32_t count, Bound bound);

// What any tactic of the layer needs on any size of the profile.
std::size_t profile_workspace_bytes(const Layer& layer,
                                    const nvinfer1::DynamicPluginTensorDesc* inputs,
                                    std::int32_t count, int compute_capability);

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_PROFILE_H_
