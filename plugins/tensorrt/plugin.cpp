#include "tensorrt/plugin.h"

#include <algorithm>
#include <utility>

#include "tensorrt/device.h"
#include "tensorrt/log.h"
#include "tensorrt/profile.h"

namespace bitexport {
namespace trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr std::int32_t kDone = 0;
constexpr std::int32_t kFailed = 1;
constexpr int kOutputs = 1;

// The type of an input that is no activation.
DataType constant_type(ElementType type) {
  if (type == ElementType::kFloat16) return DataType::kHALF;
  return type == ElementType::kFloat ? DataType::kFLOAT : DataType::kINT32;
}

}  // namespace

std::string layer_title(const OpSpec& spec, const char* layer_name) {
  return std::string(spec.name) + " layer '" + (layer_name == nullptr ? "" : layer_name) + "'";
}

Plugin::Plugin(std::shared_ptr<const Layer> layer, const std::string& title,
               const char* plugin_namespace)
    : layer_(std::move(layer)),
      title_(title),
      namespace_(plugin_namespace),
      attributes_text_(layer_->attributes().to_string()),
      fields_(layer_->attributes().fields()) {}

void Plugin::require_counts(std::int32_t in_count, std::int32_t out_count) const {
  if (in_count == layer_->spec().inputs.count && out_count == kOutputs) return;
  throw Failure("expected " + std::to_string(layer_->spec().inputs.count) +
                " inputs and 1 output, got " + std::to_string(in_count) + " and " +
                std::to_string(out_count));
}

// ---- IPluginV3 and core -------------------------------------------------------------------------

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded(title_, static_cast<Plugin*>(nullptr), [&] { return new Plugin(*this); });
}

const char* Plugin::getPluginName() const noexcept { return layer_->spec().name; }
const char* Plugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* Plugin::getPluginNamespace() const noexcept { return namespace_; }

// ---- Build --------------------------------------------------------------------------------------

std::int32_t Plugin::getNbOutputs() const noexcept { return kOutputs; }

std::int32_t Plugin::getOutputDataTypes(DataType* types, std::int32_t out_count,
                                        const DataType* in_types,
                                        std::int32_t in_count) const noexcept {
  return guarded(title_, kFailed, [&] {
    require_counts(in_count, out_count);
    if (!layer_->takes(in_types[0], TensorFormat::kLINEAR)) {
      throw Failure("expected X of type FLOAT or HALF, got TensorRT's data type " +
                    std::to_string(static_cast<std::int32_t>(in_types[0])));
    }
    types[0] = in_types[0];
    return kDone;
  });
}

std::int32_t Plugin::getOutputShapes(const DimsExprs* inputs, std::int32_t in_count,
                                     const DimsExprs*, std::int32_t, DimsExprs* outputs,
                                     std::int32_t out_count,
                                     nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(title_, kFailed, [&] {
    require_counts(in_count, out_count);
    layer_->infer_output(inputs, Sizes(builder), outputs[0]);
    return kDone;
  });
}

bool Plugin::supportsFormatCombination(std::int32_t pos, const DynamicPluginTensorDesc* in_out,
                                       std::int32_t in_count, std::int32_t out_count) noexcept {
  return guarded(title_, false, [&] {
    require_counts(in_count, out_count);
    if (pos < 0 || pos >= in_count + out_count) return false;
    // Descriptions past `pos` are not valid yet.
    const PluginTensorDesc& own = in_out[pos].desc;
    const PluginTensorDesc& x = in_out[0].desc;
    const OpSpec& spec = layer_->spec();
    if (pos == 0) return layer_->takes(own.type, own.format);
    if (pos == in_count || spec.inputs[pos].type == ElementType::kActivation) {
      return own.type == x.type && own.format == x.format;
    }
    return own.type == constant_type(spec.inputs[pos].type) && own.format == TensorFormat::kLINEAR;
  });
}

std::int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t in_count,
                                     const DynamicPluginTensorDesc*,
                                     std::int32_t out_count) noexcept {
  return guarded(title_, kFailed, [&] {
    require_counts(in_count, out_count);
    configured_ = inputs_at(in, in_count, &DynamicPluginTensorDesc::opt);
    chosen_tactic_ = 0;
    if (!configured_.empty()) layer_->output_dims(configured_.data());
    return kDone;
  });
}

std::size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, std::int32_t in_count,
                                     const DynamicPluginTensorDesc*,
                                     std::int32_t out_count) const noexcept {
  return guarded(title_, std::size_t{0}, [&] {
    require_counts(in_count, out_count);
    return profile_workspace_bytes(*layer_, inputs, in_count, compute_capability());
  });
}

std::vector<int> Plugin::valid_tactics() const {
  if (configured_.empty()) return {};
  return layer_->tactics(configured_.data(), compute_capability());
}

std::int32_t Plugin::getNbTactics() noexcept {
  return guarded(title_, std::int32_t{0},
                 [&] { return static_cast<std::int32_t>(valid_tactics().size()); });
}

std::int32_t Plugin::getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept {
  return guarded(title_, kFailed, [&] {
    const std::vector<int> valid = valid_tactics();
    if (static_cast<std::size_t>(std::max(0, count)) > valid.size()) {
      throw Failure("expected at most " + std::to_string(valid.size()) + " tactics, got room for " +
                    std::to_string(count));
    }
    std::copy_n(valid.begin(), std::max(0, count), tactics);
    return kDone;
  });
}

const char* Plugin::getTimingCacheID() noexcept { return attributes_text_.c_str(); }
const char* Plugin::getMetadataString() noexcept { return attributes_text_.c_str(); }

// ---- Runtime ------------------------------------------------------------------------------------

std::int32_t Plugin::setTactic(std::int32_t tactic) noexcept {
  tactic_ = tactic;
  chosen_tactic_ = 0;
  return kDone;
}

std::int32_t Plugin::onShapeChange(const PluginTensorDesc* in, std::int32_t in_count,
                                   const PluginTensorDesc* out, std::int32_t out_count) noexcept {
  return guarded(title_, kFailed, [&] {
    require_counts(in_count, out_count);
    const Dims expected = layer_->output_dims(in);
    const Dims& got = out[0].dims;
    if (got.nbDims != expected.nbDims || !std::equal(got.d, got.d + got.nbDims, expected.d)) {
      throw Failure("expected Y of shape " + to_string(expected) + ", got " + to_string(got));
    }
    chosen_tactic_ = 0;
    return kDone;
  });
}

// The tactic of the engine was timed on the profile's optimal shapes and need not take these.
int Plugin::tactic_for(const PluginTensorDesc* inputs) {
  if (chosen_tactic_ != 0) return chosen_tactic_;
  const int capability = compute_capability();
  const std::vector<int> tactics = layer_->tactics(inputs, capability);
  if (tactics.empty()) {
    throw Failure("no kernel takes X of shape " + to_string(inputs[0].dims) +
                  " on a GPU of compute capability " + std::to_string(capability) + "; " +
                  attributes_text_);
  }
  const bool takes = std::find(tactics.begin(), tactics.end(), tactic_) != tactics.end();
  chosen_tactic_ = takes ? tactic_ : tactics.front();
  return chosen_tactic_;
}

std::int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                             const void* const* inputs, void* const* outputs, void* workspace,
                             cudaStream_t stream) noexcept {
  return guarded(title_, kFailed, [&] {
    const int tactic = tactic_for(in);
    if (workspace == nullptr && layer_->workspace_bytes(in, tactic) > 0) {
      throw Failure("expected a workspace, got none");
    }
    check_cuda(
        layer_->launch(in, tactic, {inputs, outputs[0], workspace, stream}),
        ("tactic " + std::to_string(tactic) + " on X of shape " + to_string(in[0].dims)).c_str());
    return kDone;
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  serialized_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
  return &serialized_;
}

}  // namespace trt
}  // namespace bitexport
