// ONNX Runtime's C API as C++: statuses become exceptions, handles release themselves.

#ifndef BITEXPORT_ORT_BINDING_H_
#define BITEXPORT_ORT_BINDING_H_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ort/ort_api.h"

namespace bitexport {
namespace ort {

// What is wrong with a model or its inputs; the edge turns it into a status and names the node.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& message, ErrorCode code = ErrorCode::kInvalidArgument)
      : std::runtime_error(message), code_(code) {}

  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Throws a Failure where ONNX Runtime reports an error, and releases the status.
void check(const Api& api, OrtStatus* status);

// Runs `body` and makes a status of what it throws: no exception may cross the C API. The name of
// the layer comes before the message.
template <typename Body>
OrtStatus* status_of(const Api& api, const std::string& layer, Body body) noexcept {
  try {
    try {
      body();
      return nullptr;
    } catch (const Failure& failure) {
      return api.CreateStatus(failure.code(), (layer + ": " + failure.what()).c_str());
    } catch (const std::exception& error) {
      return api.CreateStatus(ErrorCode::kRuntimeException, (layer + ": " + error.what()).c_str());
    }
  } catch (...) {
    return api.CreateStatus(ErrorCode::kRuntimeException, "bitexport: unknown error");
  }
}

using Shape = std::vector<std::int64_t>;

std::string to_string(const Shape& shape);

// A tensor of the runtime's; the memory stays the runtime's.
struct Tensor {
  TensorType type;
  Shape shape;
  void* data;

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// What a kernel learns when it is made.
class KernelInfo {
 public:
  KernelInfo(const Api& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  // The node's name; may be empty.
  std::string node_name() const;

  std::int64_t integer(const char* attribute) const;
  // Reads exactly `count` integers.
  void integers(const char* attribute, std::int64_t* values, std::size_t count) const;

  // The constant input `index`, of that type and shape. `name` is for messages.
  Tensor constant(int index, const char* name, TensorType type, const Shape& shape) const;

 private:
  const Api& api_;
  const OrtKernelInfo* info_;
};

// Memory of the runtime's own allocator, for the length of one Run.
class Scratch {
 public:
  // At least `bytes`, at an address that is a multiple of `alignment`.
  Scratch(const Api& api, const OrtKernelContext* context, std::size_t bytes,
          std::size_t alignment);
  ~Scratch();
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;

  void* data() const { return aligned_; }

 private:
  const Api* api_;
  Allocator* allocator_ = nullptr;  // none once moved from
  void* memory_ = nullptr;
  void* aligned_ = nullptr;
};

// What a kernel sees of one Run.
class KernelContext {
 public:
  KernelContext(const Api& api, OrtKernelContext* context) : api_(api), context_(context) {}

  const Api& api() const { return api_; }
  const OrtKernelContext* handle() const { return context_; }

  Tensor input(int index) const;
  // Makes output `index`.
  Tensor output(int index, const Shape& shape);
  Scratch scratch(std::size_t bytes, std::size_t alignment) const {
    return Scratch(api_, context_, bytes, alignment);
  }

  // Calls unit(i) for i from 0 to units - 1 on the session's threads; returns when all are done.
  // Rethrows what a unit throws.
  template <typename Unit>
  void parallel_for(std::int64_t units, const Unit& unit) const {
    Job<Unit> job{unit, {}, {}};
    run_units(static_cast<std::size_t>(units), Job<Unit>::run, &job);
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  // There is C between us and a unit, so that its exceptions are kept.
  template <typename Unit>
  struct Job {
    const Unit& unit;
    std::once_flag failed;
    std::exception_ptr error;

    static void run(void* data, std::size_t i) noexcept {
      Job& job = *static_cast<Job*>(data);
      try {
        job.unit(static_cast<std::int64_t>(i));
      } catch (...) {
        std::call_once(job.failed, [&job] { job.error = std::current_exception(); });
      }
    }
  };

  void run_units(std::size_t units, void (*unit)(void*, std::size_t), void* data) const;

  const Api& api_;
  OrtKernelContext* context_;
};

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_BINDING_H_
