#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/cpu/binary_conv.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {

std::vector<Isa> usable_isas() {
  std::vector<Isa> isas = {Isa::kPortable};
#if defined(BITEXPORT_HAVE_X86)
  if (__builtin_cpu_supports("avx2")) {
    isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512bw")) isas.push_back(Isa::kAvx512);
  }
#endif
  return isas;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

std::unique_ptr<const BinaryConvKernel> make_binary_conv(const ConvShape& shape,
                                                         const std::uint32_t* weight, Isa isa) {
#if defined(BITEXPORT_HAVE_X86)
  // The look-up kernels count mismatches in 16 bits.
  const std::int64_t most = std::int64_t{shape.in_channels_per_group()} * shape.taps();
  if (most <= std::numeric_limits<std::uint16_t>::max()) {
    if (isa == Isa::kAvx512) return make_avx512(shape, weight);
    if (isa == Isa::kAvx2) return make_avx2(shape, weight);
  }
#endif
  static_cast<void>(isa);
  return make_portable(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
