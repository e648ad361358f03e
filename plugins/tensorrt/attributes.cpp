#include "tensorrt/attributes.h"

#include <cstring>
#include <limits>
#include <string_view>

#include "tensorrt/log.h"

namespace bitexport {
namespace trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

int length_of(const AttributeSpec& attribute) { return attribute.count == 0 ? 1 : attribute.count; }

// Index of the attribute called `name`; -1 where the op has none.
int attribute_index(const OpSpec& spec, std::string_view name) {
  for (int i = 0; i < spec.attributes.count; ++i) {
    if (name == spec.attributes[i].name) return i;
  }
  return -1;
}

// TensorRT reads these itself; some callers pass them on.
bool is_of_tensorrt(std::string_view name) {
  for (const StringAttribute& attribute : kPluginAttributes) {
    if (name == attribute.name) return true;
  }
  return false;
}

// Fields need not be aligned for their type.
template <typename T>
std::int64_t integer_at(const void* data, int index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + sizeof(T) * static_cast<unsigned>(index),
              sizeof(T));
  return value;
}

std::vector<std::int32_t> read_integers(const PluginField& field, const AttributeSpec& attribute) {
  const std::string name = std::string("attribute '") + attribute.name + "'";
  const bool wide = field.type == PluginFieldType::kINT64;
  if (!wide && field.type != PluginFieldType::kINT32) {
    throw Failure("expected " + name + " of type INT32, got plugin field type " +
                  std::to_string(static_cast<std::int32_t>(field.type)));
  }
  if (field.length != length_of(attribute) || field.data == nullptr) {
    throw Failure("expected " + std::to_string(length_of(attribute)) + " integers in " + name +
                  ", got " + (field.data == nullptr ? "none" : std::to_string(field.length)));
  }
  std::vector<std::int32_t> values;
  for (int i = 0; i < field.length; ++i) {
    const std::int64_t value =
        wide ? integer_at<std::int64_t>(field.data, i) : integer_at<std::int32_t>(field.data, i);
    using Limits = std::numeric_limits<std::int32_t>;
    if (value < Limits::min() || value > Limits::max()) {
      throw Failure("expected numbers of 32 bits in " + name + ", got " + std::to_string(value));
    }
    values.push_back(static_cast<std::int32_t>(value));
  }
  return values;
}

}  // namespace

Attributes::Attributes(const OpSpec& spec, const PluginFieldCollection& fields)
    : spec_(&spec), values_(static_cast<std::size_t>(spec.attributes.count)) {
  if (fields.nbFields < 0 || (fields.nbFields > 0 && fields.fields == nullptr)) {
    throw Failure("expected plugin fields, got a collection without them");
  }
  for (int i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (field.name == nullptr) throw Failure("expected a name for every plugin field, got none");
    if (is_of_tensorrt(field.name)) continue;
    const int index = attribute_index(spec, field.name);
    if (index < 0) {
      throw Failure(std::string("the op has no attribute '") + field.name +
                    "'; export the model again, or take the plugin library of its version");
    }
    std::vector<std::int32_t>& values = values_[static_cast<std::size_t>(index)];
    if (!values.empty()) {
      throw Failure(std::string("expected attribute '") + field.name + "' once, got it twice");
    }
    values = read_integers(field, spec.attributes[index]);
  }
  for (int i = 0; i < spec.attributes.count; ++i) {
    if (values_[static_cast<std::size_t>(i)].empty()) {
      throw Failure(std::string("attribute '") + spec.attributes[i].name +
                    "' is missing; export the model again");
    }
  }
}

const std::vector<std::int32_t>& Attributes::operator[](const char* name) const {
  const int index = attribute_index(*spec_, name);
  if (index < 0) throw Failure(std::string(spec_->name) + " has no attribute '" + name + "'");
  return values_[static_cast<std::size_t>(index)];
}

std::string Attributes::to_string() const {
  std::string text;
  for (int i = 0; i < spec_->attributes.count; ++i) {
    text += (i == 0 ? "" : " ") + std::string(spec_->attributes[i].name);
    const char* separator = "=";
    for (const std::int32_t value : values_[static_cast<std::size_t>(i)]) {
      text += separator + std::to_string(value);
      separator = ",";
    }
  }
  return text;
}

std::vector<PluginField> Attributes::fields() const {
  std::vector<PluginField> fields = field_names(*spec_);
  for (std::size_t i = 0; i < fields.size(); ++i) fields[i].data = values_[i].data();
  return fields;
}

std::vector<PluginField> field_names(const OpSpec& spec) {
  std::vector<PluginField> fields;
  for (const AttributeSpec& attribute : spec.attributes) {
    fields.emplace_back(attribute.name, nullptr, PluginFieldType::kINT32, length_of(attribute));
  }
  return fields;
}

}  // namespace trt
}  // namespace bitexport
