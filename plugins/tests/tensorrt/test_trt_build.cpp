// What TensorRT asks a plugin while it builds: output shapes, formats, configurations.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <set>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "tests/check.h"
#include "tests/conv_cases.h"
#include "tests/tensorrt/fake_tensorrt.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport::ConvArguments;
using bitexport::ConvShape;
using bitexport::ElementType;
using bitexport::kDeviceOps;
using bitexport::OpSpec;
using bitexport_test::FakeBuilder;
using bitexport_test::FakeSize;
using bitexport_test::Node;
using bitexport_test::PluginHandle;
using bitexport_test::PluginLibrary;
using bitexport_test::RecordingLogger;
using bitexport_test::state;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr const char* kLayer = "layer1.conv2";

class Suite {
 public:
  Suite(const PluginLibrary& library, RecordingLogger& logger)
      : library_(library), logger_(logger) {}

  void run() {
    test_shapes_of_all_geometries();
    for (const OpSpec& spec : kDeviceOps) {
      state().where = spec.name;
      test_shapes(spec);
      test_types(spec);
      test_formats(spec);
      test_configurations(spec);
      test_wrong_tensors(spec);
      test_shape_changes(spec);
    }
  }

 private:
  // An error was logged, with the layer's name and `reason`.
  void check_logged(const std::string& reason) {
    CHECK_EQUAL(logger_.errors.size(), 1u);
    const std::string line = logger_.take();
    const bool says = line.find(std::string("layer '") + kLayer + "'") != std::string::npos &&
                      line.find(reason) != std::string::npos;
    CHECK(says);
    if (!says) std::cerr << "  logged: " << line << ", expected: " << reason << "\n";
  }

  // ---- Shapes -----------------------------------------------------------------------------------

  std::vector<DimsExprs> size_expressions(const Node& node, FakeBuilder& builder,
                                          std::set<int> unknown) const {
    std::vector<DimsExprs> inputs;
    const std::vector<PluginTensorDesc> descs = bitexport_test::input_descs(node);
    for (std::size_t i = 0; i < descs.size(); ++i) {
      const bool is_activation =
          node.spec->inputs[static_cast<int>(i)].type == ElementType::kActivation;
      DimsExprs sizes{};
      sizes.nbDims = descs[i].dims.nbDims;
      for (int d = 0; d < sizes.nbDims; ++d) {
        sizes.d[d] = builder.make(descs[i].dims.d[d], !is_activation || unknown.count(d) == 0);
      }
      inputs.push_back(sizes);
    }
    return inputs;
  }

  void check_shape(const PluginHandle& handle, const Node& node, const std::set<int>& unknown) {
    FakeBuilder builder;
    const std::vector<DimsExprs> inputs = size_expressions(node, builder, unknown);
    DimsExprs y{};
    CHECK_EQUAL(handle.build->getOutputShapes(inputs.data(), static_cast<int>(inputs.size()),
                                              nullptr, 0, &y, 1, builder),
                0);
    const Dims expected = bitexport_test::output_desc(node).dims;
    CHECK_EQUAL(y.nbDims, expected.nbDims);
    for (int d = 0; d < std::min(y.nbDims, expected.nbDims); ++d) {
      CHECK_EQUAL(FakeSize::value_of(*y.d[d]), expected.d[d]);
      CHECK_EQUAL(y.d[d]->isConstant(), d == 1 || unknown.count(d) == 0);
    }
  }

  void test_shapes_of_all_geometries() {
    const std::array<std::int64_t, 3> channels = {1, 32, 40};
    bitexport_test::for_each_conv_case(
        channels, [&](const ConvArguments& arguments, const ConvShape&) {
          state().where = bitexport_test::to_string(arguments);
          const Node node = bitexport_test::make_node("SignConv", arguments);
          const PluginHandle handle = library_.create(node, kLayer);
          check_shape(handle, node, {});
          check_shape(handle, node, {0, 2, 3});
        });
  }

  void test_shapes(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    const PluginHandle handle = library_.create(node, kLayer);
    check_shape(handle, node, {0});
    check_shape(handle, node, {0, 1});
    check_shape(handle, node, {});
    const auto refused = [&](std::vector<DimsExprs> inputs, FakeBuilder& builder,
                             std::int32_t in_count, std::int32_t out_count, const char* reason) {
      DimsExprs y{};
      CHECK(handle.build->getOutputShapes(inputs.data(), in_count, nullptr, 0, &y, out_count,
                                          builder) != 0);
      check_logged(reason);
    };
    FakeBuilder builder;
    std::vector<DimsExprs> inputs = size_expressions(node, builder, {0});
    const std::int32_t count = spec.inputs.count;
    refused(inputs, builder, count - 1, 1, "inputs and 1 output");
    refused(inputs, builder, count, 2, "inputs and 1 output");
    inputs[0].nbDims -= 1;
    refused(inputs, builder, count, 1, "expected X");
    inputs[0].nbDims += 1;
    inputs[0].d[1] = builder.make(33, true);
    refused(inputs, builder, count, 1,
            spec.kind == bitexport::OpKind::kGemm ? "expected X" : "channels");
    // TensorRT has no memory for an expression.
    FakeBuilder exhausted(0);
    refused(size_expressions(node, exhausted, {0, 2}), exhausted, count, 1, "no expression");
  }

  // ---- Types and formats ------------------------------------------------------------------------

  void test_types(const OpSpec& spec) {
    const PluginHandle handle = library_.create(bitexport_test::usual_node(spec), kLayer);
    std::vector<DataType> inputs(static_cast<std::size_t>(spec.inputs.count), DataType::kINT32);
    for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
      inputs[0] = type;
      DataType y = DataType::kBOOL;
      CHECK_EQUAL(handle.build->getOutputDataTypes(&y, 1, inputs.data(), spec.inputs.count), 0);
      CHECK(y == type);
    }
    for (const DataType type : {DataType::kINT8, DataType::kINT32, DataType::kBF16}) {
      inputs[0] = type;
      DataType y{};
      CHECK(handle.build->getOutputDataTypes(&y, 1, inputs.data(), spec.inputs.count) != 0);
      check_logged("FLOAT or HALF");
    }
  }

  // All combinations that TensorRT finds when it asks position by position, with whatever lies in
  // the entries past the position asked about.
  std::set<std::string> sweep(const PluginHandle& handle, const OpSpec& spec, int poison) const {
    constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8,
                                   DataType::kINT32, DataType::kBF16};
    constexpr TensorFormat kFormats[] = {TensorFormat::kLINEAR, TensorFormat::kCHW2,
                                         TensorFormat::kHWC8, TensorFormat::kCHW32,
                                         TensorFormat::kHWC};
    const int count = spec.inputs.count + 1;
    std::vector<DynamicPluginTensorDesc> in_out(static_cast<std::size_t>(count));
    std::memset(static_cast<void*>(in_out.data()), poison,
                in_out.size() * sizeof(DynamicPluginTensorDesc));
    std::set<std::string> found;
    const auto visit = [&](const auto& self, int pos, const std::string& text) -> void {
      if (pos == count) {
        found.insert(text);
        return;
      }
      PluginTensorDesc& desc = in_out[static_cast<std::size_t>(pos)].desc;
      for (const DataType type : kTypes) {
        for (const TensorFormat format : kFormats) {
          desc.type = type;
          desc.format = format;
          if (handle.build->supportsFormatCombination(pos, in_out.data(), count - 1, 1)) {
            self(self, pos + 1,
                 text + std::to_string(static_cast<int>(type)) + "/" +
                     std::to_string(static_cast<int>(format)) + " ");
          }
        }
      }
      std::memset(static_cast<void*>(&desc), poison, sizeof(desc));
    };
    visit(visit, 0, "");
    return found;
  }

  std::set<std::string> expected_combinations(const OpSpec& spec) const {
    const bool is_conv = spec.kind == bitexport::OpKind::kConv;
    std::set<std::string> expected;
    for (const std::string activation : {"0/0 ", "1/0 ", "1/2 "}) {
      if (activation == "1/2 " && !is_conv) continue;
      std::string text;
      for (const bitexport::InputSpec& input : spec.inputs) {
        if (input.type == ElementType::kActivation) text += activation;
        if (input.type == ElementType::kFloat) text += "0/0 ";
        if (input.type == ElementType::kFloat16) text += "1/0 ";
        if (input.type == ElementType::kInt32) text += "3/0 ";
      }
      expected.insert(text + activation);
    }
    return expected;
  }

  void test_formats(const OpSpec& spec) {
    static_assert(static_cast<int>(DataType::kFLOAT) == 0 &&
                  static_cast<int>(DataType::kHALF) == 1 &&
                  static_cast<int>(DataType::kINT32) == 3);
    static_assert(static_cast<int>(TensorFormat::kLINEAR) == 0 &&
                  static_cast<int>(TensorFormat::kHWC8) == 2);
    const PluginHandle handle = library_.create(bitexport_test::usual_node(spec), kLayer);
    for (const int poison : {0x00, 0x01, 0x7f, 0xff}) {
      CHECK(sweep(handle, spec, poison) == expected_combinations(spec));
    }
    std::vector<DynamicPluginTensorDesc> in_out(20);
    for (const int pos : {-1, spec.inputs.count + 1}) {
      CHECK(!handle.build->supportsFormatCombination(pos, in_out.data(), spec.inputs.count, 1));
    }
    CHECK_EQUAL(logger_.errors.size(), 0u);
    CHECK(!handle.build->supportsFormatCombination(0, in_out.data(), spec.inputs.count, 2));
    check_logged("inputs and 1 output");
    CHECK(handle.build->getFormatCombinationLimit() >= 3);
  }

  // ---- Configurations ---------------------------------------------------------------------------

  std::int32_t configure(const PluginHandle& handle,
                         const std::vector<DynamicPluginTensorDesc>& in) const {
    const DynamicPluginTensorDesc out{};
    return handle.build->configurePlugin(in.data(), static_cast<std::int32_t>(in.size()), &out, 1);
  }

  void test_configurations(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    const PluginHandle handle = library_.create(node, kLayer);
    const auto descs = bitexport_test::input_descs(node);
    auto bounded = bitexport_test::with_bounds(spec, descs, true, 1);
    CHECK_EQUAL(configure(handle, bounded), 0);
    CHECK_EQUAL(configure(handle, bitexport_test::with_bounds(spec, descs, false, 1)), 0);
    // Before there is a profile, sizes are unknown altogether.
    for (DynamicPluginTensorDesc& tensor : bounded) tensor.opt = Dims{};
    CHECK_EQUAL(configure(handle, bounded), 0);
    for (DynamicPluginTensorDesc& tensor : bounded) tensor.opt = tensor.desc.dims;
    CHECK_EQUAL(configure(handle, bounded), 0);
    CHECK_EQUAL(handle.build->getNbTactics(), 0);
    CHECK_EQUAL(logger_.errors.size(), 0u);
    bounded.pop_back();
    CHECK(configure(handle, bounded) != 0);
    check_logged("inputs and 1 output");
  }

  // Every tensor in a wrong shape, by each of its sizes and by its rank.
  void test_wrong_tensors(const OpSpec& spec) {
    const Node node = bitexport_test::usual_node(spec);
    const PluginHandle handle = library_.create(node, kLayer);
    const auto descs = bitexport_test::input_descs(node);
    for (std::size_t i = 0; i < descs.size(); ++i) {
      const std::string name = spec.inputs[static_cast<int>(i)].name;
      const auto refused = [&](const Dims& dims) {
        auto wrong = descs;
        wrong[i].dims = dims;
        CHECK(configure(handle, bitexport_test::with_bounds(spec, wrong, false, 1)) != 0);
        check_logged("");
        const PluginTensorDesc y = bitexport_test::output_desc(node);
        CHECK(handle.runtime->onShapeChange(wrong.data(), spec.inputs.count, &y, 1) != 0);
        check_logged("");
      };
      for (int d = 0; d < descs[i].dims.nbDims; ++d) {
        // Any batch, height and width of X are good, and so is any number of centroids.
        if ((name == "X" && d != 1) || (name == "CB" && d == 0)) continue;
        Dims dims = descs[i].dims;
        dims.d[d] += 1;
        refused(dims);
      }
      Dims dims = descs[i].dims;
      dims.nbDims -= 1;
      refused(dims);
      dims.nbDims = -1;
      refused(dims);
    }
  }

  void test_shape_changes(const OpSpec& spec) {
    Node node = bitexport_test::usual_node(spec);
    const PluginHandle handle = library_.create(node, kLayer);
    for (const std::int32_t batch : {1, 5, 0}) {
      node.shape.batch = batch;
      const auto descs = bitexport_test::input_descs(node);
      PluginTensorDesc y = bitexport_test::output_desc(node);
      CHECK_EQUAL(handle.runtime->onShapeChange(descs.data(), spec.inputs.count, &y, 1), 0);
      y.dims.d[0] += 1;
      CHECK(handle.runtime->onShapeChange(descs.data(), spec.inputs.count, &y, 1) != 0);
      check_logged("expected Y of shape");
      CHECK(handle.runtime->onShapeChange(descs.data(), spec.inputs.count - 1, &y, 1) != 0);
      check_logged("inputs and 1 output");
    }
    if (!node.has_codebook()) return;
    auto descs = bitexport_test::input_descs(node);
    const PluginTensorDesc y = bitexport_test::output_desc(node);
    const auto place = static_cast<std::size_t>(bitexport::input_index(spec, "CB"));
    for (const std::int64_t entries :
         {std::int64_t{0}, std::int64_t{-1},
          (std::int64_t{1} << static_cast<int>(node.code_bits())) + 1}) {
      descs[place].dims.d[0] = entries;
      CHECK(handle.runtime->onShapeChange(descs.data(), spec.inputs.count, &y, 1) != 0);
      check_logged("expected CB of shape [K, d]");
    }
  }

  const PluginLibrary& library_;
  RecordingLogger& logger_;
};

}  // namespace

// An argument names a plugin library to test in place of the plugins linked in.
int main(int argc, char** argv) {
  RecordingLogger logger;
  const PluginLibrary library(argc > 1 ? argv[1] : nullptr);
  library.set_logger_finder(&logger);
  Suite(library, logger).run();
  return bitexport_test::finish();
}
