// What follows scale, bias and residual; see core/activation.h.

#ifndef BITEXPORT_KERNELS_CUDA_ACTIVATION_H_
#define BITEXPORT_KERNELS_CUDA_ACTIVATION_H_

#include <cstdint>

#include "core/activation.h"
#include "kernels/cuda/host_device.h"

namespace bitexport {
namespace cuda {

// Read where they are used rather than kept in registers beside scale and bias: the epilogues of
// large tiles have none to spare, and the first cache has them.
struct ActivationArgs {
  Activation kind;
  const float* slope;  // [Co], of kPRelu
  const float* shift;  // [Co], of kPRelu
  const float* low;    // one number, of kClip
  const float* high;   // one number, of kClip
};

BITEXPORT_BLOCK float activated(const ActivationArgs& args, std::int32_t channel, float t) {
  if (args.kind == Activation::kPRelu) {
    const float factor = t >= 0.0f ? 1.0f : args.slope[channel];
    return multiply_then_add(factor, t, args.shift[channel]);
  }
  if (args.kind == Activation::kClip) {
    const float low = *args.low;
    const float high = *args.high;
    return t < low ? low : t > high ? high : t;
  }
  return t;
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_ACTIVATION_H_
