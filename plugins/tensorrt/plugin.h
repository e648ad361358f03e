// A layer as TensorRT's IPluginV3: the edge where exceptions end.

#ifndef BITEXPORT_TENSORRT_PLUGIN_H_
#define BITEXPORT_TENSORRT_PLUGIN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensorrt/api.h"
#include "tensorrt/layer.h"

namespace bitexport {
namespace trt {

// The op version, as TensorRT writes it.
inline constexpr const char* kPluginVersion = "1";
static_assert(kOpVersion == 1, "kPluginVersion is kOpVersion as text");

// "SignConv layer 'stem'", as log lines call it.
std::string layer_title(const OpSpec& spec, const char* layer_name);

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // `plugin_namespace` is the creator's, and a literal.
  Plugin(std::shared_ptr<const Layer> layer, const std::string& title,
         const char* plugin_namespace);

  // ---- IPluginV3 --------------------------------------------------------------------------------
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // ---- Core -------------------------------------------------------------------------------------
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  // ---- Build ------------------------------------------------------------------------------------
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t in_count,
                               const nvinfer1::DynamicPluginTensorDesc* out,
                               std::int32_t out_count) noexcept override;
  std::int32_t getOutputDataTypes(nvinfer1::DataType* types, std::int32_t out_count,
                                  const nvinfer1::DataType* in_types,
                                  std::int32_t in_count) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t in_count,
                               const nvinfer1::DimsExprs* shape_inputs,
                               std::int32_t shape_input_count, nvinfer1::DimsExprs* outputs,
                               std::int32_t out_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t pos, const nvinfer1::DynamicPluginTensorDesc* in_out,
                                 std::int32_t in_count, std::int32_t out_count) noexcept override;
  std::int32_t getNbOutputs() const noexcept override;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs,
                               std::int32_t in_count,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t out_count) const noexcept override;
  std::int32_t getNbTactics() noexcept override;
  std::int32_t getValidTactics(std::int32_t* tactics, std::int32_t count) noexcept override;
  const char* getTimingCacheID() noexcept override;
  const char* getMetadataString() noexcept override;

  // ---- Runtime ----------------------------------------------------------------------------------
  std::int32_t setTactic(std::int32_t tactic) noexcept override;
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t in_count,
                             const nvinfer1::PluginTensorDesc* out,
                             std::int32_t out_count) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                       const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  void require_counts(std::int32_t in_count, std::int32_t out_count) const;
  std::vector<int> valid_tactics() const;
  int tactic_for(const nvinfer1::PluginTensorDesc* inputs);

  std::shared_ptr<const Layer> layer_;
  std::string title_;
  const char* namespace_;
  std::string attributes_text_;
  std::vector<nvinfer1::PluginField> fields_;  // point into layer_
  nvinfer1::PluginFieldCollection serialized_{};
  // The inputs that the last configurePlugin optimizes for; none where a size is not known yet.
  std::vector<nvinfer1::PluginTensorDesc> configured_;
  std::int32_t tactic_ = 0;  // TensorRT's choice; 0 leaves it to us
  int chosen_tactic_ = 0;    // for the shapes at hand; 0 before the first launch on them
};

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_PLUGIN_H_
