#include "tests/tensorrt/node.h"

#include <dlfcn.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "tests/conv_cases.h"

extern "C" {
nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);
void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
}

namespace bitexport_test {
namespace {

using bitexport::ConvArguments;
using bitexport::ConvAxis;
using bitexport::OpSpec;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginCreatorInterface;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

PluginTensorDesc desc(std::initializer_list<std::int64_t> dims, nvinfer1::DataType type,
                      TensorFormat format = TensorFormat::kLINEAR) {
  PluginTensorDesc result{};
  result.dims.nbDims = static_cast<std::int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), result.dims.d);
  result.type = type;
  result.format = format;
  result.scale = -1.0f;
  return result;
}

Dims x_dims(const Node& node) {
  const bitexport::ConvShape& s = node.shape;
  if (node.is_gemm()) return {2, {s.batch, s.in_channels}};
  return {4, {s.batch, s.in_channels, s.vertical.size, s.horizontal.size}};
}

Dims y_dims(const Node& node) {
  const bitexport::ConvShape& s = node.shape;
  if (node.is_gemm()) return {2, {s.batch, s.out_channels}};
  return {4, {s.batch, s.out_channels, s.vertical.out_size(), s.horizontal.out_size()}};
}

PluginTensorDesc input_desc(const Node& node, std::string_view name) {
  using nvinfer1::DataType;
  const bitexport::ConvShape& s = node.shape;
  const std::int64_t row = std::int64_t{1} * s.in_channels_per_group() * s.taps();
  if (name == "X" || name == "R") {
    return {name == "X" ? x_dims(node) : y_dims(node), node.type, node.format, -1.0f};
  }
  if (name == "W") {
    return desc({s.out_channels, s.vertical.kernel, s.horizontal.kernel, s.words_per_tap()},
                DataType::kINT32);
  }
  if (name == "Codes") {
    const std::int64_t words = bitexport::code_words(row / node.depth, node.code_bits());
    return desc({s.out_channels, words}, DataType::kINT32);
  }
  if (name == "CB") return desc({node.entries, node.depth}, DataType::kHALF);
  if (name == "Lo" || name == "Hi") return desc({1, 1, 1, 1}, DataType::kFLOAT);
  if (name == "Th") return desc({1, s.in_channels, 1, 1}, DataType::kFLOAT);
  return node.is_gemm() ? desc({1, s.out_channels}, DataType::kFLOAT)
                        : desc({1, s.out_channels, 1, 1}, DataType::kFLOAT);
}

template <typename Function>
Function* symbol(void* library, const char* name) {
  void* const address = dlsym(library, name);
  if (address == nullptr) throw std::runtime_error(std::string("no symbol ") + name);
  return reinterpret_cast<Function*>(address);
}

}  // namespace

bitexport::CodeBits Node::code_bits() const {
  const bool narrow = std::string_view(spec->name) == "CodebookConv";
  return narrow ? bitexport::CodeBits::k8 : bitexport::CodeBits::k16;
}

std::string Node::title() const {
  const auto axis = [](const ConvAxis& a) {
    return std::to_string(a.size) + " kernel " + std::to_string(a.kernel) + " stride " +
           std::to_string(a.stride) + " pads " + std::to_string(a.pad_begin) + "," +
           std::to_string(a.pad_end) + " dilation " + std::to_string(a.dilation);
  };
  std::string text = std::string(spec->name) + " N " + std::to_string(shape.batch) + " Ci " +
                     std::to_string(shape.in_channels) + " Co " +
                     std::to_string(shape.out_channels) + " group " + std::to_string(shape.group);
  text += " H " + axis(shape.vertical) + " W " + axis(shape.horizontal);
  if (has_codebook()) text += " K " + std::to_string(entries) + " d " + std::to_string(depth);
  text += type == nvinfer1::DataType::kHALF ? " float16" : " float32";
  return text + (format == TensorFormat::kHWC8 ? " HWC8" : " linear");
}

Node make_node(const char* op, const ConvArguments& arguments) {
  const int index = bitexport::op_index(op);
  const bitexport::ConvShapeResult result = bitexport::make_conv_shape(arguments);
  if (index < 0 || !result.ok()) throw std::runtime_error(std::string("no node ") + op);
  Node node{&bitexport::kDeviceOps[index], result.shape};
  if (node.has_codebook()) {
    node.entries = node.code_bits() == bitexport::CodeBits::k8 ? 256 : 300;
    node.depth = 1;
  }
  return node;
}

Node usual_node(const OpSpec& spec) {
  if (spec.kind == bitexport::OpKind::kGemm) {
    Node node = make_node(spec.name, {{2, 72, 1, 1}, {10, 72, 1, 1}});
    node.depth = 4;
    return node;
  }
  Node node =
      make_node(spec.name, {{2, 64, 7, 6}, {24, 32, 3, 3}, {2, 1}, {1, 1, 1, 1}, {1, 1}, 2});
  if (node.has_codebook()) node.depth = 9;
  return node;
}

Fields::Fields(const Node& node) {
  const bitexport::ConvShape& s = node.shape;
  const ConvAxis& v = s.vertical;
  const ConvAxis& h = s.horizontal;
  if (node.is_gemm()) {
    values["wshape"] = {s.out_channels, s.in_channels};
  } else {
    values["wshape"] = {s.out_channels, s.in_channels_per_group(), v.kernel, h.kernel};
    values["strides"] = {v.stride, h.stride};
    values["pads"] = {v.pad_begin, h.pad_begin, v.pad_end, h.pad_end};
    values["dilations"] = {v.dilation, h.dilation};
    values["group"] = {s.group};
  }
  for (const auto& [name, numbers] : values) {
    list.emplace_back(name.c_str(), numbers.data(), PluginFieldType::kINT32,
                      static_cast<std::int32_t>(numbers.size()));
  }
}

// A deep copy: TensorRT keeps the bytes of what is serialized, and not the plugin.
Fields::Fields(const PluginFieldCollection& collection) {
  for (std::int32_t i = 0; i < collection.nbFields; ++i) {
    const PluginField& field = collection.fields[i];
    const auto* first = static_cast<const std::int32_t*>(field.data);
    const auto [entry, is_new] =
        values.emplace(field.name, std::vector<std::int32_t>(first, first + field.length));
    if (!is_new) throw std::runtime_error("a field was serialized twice");
    list.emplace_back(entry->first.c_str(), entry->second.data(), field.type, field.length);
  }
}

PluginFieldCollection Fields::collection() const {
  return {static_cast<std::int32_t>(list.size()), list.data()};
}

std::vector<PluginTensorDesc> input_descs(const Node& node) {
  std::vector<PluginTensorDesc> descs;
  for (const bitexport::InputSpec& input : node.spec->inputs) {
    descs.push_back(input_desc(node, input.name));
  }
  return descs;
}

PluginTensorDesc output_desc(const Node& node) {
  return {y_dims(node), node.type, node.format, -1.0f};
}

std::vector<DynamicPluginTensorDesc> with_bounds(const OpSpec& spec,
                                                 const std::vector<PluginTensorDesc>& descs,
                                                 bool dynamic_batch, std::int64_t least_batch) {
  std::vector<DynamicPluginTensorDesc> bounded;
  for (std::size_t i = 0; i < descs.size(); ++i) {
    DynamicPluginTensorDesc tensor{descs[i], descs[i].dims, descs[i].dims, descs[i].dims};
    const int input = static_cast<int>(i);
    const bool has_batch = input >= spec.inputs.count ||
                           spec.inputs[input].type == bitexport::ElementType::kActivation;
    if (dynamic_batch && has_batch) {
      tensor.desc.dims.d[0] = -1;
      tensor.min.d[0] = least_batch;
    }
    bounded.push_back(tensor);
  }
  return bounded;
}

PluginHandle::PluginHandle(nvinfer1::IPluginV3* its_plugin) : plugin(its_plugin) {
  if (plugin == nullptr) return;
  const auto capability = [this](PluginCapabilityType type) {
    return plugin->getCapabilityInterface(type);
  };
  core = static_cast<nvinfer1::IPluginV3OneCore*>(capability(PluginCapabilityType::kCORE));
  build = static_cast<nvinfer1::IPluginV3OneBuild*>(capability(PluginCapabilityType::kBUILD));
  runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(capability(PluginCapabilityType::kRUNTIME));
}

PluginLibrary::PluginLibrary(const char* path) {
  auto* get_creators = &getCreators;
  set_logger_finder = &setLoggerFinder;
  if (path != nullptr) {
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    get_creators = symbol<std::remove_pointer_t<decltype(get_creators)>>(library, "getCreators");
    set_logger_finder =
        symbol<std::remove_pointer_t<decltype(set_logger_finder)>>(library, "setLoggerFinder");
  }
  std::int32_t count = 0;
  IPluginCreatorInterface* const* list = get_creators(count);
  creators.assign(list, list + count);
}

nvinfer1::IPluginCreatorV3One& PluginLibrary::creator(const std::string& op,
                                                      const std::string& plugin_namespace) const {
  for (IPluginCreatorInterface* const candidate : creators) {
    auto& creator = *static_cast<nvinfer1::IPluginCreatorV3One*>(candidate);
    if (creator.getPluginName() == op && creator.getPluginNamespace() == plugin_namespace) {
      return creator;
    }
  }
  throw std::runtime_error("no creator for " + op);
}

PluginHandle PluginLibrary::create(const Node& node, const char* layer_name) const {
  const Fields fields(node);
  const PluginFieldCollection collection = fields.collection();
  return PluginHandle(creator(node.spec->name, bitexport::kDomain)
                          .createPlugin(layer_name, &collection, nvinfer1::TensorRTPhase::kBUILD));
}

}  // namespace bitexport_test
