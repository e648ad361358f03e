// Binary convolution on a CPU: +-1 activations and weights, exact integer accumulators.
//
// A kernel holds the weights, repacked once for the instructions of this CPU; a plan adds what
// depends on the size of the image. Both are immutable, so threads share them. The work on one
// image comes in units that the caller spreads over its own threads: first all pack units, then all
// convolution units, in any order.

#ifndef BITEXPORT_KERNELS_CPU_BINARY_CONV_H_
#define BITEXPORT_KERNELS_CPU_BINARY_CONV_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/activation.h"
#include "core/conv_shape.h"
#include "kernels/cpu/sign_bounds.h"

namespace bitexport {
namespace cpu {

// Y = activation(scale * accumulator + bias (+ residual)), in float32 and rounded after each
// operation, as the op's function body does.
struct Epilogue {
  const float* scale;     // [Co]
  const float* bias;      // [Co]
  const float* residual;  // [Co, Ho, Wo] of this image, or null
  Activation activation = Activation::kNone;
  const float* slope = nullptr;  // [Co], of kPRelu
  const float* shift = nullptr;  // [Co], of kPRelu
  float low = 0.0f;              // of kClip
  float high = 0.0f;             // of kClip
};

// The work on images of one size.
class BinaryConvPlan {
 public:
  BinaryConvPlan() = default;
  BinaryConvPlan(const BinaryConvPlan&) = delete;
  BinaryConvPlan& operator=(const BinaryConvPlan&) = delete;
  virtual ~BinaryConvPlan() = default;

  // Scratch for the packed activations of one image, to be aligned to kWorkspaceAlignment.
  virtual std::size_t workspace_bytes() const = 0;

  virtual std::int32_t pack_units() const = 0;
  virtual std::int32_t conv_units() const = 0;

  // Packs a part of x [Ci, H, W]: bit 1 where x >= threshold [Ci], NaN is 0.
  virtual void pack(std::int32_t unit, const float* x, const float* threshold,
                    void* workspace) const = 0;

  // As pack, from words [ceil(Ci / 32), H, W] (core/sign_planes.h) of one group of kFewestSigns
  // channels or more.
  virtual void pack_signs(std::int32_t unit, const std::uint32_t* words, void* workspace) const = 0;

  // Computes a part of y [Co, Ho, Wo].
  virtual void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                        float* y) const = 0;

  // Units of convolve_to_signs, of which no two write one word.
  virtual std::int32_t sign_units() const = 0;

  // Computes a part of words [ceil(Co / 32), Ho, Wo] (core/sign_planes.h), of one group.
  virtual void convolve_to_signs(std::int32_t unit, const void* workspace, const SignBounds& bounds,
                                 std::uint32_t* words) const = 0;

  // As convolve, but the bare accumulators [Co, Ho, Wo].
  virtual void accumulate(std::int32_t unit, const void* workspace,
                          std::int32_t* accumulators) const = 0;
};

class BinaryConvKernel {
 public:
  BinaryConvKernel() = default;
  BinaryConvKernel(const BinaryConvKernel&) = delete;
  BinaryConvKernel& operator=(const BinaryConvKernel&) = delete;
  virtual ~BinaryConvKernel() = default;

  // `shape` differs from the kernel's own in batch, height and width only.
  virtual std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const = 0;
};

inline constexpr std::size_t kWorkspaceAlignment = 64;

enum class Isa { kPortable, kNeon, kAvx2, kAvx512, kAvx512Popcount, kAmx };

// Every kernel that this CPU and this build can run, the best one last.
std::vector<Isa> usable_isas();

inline Isa best_isa() { return usable_isas().back(); }

// The one that the environment variable BITEXPORT_CPU_KERNEL names, for tests and benchmarks; the
// best one where it is not set. Throws std::invalid_argument where it names none of them.
Isa chosen_isa();

const char* isa_name(Isa isa);

// A kernel for the weights [Co, kh, kw, words_per_tap]; batch and size of `shape` do not matter.
// Shapes that the instructions' own kernel does not take, or is slow at, get another one's.
std::unique_ptr<const BinaryConvKernel> make_binary_conv(const ConvShape& shape,
                                                         const std::uint32_t* weight, Isa isa);

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_BINARY_CONV_H_
