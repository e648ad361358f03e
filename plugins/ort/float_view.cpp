#include "ort/float_view.h"

#include <algorithm>
#include <cstddef>

#include "core/half.h"

namespace bitexport {
namespace ort {
namespace {

constexpr std::size_t kAlignment = 64;

std::int64_t elements(const Tensor& tensor) {
  std::int64_t count = 1;
  for (const std::int64_t dim : tensor.shape) count *= dim;
  return count;
}

void require_activations(const Tensor& tensor) {
  if (tensor.type != TensorType::kFloat && tensor.type != TensorType::kFloat16) {
    throw Failure("expected activations of float or float16");
  }
}

std::optional<Scratch> copy_for(const KernelContext& context, const Tensor& tensor) {
  require_activations(tensor);
  std::optional<Scratch> copy;
  if (tensor.type == TensorType::kFloat16) {
    copy.emplace(
        context.scratch(static_cast<std::size_t>(elements(tensor)) * sizeof(float), kAlignment));
  }
  return copy;
}

// Calls convert(i) for every element, on all threads.
template <typename Convert>
void convert_all(const KernelContext& context, std::int64_t count, Convert convert) {
  constexpr std::int64_t kUnit = 1 << 14;
  context.parallel_for((count + kUnit - 1) / kUnit, [&](std::int64_t unit) {
    const std::int64_t last = std::min(count, (unit + 1) * kUnit);
    for (std::int64_t i = unit * kUnit; i < last; ++i) convert(i);
  });
}

}  // namespace

FloatInput::FloatInput(const KernelContext& context, const Tensor& tensor)
    : copy_(copy_for(context, tensor)), data_(tensor.as<float>()) {
  if (!copy_) return;
  auto* copy = static_cast<float*>(copy_->data());
  const auto* halves = tensor.as<std::uint16_t>();
  convert_all(context, elements(tensor),
              [=](std::int64_t i) { copy[i] = half_to_float(halves[i]); });
  data_ = copy;
}

FloatOutput::FloatOutput(const KernelContext& context, const Tensor& tensor)
    : context_(context),
      tensor_(tensor),
      copy_(copy_for(context, tensor)),
      data_(static_cast<float*>(copy_ ? copy_->data() : tensor.data)) {}

void FloatOutput::finish() const {
  if (!copy_) return;
  auto* halves = static_cast<std::uint16_t*>(tensor_.data);
  const float* floats = data_;
  convert_all(context_, elements(tensor_),
              [=](std::int64_t i) { halves[i] = float_to_half(floats[i]); });
}

}  // namespace ort
}  // namespace bitexport
