// Mismatch counts of two output channels with every activation code, for table look-up.
//
// A weight byte holds the four-bit codes of two output channels, and its table both of their counts
// with every activation code a:
//
//     table[byte][a] = popcount(low code ^ a) + 16 * popcount(high code ^ a)

#ifndef BITEXPORT_KERNELS_CPU_LOOKUP_TABLES_H_
#define BITEXPORT_KERNELS_CPU_LOOKUP_TABLES_H_

#include <cstdint>

namespace bitexport {
namespace cpu {

struct alignas(16) LookupTable {
  std::uint8_t count[16];
};

// 256 tables, one a weight byte.
const LookupTable* lookup_tables();

// The table of two codes, each a code or kPaddingTable, which counts nothing, is that of index
// first + kSecondTables * second.
inline constexpr unsigned kPaddingTable = 16;
inline constexpr unsigned kSecondTables = 32;
const LookupTable* padded_lookup_tables();

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_LOOKUP_TABLES_H_
