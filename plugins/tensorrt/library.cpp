// The two symbols that the library exports; TensorRT's registry looks them up when it loads it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/op_spec.h"
#include "tensorrt/api.h"
#include "tensorrt/creator.h"
#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

class Creators {
 public:
  // The parser looks for a node's plugin_namespace; networks that were built by hand, and older
  // parsers, look in the empty one.
  Creators() {
    for (const char* const plugin_namespace : {kDomain, ""}) {
      for (const OpSpec& spec : kDeviceOps) {
        owned_.push_back(std::make_unique<Creator>(spec, plugin_namespace));
        list_.push_back(owned_.back().get());
      }
    }
  }

  const std::vector<nvinfer1::IPluginCreatorInterface*>& list() const { return list_; }

 private:
  std::vector<std::unique_ptr<Creator>> owned_;
  std::vector<nvinfer1::IPluginCreatorInterface*> list_;
};

// Never destroyed: the registry keeps the creators until the process has ended.
const Creators& creators() {
  static const Creators* const instance = new Creators;
  return *instance;
}

}  // namespace
}  // namespace trt
}  // namespace bitexport

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
  using List = nvinfer1::IPluginCreatorInterface* const*;
  count = 0;
  return bitexport::trt::guarded("plugin library", List{nullptr}, [&count]() -> List {
    const auto& list = bitexport::trt::creators().list();
    count = static_cast<std::int32_t>(list.size());
    return list.data();
  });
}

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  bitexport::trt::set_logger_finder(finder);
}

}  // extern "C"
