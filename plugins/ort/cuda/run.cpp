#include "ort/cuda/run.h"

#include <limits>
#include <memory>
#include <string>

#include "core/op_spec.h"
#include "core/packing.h"
#include "ort/cuda/platform.h"

namespace bitexport {
namespace ort {
namespace gpu {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;
constexpr std::size_t kTensorAlignment = 16;

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace

void require_kernel(int found, const Device& device) {
  if (found > 0) return;
  throw Failure("there is no kernel for a GPU of compute capability " +
                    std::to_string(device.compute_capability / 10) + "." +
                    std::to_string(device.compute_capability % 10),
                ErrorCode::kRuntimeException);
}

void check_cuda(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return;
  throw Failure(std::string(attempt) + " failed with " + cudaGetErrorName(error) + " (" +
                    cudaGetErrorString(error) + ")",
                ErrorCode::kRuntimeException);
}

Device current_device() {
  Device device{};
  int major = 0;
  int minor = 0;
  check_cuda(cudaGetDevice(&device.id), "asking for the current GPU");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.id),
             "asking for the GPU's compute capability");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.id),
             "asking for the GPU's compute capability");
  device.compute_capability = major * 10 + minor;
  return device;
}

cudaStream_t stream_of(const KernelContext& context) {
  void* stream = nullptr;
  const Api& api = context.api();
  check(api, api.KernelContext_GetGPUComputeStream(context.handle(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// The API's GetScratchBuffer knows the stream, but not how to give the buffer back; that is up to
// the allocator that it came from.
Workspace::Workspace(const KernelContext& context, const Device& device, std::size_t bytes)
    : api_(context.api()) {
  if (bytes == 0) return;
  if (bytes > std::numeric_limits<std::size_t>::max() - kWorkspaceAlignment) {
    throw Failure("the workspace is larger than the address space");
  }
  OrtMemoryInfo* memory_info = nullptr;
  check(api_, memory_of(api_, device.id, &memory_info));
  const std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> owner(memory_info,
                                                                       api_.ReleaseMemoryInfo);
  check(api_, api_.KernelContext_GetAllocator(context.handle(), memory_info, &allocator_));
  const std::size_t space = bytes + kWorkspaceAlignment;
  OrtStatus* status = nullptr;
  if (stream_of(context) != nullptr) {
    status = api_.KernelContext_GetScratchBuffer(context.handle(), memory_info, space, &memory_);
  } else {
    memory_ = allocator_->Alloc(allocator_, space);
  }
  if (status != nullptr || memory_ == nullptr) {
    if (status != nullptr) api_.ReleaseStatus(status);
    api_.ReleaseAllocator(allocator_);
    throw Failure("no memory on the device for a workspace of " + std::to_string(bytes) + " bytes",
                  ErrorCode::kRuntimeException);
  }
  const std::size_t past = address(memory_) % kWorkspaceAlignment;
  aligned_ = static_cast<char*>(memory_) + (past == 0 ? 0 : kWorkspaceAlignment - past);
}

Workspace::~Workspace() {
  if (allocator_ == nullptr) return;
  allocator_->Free(allocator_, memory_);
  api_.ReleaseAllocator(allocator_);
}

cuda::DataType data_type(const Tensor& x) {
  if (x.type == TensorType::kFloat) return cuda::DataType::kFloat32;
  if (x.type == TensorType::kFloat16) return cuda::DataType::kFloat16;
  throw Failure("expected activations of float or float16");
}

void require_alignment(const Tensor& tensor, const char* name) {
  if (address(tensor.data) % kTensorAlignment == 0) return;
  throw Failure(std::string("expected ") + name + " at an address that is a multiple of " +
                std::to_string(kTensorAlignment) + "; bind a buffer of its own, not a part of one");
}

Tensor required(const KernelContext& context, int index, const char* name, TensorType type,
                const Shape& shape) {
  const Tensor tensor = context.input(index);
  if (tensor.type != type || tensor.shape != shape) {
    throw Failure(std::string("expected ") + name + " of shape " + to_string(shape) + ", got " +
                  to_string(tensor.shape) + "; export the model again");
  }
  require_alignment(tensor, name);
  return tensor;
}

Codebook codebook_of(const KernelContext& context, CodeBits bits, std::int64_t rows,
                     std::int64_t row_size) {
  using In = CodebookInput;
  const std::int64_t most = std::int64_t{1} << static_cast<int>(bits);
  const Shape shape = context.input(In::kCB).shape;
  const bool fits = shape.size() == 2 && shape[0] >= 1 && shape[0] <= most && shape[1] >= 1 &&
                    row_size % shape[1] == 0;
  if (!fits) {
    throw Failure("expected CB of shape [K, d] with K from 1 to " + std::to_string(most) +
                  " and a d that divides the " + std::to_string(row_size) +
                  " weights of an output channel, got " + to_string(shape));
  }
  const std::int64_t words = code_words(row_size / shape[1], bits);
  return {required(context, In::kCodes, "Codes", TensorType::kInt32, {rows, words}),
          required(context, In::kCB, "CB", TensorType::kFloat16, shape),
          static_cast<std::int32_t>(shape[0]), static_cast<std::int32_t>(shape[1])};
}

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport
