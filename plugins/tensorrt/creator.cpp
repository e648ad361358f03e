#include "tensorrt/creator.h"

#include <memory>

#include "tensorrt/attributes.h"
#include "tensorrt/log.h"
#include "tensorrt/plugin.h"

namespace bitexport {
namespace trt {

using nvinfer1::IPluginV3;
using nvinfer1::PluginFieldCollection;

Creator::Creator(const OpSpec& spec, const char* plugin_namespace)
    : spec_(&spec), namespace_(plugin_namespace), fields_(field_names(spec)) {
  names_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

// The phases do not differ: what was serialized are the attributes.
IPluginV3* Creator::createPlugin(const char* name, const PluginFieldCollection* fields,
                                 nvinfer1::TensorRTPhase) noexcept {
  IPluginV3* const none = nullptr;
  return guarded(spec_->name, none, [&] {
    const std::string title = layer_title(*spec_, name);
    return guarded(title, none, [&]() -> IPluginV3* {
      if (fields == nullptr) throw Failure("expected plugin fields, got none");
      auto* const plugin = new Plugin(make_layer(Attributes(*spec_, *fields)), title, namespace_);
      log_verbose(title, plugin->getMetadataString());
      return plugin;
    });
  });
}

const PluginFieldCollection* Creator::getFieldNames() noexcept { return &names_; }
const char* Creator::getPluginName() const noexcept { return spec_->name; }
const char* Creator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* Creator::getPluginNamespace() const noexcept { return namespace_; }

}  // namespace trt
}  // namespace bitexport
