// The inner loop of the look-up kernels: mismatching bits of two output channels.
//
// A byte shuffle looks the codes of a whole vector of pixels up in one table (lookup_tables.h) at
// once. Three look-ups add up to at most 12 in either half of a byte. A padding code has its top
// bit set, for which the shuffle gives 0: a padded tap adds no mismatch, without a branch.
//
// The two halves are taken apart without masks in the loop. x86 cannot shift bytes: of each pair of
// neighbouring bytes, e + 256 * o with e = e0 + 16 * e1 and o = o0 + 16 * o1 (0 and 1 being the
// output channels), it adds up the bytes themselves and the pair shifted right by four bits, e1 +
// 16 * o0 + 256 * o1. Every sum is below 256, so that Vector::add_counts gets the four back modulo
// 256. NEON shifts and adds bytes at once.
//
// To be included once, between the lines of target.h in a file per instruction set, after the
// headers of the standard library; Vector is a type of that file alone.

#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/lookup_weights.h"

namespace bitexport {
namespace cpu {
namespace {

// Groups whose counts, at most 12 each, fit 8 bits.
constexpr std::int32_t kGroupsPerFlush = 21;

// A template of a class, so that an instruction set may have its own of some width, with
//
//     static void add(const std::uint8_t* codes, const LookupTable& t0, const LookupTable& t1,
//                     const LookupTable& t2, Bytes (&sums)[kVectors], Bytes (&shifted)[kVectors])
//
// which looks a group of codes [kLookupGroup, kVectors * Vector::kPixels] up, each row in a table,
// and adds the mismatches to both kinds of sums.
template <typename Vector, int kVectors>
struct LookupGroup {
  static constexpr bool kGeneric = true;
};

// Adds the mismatches of `groups` groups of codes, at least one, to the counters of two output
// channels, which start at 0 where `first`.
//
// codes [groups * kLookupGroup, kVectors * Vector::kPixels]; indices [groups * kLookupGroup] of
// tables, in units of kStep bytes; counters [2, kVectors * Vector::kPixels], aligned to a vector,
// those of a vector of pixels in the order that Vector::interleave mends.
template <typename Vector, int kVectors, std::size_t kStep, typename Index>
inline void count_mismatches(const std::uint8_t* codes, const Index* indices,
                             const LookupTable* tables, std::int32_t groups, bool first,
                             std::uint16_t* counters) {
  constexpr std::int32_t kRow = kVectors * Vector::kPixels;
  const auto table = [&](int i) -> const LookupTable& {
    // Of whole tables, an index is one; else it counts their bytes.
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(tables) + indices[i] * kStep;
    return *reinterpret_cast<const LookupTable*>(bytes);
  };
  while (groups > 0) {
    const std::int32_t batch = groups < kGroupsPerFlush ? groups : kGroupsPerFlush;
    typename Vector::Bytes sums[kVectors];
    typename Vector::Bytes shifted[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = shifted[v] = Vector::zero();
    for (std::int32_t g = 0; g < batch; ++g) {
      using Group = LookupGroup<Vector, kVectors>;
      if constexpr (!Group::kGeneric) {
        Group::add(codes, table(0), table(1), table(2), sums, shifted);
      } else {
        const auto t0 = Vector::repeat(table(0).count);
        const auto t1 = Vector::repeat(table(1).count);
        const auto t2 = Vector::repeat(table(2).count);
        for (int v = 0; v < kVectors; ++v) {
          const auto code = [&](int i) {
            return Vector::load(codes + i * kRow + v * Vector::kPixels);
          };
          const auto sum =
              Vector::add(Vector::add(Vector::look_up(t0, code(0)), Vector::look_up(t1, code(1))),
                          Vector::look_up(t2, code(2)));
          sums[v] = Vector::add(sums[v], sum);
          shifted[v] = Vector::add_shifted(shifted[v], sum);
        }
      }
      codes += kLookupGroup * kRow;
      indices += kLookupGroup;
    }
    const auto flush = [&](auto is_first) {
      for (int v = 0; v < kVectors; ++v) {
        std::uint16_t* channel0 = counters + v * Vector::kPixels;
        Vector::template add_counts<is_first.value>(sums[v], shifted[v], channel0, channel0 + kRow);
      }
    };
    first ? flush(std::true_type{}) : flush(std::false_type{});
    first = false;
    groups -= batch;
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
