#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/binary_conv.h"

namespace bitexport {
namespace cpu {

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
#elif defined(BITEXPORT_HAVE_NEON)
  // Every 64-bit ARM has it.
  isas.push_back(Isa::kNeon);
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
    case Isa::kNeon:
      return "neon";
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

}  // namespace cpu
}  // namespace bitexport
