// BinaryConv on the CPU, with or without a residual and an activation:
//
//     t = S * conv(X >= Th ? +1 : -1, W) + B (+ R)
//     Y = t    or    (t >= 0 ? t : Slope * t) + Shift    or    t between Lo and Hi
//
// and the links of chains, whose X or Y are signs: Signs in place of X and Th, t >= Next ? +1 : -1
// as Y. Those are words here, see core/sign_planes.h.
//
// A NaN in X is at or above no threshold: -1. -0 and +0 are equal, and infinities compare as
// numbers do. A threshold of NaN makes every activation -1. Where T is float16, all is computed in
// float32 and Y rounded once.

#ifndef BITEXPORT_ORT_BINARY_CONV_H_
#define BITEXPORT_ORT_BINARY_CONV_H_

#include <memory>
#include <optional>
#include <vector>

#include "core/conv_shape.h"
#include "core/op_spec.h"
#include "kernels/cpu/binary_conv.h"
#include "ort/binding.h"
#include "ort/conv_node.h"
#include "ort/float_view.h"
#include "ort/plan_cache.h"

namespace bitexport {
namespace ort {

class BinaryConv {
 public:
  // All inputs but X and R must be constants; they are read here, once.
  BinaryConv(const OpSpec& spec, const KernelInfo& info);

  void compute(KernelContext& context) const;

  static void infer_output_shape(const Api& api, OrtShapeInferContext* context) {
    infer_conv_shape(api, context);
  }

 private:
  // Y of a Run whose packing pack(unit, image, workspace) does.
  template <typename Pack>
  void convolve(const KernelContext& context, const cpu::BinaryConvPlan& plan, const Tensor& y,
                const std::optional<FloatInput>& r, Pack pack) const;

  // R, where the op has one; checked against Y's shape.
  std::optional<FloatInput> residual(const KernelContext& context, const Shape& y) const;

  // The epilogue without a residual; it points into this.
  cpu::Epilogue epilogue() const;

  ConvArguments attributes_;
  int residual_input_;  // -1 where the op has none
  bool takes_signs_;
  bool makes_signs_;
  Activation activation_;
  std::unique_ptr<const cpu::BinaryConvKernel> kernel_;
  std::vector<float> threshold_;           // [Ci], of an op with an X
  std::vector<float> scale_;               // [Co]
  std::vector<float> bias_;                // [Co]
  std::vector<float> slope_;               // [Co], of kPRelu
  std::vector<float> shift_;               // [Co], of kPRelu
  float low_ = 0.0f;                       // of kClip
  float high_ = 0.0f;                      // of kClip
  std::optional<cpu::SignBounds> bounds_;  // of an op that makes signs
  mutable PlanCache<cpu::BinaryConvPlan> plans_;
};

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_BINARY_CONV_H_
