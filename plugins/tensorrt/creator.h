// The creators of all ops of the table, as the plugin registry takes them.

#ifndef BITEXPORT_TENSORRT_CREATOR_H_
#define BITEXPORT_TENSORRT_CREATOR_H_

#include <vector>

#include "core/op_spec.h"
#include "tensorrt/api.h"

namespace bitexport {
namespace trt {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // `plugin_namespace` is a literal.
  Creator(const OpSpec& spec, const char* plugin_namespace);

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  const OpSpec* spec_;
  const char* namespace_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection names_;
};

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_CREATOR_H_
