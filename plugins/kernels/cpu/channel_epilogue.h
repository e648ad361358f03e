// The epilogue of one output channel, element by element.
//
// To be included where the kernels are compiled, between the lines of target.h.

#ifndef BITEXPORT_KERNELS_CPU_CHANNEL_EPILOGUE_H_
#define BITEXPORT_KERNELS_CPU_CHANNEL_EPILOGUE_H_

namespace bitexport {
namespace cpu {
namespace {

// Its numbers by value: a compiler keeps what it reads through pointers out of registers, as each
// write to Y may change it.
template <Activation kActivation>
class ChannelEpilogue {
 public:
  ChannelEpilogue(const Epilogue& epilogue, std::int32_t co)
      : scale_(epilogue.scale[co]), bias_(epilogue.bias[co]) {
    if (kActivation == Activation::kPRelu) {
      first_ = epilogue.slope[co];
      second_ = epilogue.shift[co];
    } else if (kActivation == Activation::kClip) {
      first_ = epilogue.low;
      second_ = epilogue.high;
    }
  }

  float scale() const { return scale_; }
  float bias() const { return bias_; }
  float slope_or_low() const { return first_; }
  float shift_or_high() const { return second_; }

  float sum(float accumulator) const {
    const float scaled = scale_ * accumulator;
    return scaled + bias_;
  }

  // Both sides are computed, so that a compiler can choose without a branch.
  float activated(float t) const {
    if (kActivation == Activation::kPRelu) {
      const float bent = first_ * t;
      const float value = t >= 0.0f ? t : bent;
      return value + second_;
    }
    if (kActivation == Activation::kClip) {
      const float raised = t < first_ ? first_ : t;
      return raised > second_ ? second_ : raised;
    }
    return t;
  }

 private:
  float scale_;
  float bias_;
  float first_ = 0.0f;   // slope or low
  float second_ = 0.0f;  // shift or high
};

// Calls visit(std::integral_constant<Activation, ...>) with the epilogue's activation.
template <typename Visit>
void with_activation(const Epilogue& epilogue, Visit visit) {
  switch (epilogue.activation) {
    case Activation::kPRelu:
      return visit(std::integral_constant<Activation, Activation::kPRelu>{});
    case Activation::kClip:
      return visit(std::integral_constant<Activation, Activation::kClip>{});
    default:
      return visit(std::integral_constant<Activation, Activation::kNone>{});
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_CHANNEL_EPILOGUE_H_
