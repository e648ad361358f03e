// A plugin on a device that is played: what reaches the kernels, and what is said when they fail.

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "tests/check.h"
#include "tests/tensorrt/fake_tensorrt.h"
#include "tests/tensorrt/host_kernels.h"
#include "tests/tensorrt/layer_data.h"
#include "tests/tensorrt/layer_run.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport::kDeviceOps;
using bitexport::OpSpec;
using bitexport_test::host_device;
using bitexport_test::HostDevice;
using bitexport_test::kAnyTactic;
using bitexport_test::kBatchTactic;
using bitexport_test::kVectorTactic;
using bitexport_test::LayerData;
using bitexport_test::LayerRun;
using bitexport_test::Node;
using bitexport_test::PluginHandle;
using bitexport_test::PluginLibrary;
using bitexport_test::Random;
using bitexport_test::RecordingLogger;
using bitexport_test::state;

class Suite {
 public:
  Suite(const PluginLibrary& library, RecordingLogger& logger)
      : random_(7), library_(library), logger_(logger) {}

  void run() {
    for (const OpSpec& spec : kDeviceOps) {
      state().where = spec.name;
      test_launches(spec);
      test_clones_have_their_own_tactic(spec);
      test_workspace(spec);
      test_failures(spec);
      test_no_device(spec);
      test_empty_batch(spec);
    }
    test_formats();
  }

 private:
  void check_logged(const std::string& layer, const std::string& reason) {
    CHECK_EQUAL(logger_.errors.size(), 1u);
    const std::string line = logger_.take();
    const bool says = line.find(layer + " layer 'layer1.conv2'") != std::string::npos &&
                      line.find(reason) != std::string::npos;
    CHECK(says);
    if (!says) std::cerr << "  logged: " << line << ", expected: " << reason << "\n";
  }

  // The tactic and the stream reach the kernel; a tactic that does not take the shapes at hand is
  // replaced by the best that does.
  void test_launches(const OpSpec& spec) {
    Node node = bitexport_test::usual_node(spec);
    LayerRun run(library_, node);
    CHECK(run.tactics() == (std::vector<std::int32_t>{0, kBatchTactic, kAnyTactic}));
    const LayerData data = bitexport_test::make_layer_data(random_, node);
    // Never looked at.
    const auto stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{0x1230});
    const auto launched = [&](const Node& on, const LayerData& with, std::int32_t tactic) {
      host_device().launches.clear();
      CHECK_EQUAL(run.run(on, with, tactic, stream), 0);
      bitexport_test::check_output(with, run.output.data());
      CHECK_EQUAL(host_device().launches.size(), 1u);
      CHECK(host_device().launches.back().stream == stream);
      return host_device().launches.back().tactic;
    };
    CHECK_EQUAL(launched(node, data, 0), kBatchTactic);
    CHECK_EQUAL(launched(node, data, kBatchTactic), kBatchTactic);
    CHECK_EQUAL(launched(node, data, kAnyTactic), kAnyTactic);
    // In whichever order TensorRT calls.
    host_device().launches.clear();
    run.set_tactic(kBatchTactic);
    CHECK_EQUAL(run.enqueue(node, data), 0);
    CHECK_EQUAL(host_device().launches.back().tactic, kBatchTactic);
    node.shape.batch = 1;
    const LayerData single = bitexport_test::make_layer_data(random_, node);
    CHECK_EQUAL(launched(node, single, kBatchTactic), kAnyTactic);
    CHECK_EQUAL(launched(node, single, 0), kAnyTactic);
    const Node pair = bitexport_test::usual_node(spec);
    run.change_shape(pair);
    CHECK_EQUAL(run.enqueue(pair, data), 0);
    CHECK_EQUAL(host_device().launches.back().tactic, kBatchTactic);
    CHECK_EQUAL(logger_.errors.size(), 0u);
  }

  void test_formats() {
    Node node = bitexport_test::make_node(
        "SignConv", {{1, 20, 5, 5}, {12, 20, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1});
    node.type = nvinfer1::DataType::kHALF;
    node.format = nvinfer1::TensorFormat::kHWC8;
    LayerRun run(library_, node);
    CHECK(run.tactics() == (std::vector<std::int32_t>{0, kVectorTactic, kAnyTactic}));
  }

  void test_clones_have_their_own_tactic(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    LayerRun run(library_, node);
    const LayerData data = bitexport_test::make_layer_data(random_, node);
    CHECK_EQUAL(run.run(node, data, kBatchTactic), 0);
    PluginHandle original(run.engine_plugin().plugin->clone());
    const PluginHandle clone(original.plugin->clone());
    CHECK_EQUAL(original.runtime->setTactic(kAnyTactic), 0);
    std::swap(run.engine_plugin(), original);
    CHECK_EQUAL(clone.runtime->setTactic(kBatchTactic), 0);
    host_device().launches.clear();
    CHECK_EQUAL(run.run(node, data, kAnyTactic), 0);
    std::swap(run.engine_plugin(), original);
    CHECK_EQUAL(run.run(node, data, kBatchTactic), 0);
    CHECK_EQUAL(host_device().launches[0].tactic, kAnyTactic);
    CHECK_EQUAL(host_device().launches[1].tactic, kBatchTactic);
  }

  // Enough for every batch from 1 to the node's, though the small ones need the most.
  void test_workspace(const OpSpec& spec) {
    Node node = bitexport_test::usual_node(spec);
    node.shape.batch = 64;
    const LayerRun run(library_, node);
    const std::size_t most = std::max(bitexport_test::host_workspace_bytes(kAnyTactic, 1),
                                      bitexport_test::host_workspace_bytes(kBatchTactic, 2));
    CHECK_EQUAL(run.workspace_bytes(), most);
    const PluginHandle handle = library_.create(node);
    auto in = bitexport_test::with_bounds(spec, bitexport_test::input_descs(node), true, 1);
    in[0].max.nbDims = 0;
    CHECK_EQUAL(handle.build->getWorkspaceSize(in.data(), spec.inputs.count, nullptr, 1), 0u);
    check_logged(spec.name, "known sizes");
  }

  void test_failures(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    LayerRun run(library_, node);
    const LayerData data = bitexport_test::make_layer_data(random_, node);
    host_device().launch_error = cudaErrorLaunchFailure;
    CHECK(run.run(node, data, kAnyTactic) != 0);
    check_logged(spec.name, "tactic 3 on X of shape [2, ");
    host_device().launch_error = cudaSuccess;
    host_device().has_tactics = false;
    CHECK(run.run(node, data, kAnyTactic) != 0);
    check_logged(spec.name, "no kernel takes X");
    host_device().has_tactics = true;
    const auto in = bitexport_test::input_descs(node);
    const auto out = bitexport_test::output_desc(node);
    std::vector<const void*> inputs(in.size(), &in);
    void* const outputs[] = {&run};
    const auto launches = host_device().launches.size();
    CHECK(run.engine_plugin().runtime->enqueue(in.data(), &out, inputs.data(), outputs, nullptr,
                                               nullptr) != 0);
    check_logged(spec.name, "expected a workspace");
    CHECK_EQUAL(host_device().launches.size(), launches);
    const PluginHandle handle = library_.create(node);
    const auto bounded = bitexport_test::with_bounds(spec, in, true, 1);
    CHECK_EQUAL(handle.build->configurePlugin(bounded.data(), spec.inputs.count, nullptr, 1), 0);
    std::int32_t tactics[9] = {};
    CHECK(handle.build->getValidTactics(tactics, 9) != 0);
    check_logged(spec.name, "at most 2 tactics");
    CHECK_EQUAL(tactics[0], 0);
  }

  void test_no_device(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    LayerRun run(library_, node);
    const LayerData data = bitexport_test::make_layer_data(random_, node);
    const PluginHandle handle = library_.create(node);
    const auto in = bitexport_test::with_bounds(spec, bitexport_test::input_descs(node), true, 1);
    CHECK_EQUAL(handle.build->configurePlugin(in.data(), spec.inputs.count, nullptr, 1), 0);
    host_device().query_error = cudaErrorNoDevice;
    CHECK_EQUAL(handle.build->getNbTactics(), 0);
    check_logged(spec.name, "cudaErrorNoDevice");
    CHECK_EQUAL(handle.build->getWorkspaceSize(in.data(), spec.inputs.count, nullptr, 1), 0u);
    check_logged(spec.name, "cudaErrorNoDevice");
    CHECK(run.run(node, data, 0) != 0);
    check_logged(spec.name, "cudaErrorNoDevice");
    host_device().query_error = cudaSuccess;
    CHECK_EQUAL(run.run(node, data, 0), 0);
  }

  void test_empty_batch(const OpSpec& spec) {
    Node node = bitexport_test::usual_node(spec);
    LayerRun run(library_, node);
    node.shape.batch = 0;
    const LayerData data = bitexport_test::make_layer_data(random_, node);
    host_device().launches.clear();
    CHECK_EQUAL(run.run(node, data, 0), 0);
    CHECK_EQUAL(host_device().launches.size(), 0u);
    CHECK_EQUAL(logger_.errors.size(), 0u);
  }

  Random random_;
  const PluginLibrary& library_;
  RecordingLogger& logger_;
};

}  // namespace

int main() {
  RecordingLogger logger;
  const PluginLibrary library(nullptr);
  library.set_logger_finder(&logger);
  Suite(library, logger).run();
  return bitexport_test::finish();
}
