// Activations on vectors of AVX-512.
//
// To be included where the kernels are compiled, between the lines of target.h.

#ifndef BITEXPORT_KERNELS_CPU_AVX512_ACTIVATION_H_
#define BITEXPORT_KERNELS_CPU_AVX512_ACTIVATION_H_

namespace bitexport {
namespace cpu {
namespace {

// As ChannelEpilogue::activated, of output channel co.
template <Activation kActivation>
__m512 activated(const Epilogue& epilogue, std::int32_t co, __m512 t) {
  if (kActivation == Activation::kPRelu) {
    const __mmask16 negative = _mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_NGE_UQ);
    const __m512 bent = _mm512_mask_mul_ps(t, negative, t, _mm512_set1_ps(epilogue.slope[co]));
    return _mm512_add_ps(bent, _mm512_set1_ps(epilogue.shift[co]));
  }
  // The second operand is the result where one of them is a NaN.
  if (kActivation == Activation::kClip) {
    return _mm512_min_ps(_mm512_set1_ps(epilogue.high),
                         _mm512_max_ps(_mm512_set1_ps(epilogue.low), t));
  }
  return t;
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_AVX512_ACTIVATION_H_
