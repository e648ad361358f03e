#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cpu/binary_conv.h"

#if defined(BITEXPORT_HAVE_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bitexport {
namespace cpu {
namespace {

#if defined(BITEXPORT_HAVE_X86)
// Whether the CPU has AMX for bytes, and Linux grants its registers to this process, which has to
// ask for them: every context switch then may have 8 KB more to keep.
bool may_use_amx() {
#if defined(BITEXPORT_EMULATED_AMX)
  return true;
#elif defined(__linux__)
  constexpr unsigned kTiles = 1u << 24;  // of CPUID 7.0, EDX
  constexpr unsigned kBytes = 1u << 25;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kTiles) == 0 || (edx & kBytes) == 0) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
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
      if (__builtin_cpu_supports("avx512vpopcntdq")) {
        isas.push_back(Isa::kAvx512Popcount);
        if (may_use_amx()) isas.push_back(Isa::kAmx);
      }
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
    case Isa::kAmx:
      return "amx";
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
