// Which accumulators of a binary convolution become +1, as integers.
//
// scale * accumulator + bias, rounded to float32 after each operation, never falls as the
// accumulator grows where the scale is positive, and never rises where it is negative. So the
// accumulators for which it is at or above `next` begin, or end, at one of them:
//
//     bit = (accumulator >= bound) ^ flip,   flip = 1 where the scale is negative
//
// which takes neither a conversion nor a product.

#ifndef BITEXPORT_KERNELS_CPU_SIGN_BOUNDS_H_
#define BITEXPORT_KERNELS_CPU_SIGN_BOUNDS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/conv_shape.h"

namespace bitexport {
namespace cpu {

class SignBounds {
 public:
  // scale, bias and next: [Co]. Throws std::invalid_argument where a scale or a bias is not finite;
  // a `next` of NaN makes all signs -1.
  SignBounds(const ConvShape& shape, const float* scale, const float* bias, const float* next);

  std::int32_t bound(std::int32_t co) const { return bounds_[static_cast<std::size_t>(co)]; }
  // Those of the 32 channels of a word.
  std::uint32_t flips(std::int32_t word) const { return flips_[static_cast<std::size_t>(word)]; }

  // Whether accumulators and limits are numbers of 16 bits.
  bool is_narrow() const { return most_ < std::numeric_limits<std::int16_t>::max(); }
  // What accumulators have to be greater than, [Co], and on to a whole word of channels, where none
  // is. Of narrow bounds.
  const std::int16_t* limits() const { return limits_.data(); }

 private:
  std::int32_t most_;  // of an accumulator
  std::vector<std::int32_t> bounds_;
  std::vector<std::int16_t> limits_;
  std::vector<std::uint32_t> flips_;
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_SIGN_BOUNDS_H_
