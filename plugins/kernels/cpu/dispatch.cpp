#include "kernels/cpu/binary_conv.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {

Isa best_isa() {
#if defined(BITEXPORT_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2")) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

const char* isa_name(Isa isa) { return isa == Isa::kAvx2 ? "avx2" : "portable"; }

std::unique_ptr<const BinaryConvKernel> make_binary_conv(const ConvShape& shape,
                                                         const std::uint32_t* weight, Isa isa) {
#if defined(BITEXPORT_HAVE_AVX2)
  if (isa == Isa::kAvx2) {
    if (auto kernel = make_avx2(shape, weight)) return kernel;
  }
#endif
  static_cast<void>(isa);
  return make_portable(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
