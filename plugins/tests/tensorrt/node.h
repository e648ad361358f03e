// A node of the op table with sizes: its plugin fields, and how TensorRT describes its tensors.

#ifndef BITEXPORT_TESTS_TENSORRT_NODE_H_
#define BITEXPORT_TESTS_TENSORRT_NODE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/conv_shape.h"
#include "core/op_spec.h"
#include "tensorrt/api.h"

namespace bitexport_test {

// A linear layer is the 1x1 convolution of 1x1 images that computes the same.
struct Node {
  const bitexport::OpSpec* spec;
  bitexport::ConvShape shape;
  std::int32_t entries = 0;  // of the codebook; 0 without one
  std::int32_t depth = 0;
  nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;
  nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR;

  bool is_gemm() const { return spec->kind == bitexport::OpKind::kGemm; }
  bool has_codebook() const { return bitexport::input_index(*spec, "CB") >= 0; }
  bool is_binary() const { return bitexport::input_index(*spec, "Th") >= 0; }
  bitexport::CodeBits code_bits() const;
  std::string title() const;
};

Node make_node(const char* op, const bitexport::ConvArguments& arguments);
// A node of the op with sizes of a usual layer.
Node usual_node(const bitexport::OpSpec& spec);

// The node's attributes as plugin fields; they may be changed, or left out, before they are used.
class Fields {
 public:
  explicit Fields(const Node& node);
  explicit Fields(const nvinfer1::PluginFieldCollection& collection);
  Fields(const Fields&) = delete;  // `list` points into `values`
  Fields& operator=(const Fields&) = delete;

  nvinfer1::PluginFieldCollection collection() const;

  std::map<std::string, std::vector<std::int32_t>> values;
  std::vector<nvinfer1::PluginField> list;
};

// Shapes of the op table, in the order of its inputs.
std::vector<nvinfer1::PluginTensorDesc> input_descs(const Node& node);
nvinfer1::PluginTensorDesc output_desc(const Node& node);

// As configurePlugin sees a description: the batch is -1 where it is dynamic.
std::vector<nvinfer1::DynamicPluginTensorDesc> with_bounds(
    const bitexport::OpSpec& spec, const std::vector<nvinfer1::PluginTensorDesc>& descs,
    bool dynamic_batch, std::int64_t least_batch);

// A plugin, deleted as TensorRT deletes it, with its three capabilities.
struct PluginHandle {
  explicit PluginHandle(nvinfer1::IPluginV3* its_plugin);

  std::unique_ptr<nvinfer1::IPluginV3> plugin;
  nvinfer1::IPluginV3OneCore* core = nullptr;
  nvinfer1::IPluginV3OneBuild* build = nullptr;
  nvinfer1::IPluginV3OneRuntime* runtime = nullptr;
};

// The creators of a plugin library, found as TensorRT's registry finds them.
class PluginLibrary {
 public:
  // The library at `path`; without one the plugins linked into this program.
  explicit PluginLibrary(const char* path);

  nvinfer1::IPluginCreatorV3One& creator(const std::string& op,
                                         const std::string& plugin_namespace) const;
  PluginHandle create(const Node& node, const char* layer_name = "layer1.conv2") const;

  std::vector<nvinfer1::IPluginCreatorInterface*> creators;
  void (*set_logger_finder)(nvinfer1::ILoggerFinder*) = nullptr;
};

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_NODE_H_
