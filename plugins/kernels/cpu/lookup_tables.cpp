#include "kernels/cpu/lookup_tables.h"

#include <array>

namespace bitexport {
namespace cpu {
namespace {

constexpr unsigned bits(unsigned code) {
  return (code & 1u) + (code >> 1 & 1u) + (code >> 2 & 1u) + (code >> 3 & 1u);
}

std::array<LookupTable, 256> make_tables() {
  std::array<LookupTable, 256> tables{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    for (unsigned a = 0; a < 16; ++a) {
      const unsigned count = bits((byte & 15u) ^ a) + 16 * bits((byte >> 4) ^ a);
      tables[byte].count[a] = static_cast<std::uint8_t>(count);
    }
  }
  return tables;
}

}  // namespace

const LookupTable* lookup_tables() {
  static const std::array<LookupTable, 256> tables = make_tables();
  return tables.data();
}

}  // namespace cpu
}  // namespace bitexport
