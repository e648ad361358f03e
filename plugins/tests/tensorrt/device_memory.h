// Memory that kernels work on: the GPU's, or the host's where a double computes.
//
// device_memory_cuda.cpp or device_memory_host.cpp is linked in.

#ifndef BITEXPORT_TESTS_TENSORRT_DEVICE_MEMORY_H_
#define BITEXPORT_TESTS_TENSORRT_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitexport_test {

// All throw a std::runtime_error that says what failed.
void* device_allocate(std::size_t bytes);
void device_free(void* memory);
void copy_to_device(void* to, const void* from, std::size_t bytes);
void copy_from_device(void* to, const void* from, std::size_t bytes);
void device_synchronize();
// Major * 10 + minor.
int device_compute_capability();

// Device memory aligned to 256 bytes, with guard bytes before and after it.
//
// Without guards an access past the end is one past the allocation, which compute-sanitizer sees.
class DeviceBuffer {
 public:
  static inline std::size_t guard_bytes = 256;

  explicit DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
    const std::vector<std::uint8_t> poison(bytes + 2 * guard_bytes, kPoison);
    // A kernel may be given a pointer for no bytes at all, and it is not null.
    memory_ = static_cast<std::uint8_t*>(device_allocate(poison.empty() ? 1 : poison.size()));
    copy_to_device(memory_, poison.data(), poison.size());
  }
  explicit DeviceBuffer(const std::vector<std::uint8_t>& contents) : DeviceBuffer(contents.size()) {
    copy_to_device(data(), contents.data(), contents.size());
  }
  ~DeviceBuffer() { device_free(memory_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept : bytes_(other.bytes_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;

  void* data() const { return memory_ + guard_bytes; }
  std::size_t size() const { return bytes_; }

  std::vector<std::uint8_t> contents() const {
    std::vector<std::uint8_t> host(bytes_);
    copy_from_device(host.data(), data(), bytes_);
    return host;
  }

  bool guards_intact() const {
    std::vector<std::uint8_t> host(bytes_ + 2 * guard_bytes);
    copy_from_device(host.data(), memory_, host.size());
    for (std::size_t i = 0; i < guard_bytes; ++i) {
      if (host[i] != kPoison || host[guard_bytes + bytes_ + i] != kPoison) return false;
    }
    return true;
  }

 private:
  static constexpr std::uint8_t kPoison = 0xa5;

  std::size_t bytes_;
  std::uint8_t* memory_;
};

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_DEVICE_MEMORY_H_
