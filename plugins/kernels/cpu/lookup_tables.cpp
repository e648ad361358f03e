#include "kernels/cpu/lookup_tables.h"

#include <array>
#include <cstddef>

namespace bitexport {
namespace cpu {
namespace {

constexpr unsigned bits(unsigned code) {
  return (code & 1u) + (code >> 1 & 1u) + (code >> 2 & 1u) + (code >> 3 & 1u);
}

// Those of first + step * second, for codes below `codes`.
template <std::size_t kTables>
std::array<LookupTable, kTables> make_tables(unsigned codes, unsigned step) {
  const auto count = [](unsigned code, unsigned other) {
    return code == kPaddingTable ? 0 : bits(code ^ other);
  };
  std::array<LookupTable, kTables> tables{};
  for (unsigned first = 0; first < codes; ++first) {
    for (unsigned second = 0; second < codes; ++second) {
      for (unsigned a = 0; a < 16; ++a) {
        tables[first + step * second].count[a] =
            static_cast<std::uint8_t>(count(first, a) + 16 * count(second, a));
      }
    }
  }
  return tables;
}

}  // namespace

const LookupTable* lookup_tables() {
  static const std::array<LookupTable, 256> tables = make_tables<256>(16, 16);
  return tables.data();
}

const LookupTable* padded_lookup_tables() {
  constexpr std::size_t kTables = kPaddingTable * (1 + kSecondTables) + 1;
  static const std::array<LookupTable, kTables> tables =
      make_tables<kTables>(kPaddingTable + 1, kSecondTables);
  return tables.data();
}

}  // namespace cpu
}  // namespace bitexport
