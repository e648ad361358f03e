// One Run on a GPU: its device, its stream, and memory for as long as a kernel is enqueued.

#ifndef BITEXPORT_ORT_CUDA_RUN_H_
#define BITEXPORT_ORT_CUDA_RUN_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "kernels/cuda/problem.h"
#include "ort/binding.h"

namespace bitexport {
namespace ort {
namespace gpu {

// The GPU that the calling thread uses.
struct Device {
  int id;
  int compute_capability;  // major * 10 + minor
};
Device current_device();

// Throws a Failure where the device has none of the kernels that were looked for.
void require_kernel(int found, const Device& device);

// Throws a Failure that says what was tried and how CUDA calls the error; nothing on success.
void check_cuda(cudaError_t error, const char* attempt);

// The stream that the node's Run enqueues its work on.
cudaStream_t stream_of(const KernelContext& context);

// Device memory for a launch on the Run's stream, at a multiple of 256. It is given back as soon as
// the kernel is enqueued: the runtime hands it out again for later work of the same stream only.
class Workspace {
 public:
  Workspace(const KernelContext& context, const Device& device, std::size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return aligned_; }

 private:
  const Api& api_;
  Allocator* allocator_ = nullptr;
  void* memory_ = nullptr;
  void* aligned_ = nullptr;
};

// What of T the kernels call it.
cuda::DataType data_type(const Tensor& x);

// An input of that type and shape, where kernels can read it; `name` is for messages.
Tensor required(const KernelContext& context, int index, const char* name, TensorType type,
                const Shape& shape);

// Throws a Failure where a tensor lies at an address that kernels cannot read from.
void require_alignment(const Tensor& tensor, const char* name);

struct Codebook {
  Tensor codes;
  Tensor centroids;  // float16 [K, d]
  std::int32_t entries;
  std::int32_t depth;
};

// Codes of `rows` output channels with `row_size` weights each, and their codebook.
Codebook codebook_of(const KernelContext& context, CodeBits bits, std::int64_t rows,
                     std::int64_t row_size);

// The kernel for the last problem, as models run the same shapes again and again.
struct Choice {
  int tactic;
  std::size_t workspace_bytes;
};

class LastChoice {
 public:
  // The choice for a problem that is known by its X and its device; make() where it is a new one.
  template <typename Make>
  Choice get(const Shape& x, const Device& device, Make make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capability_ != device.compute_capability || shape_ != x) {
      choice_ = make();
      shape_ = x;
      capability_ = device.compute_capability;
    }
    return choice_;
  }

 private:
  std::mutex mutex_;
  Shape shape_;
  int capability_ = 0;
  Choice choice_{};
};

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CUDA_RUN_H_
