#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/binary_conv.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

#if defined(BITEXPORT_HAVE_X86)
// Words of a few channels are mostly empty: looking four channels up is quicker there.
bool pays_for_popcount(const ConvShape& shape) {
  constexpr std::int32_t kFewestChannels = 20;
  return shape.in_channels_per_group() >= kFewestChannels &&
         shape.vertical.kernel <= kMostPopcountTaps && shape.horizontal.kernel <= kMostPopcountTaps;
}
#endif

}  // namespace

std::vector<Isa> usable_isas() {
  std::vector<Isa> isas = {Isa::kPortable};
#if defined(BITEXPORT_HAVE_X86)
  if (__builtin_cpu_supports("avx2")) {
    isas.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512bw")) {
      isas.push_back(Isa::kAvx512);
      if (__builtin_cpu_supports("avx512vpopcntdq")) isas.push_back(Isa::kAvx512Popcount);
    }
  }
#endif
  return isas;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Popcount:
      return "avx512-vpopcntdq";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

Isa chosen_isa() {
  const char* wanted = std::getenv("BITEXPORT_CPU_KERNEL");
  const std::vector<Isa> isas = usable_isas();
  if (wanted == nullptr || *wanted == '\0') return isas.back();
  std::string names;
  for (const Isa isa : isas) {
    if (wanted == std::string(isa_name(isa))) return isa;
    names += std::string(names.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("expected BITEXPORT_CPU_KERNEL to be one of " + names + ", got " +
                              wanted + "; unset it to take the best");
}

std::unique_ptr<const BinaryConvKernel> make_binary_conv(const ConvShape& shape,
                                                         const std::uint32_t* weight, Isa isa) {
#if defined(BITEXPORT_HAVE_X86)
  if (isa == Isa::kAvx512Popcount && pays_for_popcount(shape)) {
    return make_avx512_popcount(shape, weight);
  }
  // The look-up kernels count mismatches in 16 bits.
  const std::int64_t most = std::int64_t{shape.in_channels_per_group()} * shape.taps();
  if (most <= std::numeric_limits<std::uint16_t>::max()) {
    if (isa >= Isa::kAvx512) return make_avx512(shape, weight);
    if (isa == Isa::kAvx2) return make_avx2(shape, weight);
  }
#endif
  static_cast<void>(isa);
  return make_portable(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
