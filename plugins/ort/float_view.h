// Activations of type T, float or float16, as the float32 that our kernels compute with.

#ifndef BITEXPORT_ORT_FLOAT_VIEW_H_
#define BITEXPORT_ORT_FLOAT_VIEW_H_

#include <cstdint>
#include <optional>

#include "ort/binding.h"

namespace bitexport {
namespace ort {

// An input: its own memory where it is float32, else a converted copy.
class FloatInput {
 public:
  FloatInput(const KernelContext& context, const Tensor& tensor);

  const float* data() const { return data_; }

 private:
  std::optional<Scratch> copy_;
  const float* data_;
};

// An output to be written as float32.
class FloatOutput {
 public:
  FloatOutput(const KernelContext& context, const Tensor& tensor);

  float* data() const { return data_; }

  // To be called once all is written.
  void finish() const;

 private:
  const KernelContext& context_;
  Tensor tensor_;
  std::optional<Scratch> copy_;
  float* data_;
};

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_FLOAT_VIEW_H_
