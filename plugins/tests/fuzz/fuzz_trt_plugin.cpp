// A plugin from what a hostile engine or model may hold: fields, shapes, types and tactics made of
// arbitrary bytes. What is refused must be refused by a return value; sanitizers see the rest.
//
// The plans of the kernels are the real ones; only the launches are left out.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/gemm_plan.h"
#include "kernels/cuda/kernels.h"
#include "tests/tensorrt/fake_tensorrt.h"
#include "tests/tensorrt/host_kernels.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport_test::FakeBuilder;
using bitexport_test::Fields;
using bitexport_test::Node;
using bitexport_test::PluginHandle;
using bitexport_test::PluginLibrary;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorRTPhase;

constexpr int kRoom = 64;  // numbers behind a field, whatever its length claims
constexpr std::int32_t kDims = nvinfer1::Dims::MAX_DIMS;

// Takes decisions from bytes; zeros where they are used up.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  int below(int limit) {
    return static_cast<int>(take<std::uint16_t>() % static_cast<unsigned>(limit));
  }
  bool one_in(int count) { return below(count) == 0; }
  bool empty() const { return size_ == 0; }

  // Often near what is usual, sometimes anything.
  std::int64_t number() {
    constexpr std::int64_t kOdd[] = {-1,         0,       1,         2,           31,
                                     32,         33,      65535,     65536,       2147483647,
                                     2147483648, 1 << 30, 1LL << 40, -2147483648, 1LL << 62};
    switch (below(4)) {
      case 0:
        return kOdd[below(static_cast<int>(std::size(kOdd)))];
      case 1:
        return take<std::int32_t>();
      case 2:
        return take<std::int64_t>();
      default:
        return below(300);
    }
  }

  template <typename T>
  T take() {
    T value{};
    const std::size_t count = std::min(sizeof(T), size_);
    if (count > 0) std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// Fields as a damaged engine or a forged node gives them.
class HostileFields {
 public:
  HostileFields(const Fields& sound, Bytes& bytes) {
    for (const PluginField& field : sound.list) add(field);
    for (int changes = bytes.below(5); changes > 0; --changes) change(bytes);
  }

  PluginFieldCollection collection() const {
    return {static_cast<std::int32_t>(list_.size()), list_.data()};
  }

 private:
  void add(const PluginField& field) {
    auto room = std::make_unique<std::int32_t[]>(kRoom);
    std::memcpy(room.get(), field.data, sizeof(std::int32_t) * static_cast<unsigned>(field.length));
    list_.push_back(field);
    list_.back().data = room.get();
    rooms_.push_back(std::move(room));
  }

  void change(Bytes& bytes) {
    if (list_.empty()) return;
    PluginField& field =
        list_[static_cast<std::size_t>(bytes.below(static_cast<int>(list_.size())))];
    switch (bytes.below(8)) {
      case 0:
        field.length = static_cast<std::int32_t>(bytes.number());
        return;
      case 1:
        field.type = static_cast<nvinfer1::PluginFieldType>(bytes.below(16));
        return;
      case 2:
        field.name = bytes.one_in(4) ? nullptr : "pads";
        return;
      case 3:
        field.data = nullptr;
        return;
      case 4:
        list_.erase(list_.begin() + (&field - list_.data()));
        return;
      case 5:
        list_.push_back(PluginField(field));
        return;
      default:
        if (field.data == nullptr) return;
        auto* const values = static_cast<std::int32_t*>(const_cast<void*>(field.data));
        values[bytes.below(8)] = static_cast<std::int32_t>(bytes.number());
    }
  }

  std::vector<PluginField> list_;
  std::vector<std::unique_ptr<std::int32_t[]>> rooms_;
};

void damage(nvinfer1::Dims& dims, Bytes& bytes) {
  if (bytes.one_in(4)) dims.nbDims = bytes.below(kDims + 2) - 1;
  dims.d[bytes.below(kDims)] = bytes.number();
}

std::vector<DynamicPluginTensorDesc> hostile_descs(const Node& node, Bytes& bytes) {
  std::vector<PluginTensorDesc> descs = bitexport_test::input_descs(node);
  descs.push_back(bitexport_test::output_desc(node));
  auto bounded = bitexport_test::with_bounds(*node.spec, descs, bytes.one_in(2), bytes.below(3));
  for (int changes = bytes.below(5); changes > 0; --changes) {
    auto& tensor = bounded[static_cast<std::size_t>(bytes.below(static_cast<int>(bounded.size())))];
    switch (bytes.below(6)) {
      case 0:
        tensor.desc.type = static_cast<nvinfer1::DataType>(bytes.below(12));
        break;
      case 1:
        tensor.desc.format = static_cast<nvinfer1::TensorFormat>(bytes.below(14));
        break;
      case 2:
        damage(tensor.min, bytes);
        break;
      case 3:
        damage(tensor.max, bytes);
        break;
      case 4:
        damage(tensor.opt, bytes);
        break;
      default:
        damage(tensor.desc.dims, bytes);
    }
  }
  return bounded;
}

void infer(const PluginHandle& handle, const std::vector<DynamicPluginTensorDesc>& descs,
           std::int32_t count, Bytes& bytes) {
  FakeBuilder builder(bytes.one_in(8) ? bytes.below(6) : 1000);
  std::vector<DimsExprs> inputs(descs.size());
  for (std::size_t i = 0; i < descs.size(); ++i) {
    inputs[i].nbDims = std::clamp(descs[i].desc.dims.nbDims, 0, kDims);
    for (int d = 0; d < inputs[i].nbDims; ++d) {
      // TensorRT's own arithmetic on sizes is not on trial.
      constexpr std::int64_t kMost = std::int64_t{1} << 40;
      inputs[i].d[d] =
          builder.make(std::clamp(descs[i].desc.dims.d[d], -kMost, kMost), !bytes.one_in(3));
    }
  }
  DimsExprs output{};
  handle.build->getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, builder);
}

void drive(const PluginHandle& handle, const Node& node, Bytes& bytes) {
  const auto descs = hostile_descs(node, bytes);
  const auto inputs = static_cast<std::int32_t>(descs.size()) - 1;
  const std::int32_t said = bytes.one_in(16) ? bytes.below(9) : inputs;
  const DynamicPluginTensorDesc* const output = &descs.back();
  infer(handle, descs, said, bytes);
  nvinfer1::DataType type{};
  handle.build->getOutputDataTypes(&type, 1, &descs[0].desc.type, said);
  for (std::int32_t pos = -1; pos <= inputs + 1; ++pos) {
    handle.build->supportsFormatCombination(pos, descs.data(), said, 1);
  }
  handle.build->configurePlugin(descs.data(), said, output, 1);
  handle.build->getWorkspaceSize(descs.data(), said, output, 1);
  const std::int32_t tactics = handle.build->getNbTactics();
  std::vector<std::int32_t> valid(static_cast<std::size_t>(std::max(tactics, 0)));
  handle.build->getValidTactics(valid.data(), tactics);
  std::vector<PluginTensorDesc> fixed;
  fixed.reserve(descs.size());
  for (const DynamicPluginTensorDesc& tensor : descs) fixed.push_back(tensor.desc);
  const bool known = bytes.one_in(2) && !valid.empty();
  handle.runtime->setTactic(known ? valid.back() : static_cast<std::int32_t>(bytes.number()));
  handle.runtime->onShapeChange(fixed.data(), said, &fixed.back(), 1);
  const std::vector<const void*> none(fixed.size(), nullptr);
  void* nowhere = nullptr;
  handle.runtime->enqueue(fixed.data(), &fixed.back(), none.data(), &nowhere, &nowhere, nullptr);
}

// What plugins log goes nowhere.
class Silence : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity, const char*) noexcept override {}
  nvinfer1::ILogger* findLogger() override { return this; }
};

const PluginLibrary& library() {
  static Silence silence;
  static const PluginLibrary linked = [] {
    PluginLibrary its_own(nullptr);
    its_own.set_logger_finder(&silence);
    return its_own;
  }();
  return linked;
}

}  // namespace

// ---- The kernels without a device: the real plans, and launches that do nothing
// ------------------

namespace bitexport {
namespace cuda {

cudaError_t conv(const ConvProblem& problem, const ConvBuffers& buffers, int tactic, cudaStream_t) {
  ConvPlan plan;
  return make_conv_plan(problem, buffers, tactic, nullptr, &plan) ? cudaSuccess
                                                                  : cudaErrorInvalidValue;
}

cudaError_t gemm(const GemmProblem& problem, const GemmBuffers& buffers, int tactic, cudaStream_t) {
  GemmPlan plan;
  return make_gemm_plan(problem, buffers, tactic, &plan) ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace bitexport

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr int kCapabilities[] = {75, 80, 86, 89, 90, 100, 120, 0, 52};
  Bytes bytes(data, size);
  bitexport_test::host_device().compute_capability =
      kCapabilities[bytes.below(static_cast<int>(std::size(kCapabilities)))];
  const Node node =
      bitexport_test::usual_node(bitexport::kDeviceOps[bytes.below(bitexport::kDeviceOps.count)]);
  const Fields sound(node);
  const HostileFields hostile(sound, bytes);
  const PluginFieldCollection fields = hostile.collection();
  auto& creator = library().creator(node.spec->name, bytes.one_in(2) ? bitexport::kDomain : "");
  const PluginHandle made(creator.createPlugin("layer1.conv2", &fields, TensorRTPhase::kBUILD));
  if (made.plugin == nullptr) return 0;
  drive(made, node, bytes);
  const Fields stored(*made.runtime->getFieldsToSerialize());
  const HostileFields read(stored, bytes);
  const PluginFieldCollection again = read.collection();
  const PluginHandle loaded(creator.createPlugin("", &again, TensorRTPhase::kRUNTIME));
  if (loaded.plugin == nullptr) return 0;
  const PluginHandle attached(loaded.runtime->attachToContext(nullptr));
  drive(attached, node, bytes);
  return 0;
}
