#include "tests/tensorrt/layer_run.h"

#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.h"
#include "tests/check.h"

namespace bitexport_test {
namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

std::vector<DeviceBuffer> upload(const LayerData& data) {
  std::vector<DeviceBuffer> buffers;
  buffers.reserve(data.inputs.size());
  for (const std::vector<std::uint8_t>& input : data.inputs) buffers.emplace_back(input);
  return buffers;
}

bitexport::cuda::ConvProblem problem_of(const Node& node) {
  return {node.shape,
          bitexport::cuda::WeightKind::kBinary,
          node.type == nvinfer1::DataType::kHALF ? bitexport::cuda::DataType::kFloat16
                                                 : bitexport::cuda::DataType::kFloat32,
          node.format == nvinfer1::TensorFormat::kHWC8 ? bitexport::cuda::Layout::kNhwc8
                                                       : bitexport::cuda::Layout::kNchw,
          false,
          0,
          0};
}

}  // namespace

LayerRun::LayerRun(const PluginLibrary& library, const Node& node) : engine_(nullptr) {
  const PluginHandle built = library.create(node);
  const auto in = with_bounds(*node.spec, input_descs(node), true, 1);
  const auto out = with_bounds(*node.spec, {output_desc(node)}, true, 1);
  const auto count = static_cast<std::int32_t>(in.size());
  CHECK_EQUAL(built.build->configurePlugin(in.data(), count, out.data(), 1), 0);
  const std::int32_t valid = built.build->getNbTactics();
  CHECK(valid > 0);
  std::vector<std::int32_t> tactics(static_cast<std::size_t>(valid));
  CHECK_EQUAL(built.build->getValidTactics(tactics.data(), valid), 0);
  for (const std::int32_t tactic : tactics) CHECK(tactic > 0);
  tactics_.insert(tactics_.end(), tactics.begin(), tactics.end());
  workspace_bytes_ = built.build->getWorkspaceSize(in.data(), count, out.data(), 1);
  const Fields stored(*built.runtime->getFieldsToSerialize());
  const nvinfer1::PluginFieldCollection collection = stored.collection();
  const PluginHandle loaded(
      library.creator(node.spec->name, bitexport::kDomain)
          .createPlugin("layer1.conv2", &collection, nvinfer1::TensorRTPhase::kRUNTIME));
  if (loaded.plugin == nullptr) throw std::runtime_error("no plugin from what was serialized");
  engine_ = PluginHandle(loaded.runtime->attachToContext(nullptr));
}

void LayerRun::set_tactic(std::int32_t tactic) {
  CHECK_EQUAL(engine_.runtime->setTactic(tactic), 0);
}

void LayerRun::change_shape(const Node& node) {
  const std::vector<PluginTensorDesc> in = input_descs(node);
  const PluginTensorDesc out = output_desc(node);
  const auto count = static_cast<std::int32_t>(in.size());
  CHECK_EQUAL(engine_.runtime->onShapeChange(in.data(), count, &out, 1), 0);
}

std::int32_t LayerRun::run(const Node& node, const LayerData& data, std::int32_t tactic,
                           cudaStream_t stream) {
  set_tactic(tactic);
  change_shape(node);
  return enqueue(node, data, stream);
}

std::int32_t LayerRun::enqueue(const Node& node, const LayerData& data, cudaStream_t stream) {
  const std::vector<PluginTensorDesc> in = input_descs(node);
  const PluginTensorDesc out = output_desc(node);
  const std::vector<DeviceBuffer> inputs = upload(data);
  std::vector<const void*> pointers;
  for (const DeviceBuffer& input : inputs) pointers.push_back(input.data());
  const DeviceBuffer workspace(workspace_bytes_);
  const DeviceBuffer y(data.output.bytes());
  void* const outputs[] = {y.data()};
  const std::int32_t result =
      engine_.runtime->enqueue(in.data(), &out, pointers.data(), outputs,
                               workspace_bytes_ > 0 ? workspace.data() : nullptr, stream);
  device_synchronize();
  CHECK(workspace.guards_intact());
  CHECK(y.guards_intact());
  for (std::size_t i = 0; i < inputs.size(); ++i) CHECK(inputs[i].contents() == data.inputs[i]);
  output = y.contents();
  return result;
}

void LayerRun::check(const Node& node, const LayerData& data, std::int32_t tactic) {
  state().where = node.title() + " tactic " + std::to_string(tactic);
  CHECK_EQUAL(run(node, data, tactic), 0);
  check_output(data, output.data());
}

void check_accumulators(const Node& node, const LayerData& data) {
  using namespace bitexport::cuda;
  const ConvProblem problem = problem_of(node);
  const int capability = device_compute_capability();
  std::vector<int> tactics(static_cast<std::size_t>(conv_tactics(problem, capability, nullptr, 0)));
  conv_tactics(problem, capability, tactics.data(), static_cast<int>(tactics.size()));
  tactics.push_back(kReferenceTactic);
  const std::vector<DeviceBuffer> inputs = upload(data);
  for (const int tactic : tactics) {
    state().where = node.title() + " accumulators of tactic " + std::to_string(tactic);
    const DeviceBuffer workspace(conv_workspace_bytes(problem, tactic));
    const DeviceBuffer accumulators(data.accumulators.size() * sizeof(std::int32_t));
    ConvBuffers buffers{};
    buffers.x = inputs[bitexport::BinaryConvInput::kX].data();
    buffers.weight =
        static_cast<const std::uint32_t*>(inputs[bitexport::BinaryConvInput::kW].data());
    buffers.threshold = static_cast<const float*>(inputs[bitexport::BinaryConvInput::kTh].data());
    buffers.workspace = workspace.data();
    CHECK_EQUAL(
        static_cast<int>(binary_accumulate(
            problem, buffers, tactic, static_cast<std::int32_t*>(accumulators.data()), nullptr)),
        static_cast<int>(cudaSuccess));
    device_synchronize();
    const std::vector<std::uint8_t> bytes = accumulators.contents();
    std::vector<std::int32_t> got(data.accumulators.size());
    std::memcpy(got.data(), bytes.data(), bytes.size());
    CHECK(got == data.accumulators);
    CHECK(workspace.guards_intact());
    CHECK(accumulators.guards_intact());
  }
}

}  // namespace bitexport_test
