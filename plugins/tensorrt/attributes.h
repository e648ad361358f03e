// A node's attributes: from the plugin fields that TensorRT delivers, and back.

#ifndef BITEXPORT_TENSORRT_ATTRIBUTES_H_
#define BITEXPORT_TENSORRT_ATTRIBUTES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "tensorrt/api.h"

namespace bitexport {
namespace trt {

// The integers of every attribute of an op. They are the whole state of a plugin: what is
// serialized under their names makes the same plugin again.
class Attributes {
 public:
  // Throws a Failure where a field is missing, unknown, given twice, of a wrong type or length.
  Attributes(const OpSpec& spec, const nvinfer1::PluginFieldCollection& fields);

  const OpSpec& spec() const { return *spec_; }
  // Of an attribute that the op has, as many integers as the table says.
  const std::vector<std::int32_t>& operator[](const char* name) const;

  // "strides=1,1 pads=..." in the order of the table.
  std::string to_string() const;

  // One field an attribute, with pointers into this object.
  std::vector<nvinfer1::PluginField> fields() const;

 private:
  const OpSpec* spec_;
  std::vector<std::vector<std::int32_t>> values_;
};

// The fields that a creator of the op announces: names, types and lengths without data.
std::vector<nvinfer1::PluginField> field_names(const OpSpec& spec);

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_ATTRIBUTES_H_
