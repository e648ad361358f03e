// Creators and the state of plugins: fields in every shape, serialization, clones, identity.

#include <cstdint>
#include <cstring>
#include <iostream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "tests/check.h"
#include "tests/tensorrt/fake_tensorrt.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport::kDeviceOps;
using bitexport::OpSpec;
using bitexport_test::Fields;
using bitexport_test::Node;
using bitexport_test::PluginHandle;
using bitexport_test::PluginLibrary;
using bitexport_test::RecordingLogger;
using bitexport_test::state;
using nvinfer1::IPluginCreatorV3One;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

constexpr const char* kLayer = "layer4.1.conv2";

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Suite {
 public:
  Suite(const PluginLibrary& library, RecordingLogger& logger)
      : library_(library), logger_(logger) {}

  void run() {
    test_creators();
    for (const OpSpec& spec : kDeviceOps) {
      state().where = spec.name;
      test_good_fields(spec);
      test_missing_fields(spec);
      test_mistyped_fields(spec);
      test_wrong_lengths(spec);
      test_unexpected_fields(spec);
      test_wide_integers(spec);
      test_impossible_attributes(spec);
      test_identity(spec);
      test_serialization(spec);
      test_clones(spec);
      test_timing_ids(spec);
    }
    test_logging();
  }

 private:
  IPluginCreatorV3One& creator(const OpSpec& spec) const {
    return library_.creator(spec.name, bitexport::kDomain);
  }

  PluginHandle create(const OpSpec& spec, const std::vector<PluginField>& fields,
                      TensorRTPhase phase = TensorRTPhase::kBUILD) const {
    const PluginFieldCollection collection = {static_cast<std::int32_t>(fields.size()),
                                              fields.data()};
    return PluginHandle(creator(spec).createPlugin(kLayer, &collection, phase));
  }

  // The fields are refused, and the log says for which layer and names `culprit`.
  void check_refused(const OpSpec& spec, const std::vector<PluginField>& fields,
                     const std::string& culprit) {
    CHECK(create(spec, fields).plugin == nullptr);
    CHECK_EQUAL(logger_.errors.size(), 1u);
    const std::string line = logger_.take();
    const bool says = contains(line, std::string(spec.name) + " layer '" + kLayer + "'") &&
                      contains(line, culprit);
    CHECK(says);
    if (!says) std::cerr << "  logged: " << line << ", expected: " << culprit << "\n";
  }

  void test_creators() {
    std::set<std::string> seen;
    for (nvinfer1::IPluginCreatorInterface* const candidate : library_.creators) {
      CHECK(std::strcmp(candidate->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0);
      auto& creator = *static_cast<IPluginCreatorV3One*>(candidate);
      seen.insert(std::string(creator.getPluginNamespace()) + "::" + creator.getPluginName());
      CHECK(std::strcmp(creator.getPluginVersion(), "1") == 0);
      const OpSpec& spec = kDeviceOps[bitexport::op_index(creator.getPluginName())];
      const PluginFieldCollection* const names = creator.getFieldNames();
      CHECK_EQUAL(names->nbFields, spec.attributes.count);
      for (int i = 0; i < names->nbFields; ++i) {
        CHECK(std::strcmp(names->fields[i].name, spec.attributes[i].name) == 0);
        CHECK(names->fields[i].type == PluginFieldType::kINT32);
      }
    }
    CHECK_EQUAL(library_.creators.size(), seen.size());
    CHECK_EQUAL(seen.size(), 2u * static_cast<std::size_t>(kDeviceOps.count));
    for (const OpSpec& spec : kDeviceOps) {
      CHECK_EQUAL(seen.count(std::string("bitexport::") + spec.name), 1u);
      CHECK_EQUAL(seen.count(std::string("::") + spec.name), 1u);
    }
  }

  void test_good_fields(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    std::vector<PluginField> list = fields.list;
    CHECK(create(spec, list).plugin != nullptr);
    CHECK(create(spec, {list.rbegin(), list.rend()}).plugin != nullptr);
    // Attributes that TensorRT itself reads may come along.
    list.emplace_back("plugin_namespace", "bitexport", PluginFieldType::kCHAR, 9);
    list.emplace_back("plugin_version", "1", PluginFieldType::kCHAR, 1);
    CHECK(create(spec, list).plugin != nullptr);
    const PluginFieldCollection collection = fields.collection();
    const PluginHandle nameless(
        creator(spec).createPlugin(nullptr, &collection, TensorRTPhase::kBUILD));
    CHECK(nameless.plugin != nullptr);
    CHECK_EQUAL(logger_.errors.size(), 0u);
  }

  void test_missing_fields(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    for (std::size_t i = 0; i < fields.list.size(); ++i) {
      std::vector<PluginField> list = fields.list;
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
      check_refused(spec, list, std::string("'") + fields.list[i].name + "' is missing");
    }
    check_refused(spec, {}, "is missing");
    CHECK(creator(spec).createPlugin(kLayer, nullptr, TensorRTPhase::kBUILD) == nullptr);
    CHECK(contains(logger_.take(), "expected plugin fields"));
    for (const std::int32_t count : {-1, 3}) {
      const PluginFieldCollection forged = {count, nullptr};
      CHECK(creator(spec).createPlugin(kLayer, &forged, TensorRTPhase::kBUILD) == nullptr);
      CHECK(contains(logger_.take(), "expected plugin fields"));
    }
  }

  void test_mistyped_fields(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    for (std::size_t i = 0; i < fields.list.size(); ++i) {
      for (const PluginFieldType type :
           {PluginFieldType::kFLOAT16, PluginFieldType::kFLOAT32, PluginFieldType::kFLOAT64,
            PluginFieldType::kINT8, PluginFieldType::kINT16, PluginFieldType::kCHAR,
            PluginFieldType::kDIMS, PluginFieldType::kUNKNOWN, static_cast<PluginFieldType>(99)}) {
        std::vector<PluginField> list = fields.list;
        list[i].type = type;
        check_refused(spec, list, std::string("'") + list[i].name + "' of type INT32");
      }
    }
  }

  void test_wrong_lengths(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    for (std::size_t i = 0; i < fields.list.size(); ++i) {
      std::vector<PluginField> list = fields.list;
      const std::int32_t right = list[i].length;
      const std::string expected =
          std::to_string(right) + " integers in attribute '" + list[i].name + "'";
      for (const std::int32_t length : {INT32_MIN, -1, 0, right - 1, right + 1, INT32_MAX}) {
        list[i].length = length;
        check_refused(spec, list, expected);
      }
      list[i].length = right;
      list[i].data = nullptr;
      check_refused(spec, list, expected);
    }
  }

  void test_unexpected_fields(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    const std::int32_t number = 1;
    std::vector<PluginField> list = fields.list;
    list.emplace_back("auto_pad", &number, PluginFieldType::kINT32, 1);
    check_refused(spec, list, "no attribute 'auto_pad'");
    list = fields.list;
    list.push_back(list.front());
    check_refused(spec, list, std::string("'") + list.front().name + "' once");
    list = fields.list;
    list.emplace_back(nullptr, &number, PluginFieldType::kINT32, 1);
    check_refused(spec, list, "a name for every plugin field");
  }

  // Python callers hand numpy's 64-bit integers over; fields need not be aligned.
  void test_wide_integers(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    for (std::size_t i = 0; i < fields.list.size(); ++i) {
      std::vector<PluginField> list = fields.list;
      const std::vector<std::int32_t>& values = fields.values.at(list[i].name);
      const std::vector<std::int64_t> wide(values.begin(), values.end());
      std::vector<char> bytes(wide.size() * sizeof(std::int64_t) + 1);
      std::memcpy(bytes.data() + 1, wide.data(), bytes.size() - 1);
      list[i].type = PluginFieldType::kINT64;
      list[i].data = bytes.data() + 1;
      const PluginHandle handle = create(spec, list);
      CHECK(handle.plugin != nullptr);
      if (handle.plugin == nullptr) continue;
      CHECK(Fields(*handle.runtime->getFieldsToSerialize()).values == fields.values);
      for (const std::int64_t value : {std::int64_t{1} << 31, -(std::int64_t{1} << 40)}) {
        std::memcpy(bytes.data() + 1, &value, sizeof(value));
        check_refused(spec, list, "numbers of 32 bits");
      }
    }
  }

  void test_impossible_attributes(const OpSpec& spec) {
    const auto refused = [&](const char* attribute, std::size_t index, std::int32_t value,
                             const char* reason) {
      Fields fields(bitexport_test::usual_node(spec));
      fields.values.at(attribute)[index] = value;
      check_refused(spec, fields.list, reason);
    };
    for (const std::int32_t value : {0, -1, INT32_MIN}) {
      refused("wshape", 0, value, "wshape");
      refused("wshape", 1, value, "wshape");
    }
    if (spec.kind == bitexport::OpKind::kGemm) return;
    refused("wshape", 2, 0, "wshape");
    refused("strides", 0, 0, "strides");
    refused("strides", 1, -2, "strides");
    refused("pads", 3, -1, "pads");
    refused("dilations", 0, 0, "dilations");
    refused("group", 0, 0, "group");
    refused("group", 0, 7, "group");
    refused("wshape", 1, INT32_MAX, "channels");
  }

  void test_identity(const OpSpec& spec) {
    for (const char* const plugin_namespace : {"bitexport", ""}) {
      IPluginCreatorV3One& maker = library_.creator(spec.name, plugin_namespace);
      const Fields fields(bitexport_test::usual_node(spec));
      const PluginFieldCollection collection = fields.collection();
      const PluginHandle handle(maker.createPlugin(kLayer, &collection, TensorRTPhase::kRUNTIME));
      CHECK(handle.core != nullptr && handle.build != nullptr && handle.runtime != nullptr);
      CHECK(std::strcmp(handle.core->getPluginName(), spec.name) == 0);
      CHECK(std::strcmp(handle.core->getPluginVersion(), maker.getPluginVersion()) == 0);
      CHECK(std::strcmp(handle.core->getPluginNamespace(), plugin_namespace) == 0);
      CHECK(std::strcmp(handle.core->getInterfaceInfo().kind, "PLUGIN_V3ONE_CORE") == 0);
      CHECK(std::strcmp(handle.build->getInterfaceInfo().kind, "PLUGIN_V3ONE_BUILD") == 0);
      CHECK(std::strcmp(handle.runtime->getInterfaceInfo().kind, "PLUGIN_V3ONE_RUNTIME") == 0);
      CHECK_EQUAL(handle.build->getNbOutputs(), 1);
      CHECK(handle.plugin->getCapabilityInterface(
                static_cast<nvinfer1::PluginCapabilityType>(17)) == nullptr);
    }
  }

  void test_serialization(const OpSpec& spec) {
    const Fields original(bitexport_test::usual_node(spec));
    PluginHandle handle = create(spec, original.list);
    const Fields stored(*handle.runtime->getFieldsToSerialize());
    CHECK(stored.values == original.values);
    const std::string metadata = handle.build->getMetadataString();
    handle = PluginHandle(nullptr);
    const PluginHandle again = create(spec, stored.list, TensorRTPhase::kRUNTIME);
    CHECK(again.plugin != nullptr);
    CHECK(Fields(*again.runtime->getFieldsToSerialize()).values == original.values);
    CHECK(metadata == again.build->getMetadataString());
    for (int i = 0; i < stored.collection().nbFields; ++i) {
      CHECK(stored.list[static_cast<std::size_t>(i)].type == PluginFieldType::kINT32);
    }
  }

  void test_clones(const OpSpec& spec) {
    const Fields fields(bitexport_test::usual_node(spec));
    PluginHandle original = create(spec, fields.list);
    PluginHandle clone(original.plugin->clone());
    PluginHandle attached(original.runtime->attachToContext(nullptr));
    CHECK(clone.plugin.get() != original.plugin.get());
    CHECK(attached.plugin.get() != original.plugin.get());
    const PluginFieldCollection* const of_original = original.runtime->getFieldsToSerialize();
    CHECK(of_original != clone.runtime->getFieldsToSerialize());
    original = PluginHandle(nullptr);
    for (PluginHandle* const survivor : {&clone, &attached}) {
      CHECK(Fields(*survivor->runtime->getFieldsToSerialize()).values == fields.values);
      CHECK(std::strcmp(survivor->core->getPluginNamespace(), "bitexport") == 0);
      CHECK(PluginHandle(survivor->plugin->clone()).plugin != nullptr);
    }
  }

  // Layers share timings only where they would compute the same.
  void test_timing_ids(const OpSpec& spec) {
    std::set<std::string> ids;
    const Node node = bitexport_test::usual_node(spec);
    const Fields same(node);
    const std::string id = create(spec, same.list).build->getTimingCacheID();
    CHECK(id == create(spec, same.list).build->getTimingCacheID());
    ids.insert(id);
    std::size_t changes = 0;
    for (const auto& [name, numbers] : same.values) {
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (name == "group") continue;
        Fields changed(node);
        changed.values.at(name)[i] += name == "wshape" && i == 0 ? 2 : 1;
        const PluginHandle handle = create(spec, changed.list);
        if (handle.plugin == nullptr) throw std::runtime_error(logger_.take());
        ids.insert(handle.build->getTimingCacheID());
        ++changes;
      }
    }
    CHECK_EQUAL(ids.size(), 1 + changes);
  }

  // Errors are logged, and not thrown, whatever becomes of the logger.
  void test_logging() {
    struct Thrower : nvinfer1::ILoggerFinder {
      nvinfer1::ILogger* findLogger() override { throw std::runtime_error("no logger"); }
    } thrower;
    struct Nobody : nvinfer1::ILoggerFinder {
      nvinfer1::ILogger* findLogger() override { return nullptr; }
    } nobody;
    state().where = "logging";
    for (nvinfer1::ILoggerFinder* const finder :
         std::initializer_list<nvinfer1::ILoggerFinder*>{&thrower, &nobody, nullptr}) {
      library_.set_logger_finder(finder);
      CHECK(create(kDeviceOps[0], {}).plugin == nullptr);
    }
    library_.set_logger_finder(&logger_);
    CHECK_EQUAL(logger_.errors.size(), 0u);
    check_refused(kDeviceOps[0], {}, "is missing");
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
