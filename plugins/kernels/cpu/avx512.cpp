// The look-up kernel with AVX-512BW.

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/avx2_pack.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/lookup_weights.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/streamed.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2,avx512f,avx512bw,prfchw")

#include "kernels/cpu/lookup_inner.h"
#include "kernels/cpu/lookup_plan.h"

namespace bitexport {
namespace cpu {
namespace {

// 64 bytes, of as many pixels.
struct Vector {
  using Bytes = __m512i;
  static constexpr std::int32_t kPixels = 64;

  static Bytes zero() { return _mm512_setzero_si512(); }
  static Bytes load(const void* bytes) {
    return _mm512_load_si512(static_cast<const Bytes*>(bytes));
  }
  static void store(void* bytes, Bytes value) {
    _mm512_store_si512(static_cast<Bytes*>(bytes), value);
  }
  // From and to anywhere.
  static void copy(const std::uint8_t* from, std::uint8_t* to) {
    _mm512_storeu_si512(reinterpret_cast<Bytes*>(to),
                        _mm512_loadu_si512(reinterpret_cast<const Bytes*>(from)));
  }
  // A table of 16 bytes in every 128-bit lane.
  static Bytes repeat(const std::uint8_t* table) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  static Bytes look_up(Bytes table, Bytes codes) { return _mm512_shuffle_epi8(table, codes); }
  static Bytes add(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
  static Bytes add_shifted(Bytes sums, Bytes a) { return add(sums, _mm512_srli_epi16(a, 4)); }

  static constexpr auto pack_plane = avx2::pack_plane;
  static constexpr auto pack_plane_of_signs = avx2::pack_plane_of_signs;

  // Takes the four sums of each pair of bytes apart; see lookup_inner.h.
  template <bool kFirst>
  static void add_counts(Bytes sums, Bytes shifted, std::uint16_t* channel0,
                         std::uint16_t* channel1) {
    const Bytes byte = _mm512_set1_epi16(0xff);
    const Bytes o1 = _mm512_srli_epi16(shifted, 8);
    const Bytes o0 = _mm512_and_si512(
        _mm512_sub_epi16(_mm512_srli_epi16(sums, 8), _mm512_slli_epi16(o1, 4)), byte);
    const Bytes e1 = _mm512_and_si512(_mm512_sub_epi16(shifted, _mm512_slli_epi16(o0, 4)), byte);
    const Bytes e0 = _mm512_and_si512(_mm512_sub_epi16(sums, _mm512_slli_epi16(e1, 4)), byte);
    add_to<kFirst>(channel0, e0);
    add_to<kFirst>(channel0 + kPixels / 2, o0);
    add_to<kFirst>(channel1, e1);
    add_to<kFirst>(channel1 + kPixels / 2, o1);
  }

  // Brings a vector's counters, those of the even pixels before those of the odd ones, into order.
  static void interleave(std::uint16_t* counters) {
    const Bytes even = load(counters);
    const Bytes odd = load(counters + kPixels / 2);
    const Bytes low = _mm512_unpacklo_epi16(even, odd);
    const Bytes high = _mm512_unpackhi_epi16(even, odd);
    // Lanes 0 and 1, then 2 and 3, of both in turn; an index counts 64 bits.
    const Bytes first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const Bytes second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    store(counters, _mm512_permutex2var_epi64(low, first, high));
    store(counters + kPixels / 2, _mm512_permutex2var_epi64(low, second, high));
  }

 private:
  template <bool kFirst>
  static void add_to(std::uint16_t* counters, Bytes counts) {
    store(counters, kFirst ? counts : _mm512_add_epi16(load(counters), counts));
  }
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_avx512(const ConvShape& shape,
                                                    const std::uint32_t* weight) {
  return std::make_unique<LookupKernel<Vector>>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
