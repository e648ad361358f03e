#include <cstdlib>
#include <cstring>
#include <new>

#include "tests/tensorrt/device_memory.h"
#include "tests/tensorrt/host_kernels.h"

namespace bitexport_test {

void* device_allocate(std::size_t bytes) {
  void* const memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void device_free(void* memory) { std::free(memory); }

void copy_to_device(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void copy_from_device(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void device_synchronize() {}

int device_compute_capability() { return host_device().compute_capability; }

}  // namespace bitexport_test
