#include "benchmarks/trt_layers.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/conv_shape.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport_test::Node;
using bitexport_test::PluginHandle;
using bitexport_test::PluginLibrary;

thread_local std::string last_error;

// Errors of plugins come by their log.
class Listener : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) last_error = message;
  }
  nvinfer1::ILogger* findLogger() override { return this; }
};

const PluginLibrary& library() {
  static Listener listener;
  static const PluginLibrary instance(nullptr);
  instance.set_logger_finder(&listener);
  return instance;
}

Node node_of(const char* op, const LayerSizes& sizes) {
  bitexport::ConvArguments arguments{};
  std::copy_n(sizes.input, 4, arguments.input);
  std::copy_n(sizes.weight, 4, arguments.weight);
  std::copy_n(sizes.strides, 2, arguments.strides);
  std::copy_n(sizes.pads, 4, arguments.pads);
  std::copy_n(sizes.dilations, 2, arguments.dilations);
  arguments.group = sizes.group;
  Node node = bitexport_test::make_node(op, arguments);
  if (node.has_codebook()) {
    if (sizes.entries < 1 || sizes.depth < 1) throw std::invalid_argument("no codebook's size");
    node.entries = sizes.entries;
    node.depth = sizes.depth;
  }
  node.type = sizes.is_half != 0 ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kFLOAT;
  node.format =
      sizes.is_nhwc8 != 0 ? nvinfer1::TensorFormat::kHWC8 : nvinfer1::TensorFormat::kLINEAR;
  return node;
}

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string(what) + ": " + last_error);
}

}  // namespace

struct Layer {
  Layer(const char* op, const LayerSizes& sizes)
      : node(node_of(op, sizes)),
        in(bitexport_test::input_descs(node)),
        out(bitexport_test::output_desc(node)),
        plugin(nullptr) {
    const PluginHandle built = library().create(node, op);
    require(built.plugin != nullptr, "the plugin was not created");
    const auto inputs = bitexport_test::with_bounds(*node.spec, in, false, 1);
    const auto outputs = bitexport_test::with_bounds(*node.spec, {out}, false, 1);
    const auto count = static_cast<std::int32_t>(inputs.size());
    require(built.build->configurePlugin(inputs.data(), count, outputs.data(), 1) == 0,
            "the plugin was not configured");
    tactics.resize(static_cast<std::size_t>(built.build->getNbTactics()));
    require(!tactics.empty(), "the plugin has no tactic");
    require(built.build->getValidTactics(tactics.data(),
                                         static_cast<std::int32_t>(tactics.size())) == 0,
            "the plugin did not list its tactics");
    workspace_bytes = built.build->getWorkspaceSize(inputs.data(), count, outputs.data(), 1);
    const bitexport_test::Fields stored(*built.runtime->getFieldsToSerialize());
    const nvinfer1::PluginFieldCollection collection = stored.collection();
    plugin = PluginHandle(library()
                              .creator(op, bitexport::kDomain)
                              .createPlugin(op, &collection, nvinfer1::TensorRTPhase::kRUNTIME));
    require(plugin.plugin != nullptr, "the plugin was not created again");
    require(plugin.runtime->onShapeChange(in.data(), count, &out, 1) == 0, "the shapes do not fit");
  }

  Node node;
  std::vector<nvinfer1::PluginTensorDesc> in;
  nvinfer1::PluginTensorDesc out;
  std::vector<std::int32_t> tactics;
  std::size_t workspace_bytes = 0;
  PluginHandle plugin;
};

extern "C" {

Layer* layer_create(const char* op, const LayerSizes* sizes) {
  try {
    return new Layer(op, *sizes);
  } catch (const std::exception& error) {
    last_error = error.what();
    return nullptr;
  }
}

void layer_destroy(Layer* layer) { delete layer; }

std::int32_t layer_tactics(const Layer* layer, std::int32_t* tactics, std::int32_t capacity) {
  const auto count = static_cast<std::int32_t>(layer->tactics.size());
  std::copy_n(layer->tactics.begin(), std::min(count, capacity), tactics);
  return count;
}

std::size_t layer_workspace_bytes(const Layer* layer) { return layer->workspace_bytes; }

std::int32_t layer_enqueue(Layer* layer, std::int32_t tactic, const void* const* inputs,
                           void* output, void* workspace, void* stream) {
  void* const outputs[] = {output};
  const std::int32_t set = layer->plugin.runtime->setTactic(tactic);
  return set != 0 ? set
                  : layer->plugin.runtime->enqueue(layer->in.data(), &layer->out, inputs, outputs,
                                                   workspace, static_cast<cudaStream_t>(stream));
}

const char* layer_error() { return last_error.c_str(); }

}  // extern "C"
