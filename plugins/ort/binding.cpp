#include "ort/binding.h"

#include <limits>

namespace bitexport {
namespace ort {
namespace {

const char* name_of(TensorType type) {
  switch (type) {
    case TensorType::kUndefined:
      return "undefined";
    case TensorType::kFloat:
      return "float";
    case TensorType::kInt32:
      return "int32";
    case TensorType::kFloat16:
      return "float16";
  }
  return "another type";
}

// Status of a query whose error has a better explanation than the runtime's own.
bool succeeds(const Api& api, OrtStatus* status) {
  if (status == nullptr) return true;
  api.ReleaseStatus(status);
  return false;
}

Tensor describe_tensor(const Api& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
      info, api.ReleaseTensorTypeAndShapeInfo);
  Tensor tensor{};
  std::size_t rank = 0;
  check(api, api.GetTensorElementType(info, &tensor.type));
  check(api, api.GetDimensionsCount(info, &rank));
  tensor.shape.resize(rank);
  check(api, api.GetDimensions(info, tensor.shape.data(), rank));
  // The API has no accessor for constant values; we only read.
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

}  // namespace

void check(const Api& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::unique_ptr<OrtStatus, void (*)(OrtStatus*)> owner(status, api.ReleaseStatus);
  throw Failure(api.GetErrorMessage(status), api.GetErrorCode(status));
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t dim : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

// ---- KernelInfo ---------------------------------------------------------------------------------

std::string KernelInfo::node_name() const {
  std::size_t bytes = 0;
  if (!succeeds(api_, api_.KernelInfo_GetNodeName(info_, nullptr, &bytes)) || bytes == 0) return "";
  std::string name(bytes, '\0');
  if (!succeeds(api_, api_.KernelInfo_GetNodeName(info_, name.data(), &bytes))) return "";
  name.resize(bytes - 1);
  return name;
}

std::int64_t KernelInfo::integer(const char* attribute) const {
  std::int64_t value = 0;
  if (!succeeds(api_, api_.KernelInfoGetAttribute_int64(info_, attribute, &value))) {
    throw Failure(std::string("expected an attribute ") + attribute +
                  " that is an integer, got none; export the model again");
  }
  return value;
}

void KernelInfo::integers(const char* attribute, std::int64_t* values, std::size_t count) const {
  std::size_t got = 0;
  const bool found =
      succeeds(api_, api_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &got));
  if (!found || got != count) {
    throw Failure(std::string("expected an attribute ") + attribute + " of " +
                  std::to_string(count) + " integers, got " +
                  (found ? std::to_string(got) : "none") + "; export the model again");
  }
  check(api_, api_.KernelInfoGetAttributeArray_int64(info_, attribute, values, &got));
}

Tensor KernelInfo::constant(int index, const char* name, TensorType type,
                            const Shape& shape) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor(info_, static_cast<std::size_t>(index),
                                                     &is_constant, &value));
  if (is_constant == 0 || value == nullptr) {
    throw Failure(std::string("expected a constant ") + name +
                  ", got one that is computed or can be overridden as a graph input; make it an "
                  "initializer");
  }
  Tensor tensor = describe_tensor(api_, value);
  if (tensor.type != type || tensor.shape != shape) {
    throw Failure(std::string("expected ") + name + " of " + name_of(type) + " " +
                  to_string(shape) + ", got " + name_of(tensor.type) + " " +
                  to_string(tensor.shape) + "; export the model again");
  }
  return tensor;
}

// ---- KernelContext ------------------------------------------------------------------------------

// The API's own GetScratchBuffer leaves the buffer to the caller, who cannot give it back without
// the allocator; so we go to the allocator at once.
Scratch::Scratch(const Api& api, const OrtKernelContext* context, std::size_t bytes,
                 std::size_t alignment)
    : api_(&api) {
  if (bytes > std::numeric_limits<std::size_t>::max() - alignment) {
    throw Failure("the workspace is larger than the address space");
  }
  OrtMemoryInfo* memory_info = nullptr;
  check(api, api.CreateCpuMemoryInfo(AllocatorType::kDevice, MemoryType::kDefault, &memory_info));
  const std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> owner(memory_info,
                                                                       api.ReleaseMemoryInfo);
  check(api, api.KernelContext_GetAllocator(context, memory_info, &allocator_));
  std::size_t space = bytes + alignment;
  memory_ = allocator_->Alloc(allocator_, space);
  aligned_ = memory_;
  if (memory_ == nullptr || std::align(alignment, bytes, aligned_, space) == nullptr) {
    if (memory_ != nullptr) allocator_->Free(allocator_, memory_);
    api.ReleaseAllocator(allocator_);
    throw Failure("no memory for a workspace of " + std::to_string(bytes) + " bytes",
                  ErrorCode::kRuntimeException);
  }
}

Scratch::Scratch(Scratch&& other) noexcept
    : api_(other.api_),
      allocator_(std::exchange(other.allocator_, nullptr)),
      memory_(other.memory_),
      aligned_(other.aligned_) {}

Scratch::~Scratch() {
  if (allocator_ == nullptr) return;
  allocator_->Free(allocator_, memory_);
  api_->ReleaseAllocator(allocator_);
}

Tensor KernelContext::input(int index) const {
  const OrtValue* value = nullptr;
  check(api_, api_.KernelContext_GetInput(context_, static_cast<std::size_t>(index), &value));
  if (value == nullptr) throw Failure("input " + std::to_string(index) + " is missing");
  return describe_tensor(api_, value);
}

Tensor KernelContext::output(int index, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api_, api_.KernelContext_GetOutput(context_, static_cast<std::size_t>(index), shape.data(),
                                           shape.size(), &value));
  if (value == nullptr) throw Failure("output " + std::to_string(index) + " is missing");
  return describe_tensor(api_, value);
}

void KernelContext::run_units(std::size_t units, void (*unit)(void*, std::size_t),
                              void* data) const {
  constexpr std::size_t kNoLimit = 0;
  if (units > 0) check(api_, api_.KernelContext_ParallelFor(context_, unit, units, kNoLimit, data));
}

}  // namespace ort
}  // namespace bitexport
