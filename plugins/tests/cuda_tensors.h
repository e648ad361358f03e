// Tensors as the CUDA kernels take them, made of plain floats.

#ifndef BITEXPORT_TESTS_CUDA_TENSORS_H_
#define BITEXPORT_TESTS_CUDA_TENSORS_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "core/half.h"
#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/problem.h"

namespace bitexport_test {

// Memory of exactly this size, aligned as cudaMalloc does it and poisoned: a sanitizer sees what
// lies beyond, and nothing in it is 0 by chance.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
    if (posix_memalign(&memory_, 256, bytes > 0 ? bytes : 1) != 0) std::abort();
    std::memset(memory_, 0xA5, bytes);
  }
  ~DeviceBuffer() { std::free(memory_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* data() { return memory_; }
  std::size_t size() const { return bytes_; }
  template <typename T>
  T* as() {
    return static_cast<T*>(memory_);
  }

 private:
  std::size_t bytes_;
  void* memory_ = nullptr;
};

// [N, C, plane] of a type and layout.
struct TensorForm {
  bitexport::cuda::DataType type;
  bitexport::cuda::Layout layout;
  std::int64_t images;
  std::int64_t channels;
  std::int64_t plane;

  bool half() const { return type == bitexport::cuda::DataType::kFloat16; }
  bool nhwc8() const { return layout == bitexport::cuda::Layout::kNhwc8; }
  std::int64_t stored_channels() const { return nhwc8() ? (channels + 7) / 8 * 8 : channels; }
  std::size_t bytes() const {
    return static_cast<std::size_t>(images * stored_channels() * plane * (half() ? 2 : 4));
  }
  // Index of an element; `index` counts in NCHW.
  std::int64_t at(std::int64_t index) const {
    if (!nhwc8()) return index;
    const std::int64_t pixel = index % plane;
    const std::int64_t channel = index / plane % channels;
    const std::int64_t image = index / plane / channels;
    return (image * plane + pixel) * stored_channels() + channel;
  }
};

inline std::string to_string(const TensorForm& form) {
  return std::string(form.half() ? "float16" : "float32") + (form.nhwc8() ? " NHWC8" : " NCHW");
}

// Fills a buffer; the padding of NHWC8 becomes NaN.
inline void put_tensor(const TensorForm& form, const std::vector<float>& values,
                       DeviceBuffer& buffer) {
  if (form.half()) {
    std::memset(buffer.data(), 0xFF, buffer.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      buffer.as<std::uint16_t>()[form.at(static_cast<std::int64_t>(i))] =
          bitexport::float_to_half(values[i]);
    }
  } else if (!values.empty()) {
    std::memcpy(buffer.data(), values.data(), values.size() * sizeof(float));
  }
}

// Element `index` in NCHW, as a float.
inline float get_element(const TensorForm& form, DeviceBuffer& buffer, std::int64_t index) {
  const std::int64_t at = form.at(index);
  return form.half() ? bitexport::half_to_float(buffer.as<std::uint16_t>()[at])
                     : buffer.as<float>()[at];
}

// Checks that what no channel owns in NHWC8 is 0.
inline void check_padding(const TensorForm& form, DeviceBuffer& buffer) {
  if (!form.nhwc8()) return;
  for (std::int64_t pixel = 0; pixel < form.images * form.plane; ++pixel) {
    for (std::int64_t c = form.channels; c < form.stored_channels(); ++c) {
      CHECK_EQUAL(buffer.as<std::uint16_t>()[pixel * form.stored_channels() + c], 0);
    }
  }
}

// What a half holds of a float; the float itself for float32.
inline float rounded(const TensorForm& form, float value) {
  return form.half() ? bitexport::half_to_float(bitexport::float_to_half(value)) : value;
}

inline std::vector<float> random_floats(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = random.real();
  return values;
}

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_CUDA_TENSORS_H_
