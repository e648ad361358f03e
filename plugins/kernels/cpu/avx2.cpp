// The look-up kernel with AVX2.

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

BITEXPORT_TARGET_BEGIN("avx2,prfchw")

#include "kernels/cpu/lookup_inner.h"
#include "kernels/cpu/lookup_plan.h"

namespace bitexport {
namespace cpu {
namespace {

// 32 bytes, of as many pixels.
struct Vector {
  using Bytes = __m256i;
  static constexpr std::int32_t kPixels = 32;

  static Bytes zero() { return _mm256_setzero_si256(); }
  static Bytes load(const void* bytes) {
    return _mm256_load_si256(static_cast<const Bytes*>(bytes));
  }
  static void store(void* bytes, Bytes value) {
    _mm256_store_si256(static_cast<Bytes*>(bytes), value);
  }
  // From and to anywhere.
  static void copy(const std::uint8_t* from, std::uint8_t* to) {
    _mm256_storeu_si256(reinterpret_cast<Bytes*>(to),
                        _mm256_loadu_si256(reinterpret_cast<const Bytes*>(from)));
  }
  // A table of 16 bytes in every 128-bit lane.
  static Bytes repeat(const std::uint8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }
  static Bytes look_up(Bytes table, Bytes codes) { return _mm256_shuffle_epi8(table, codes); }
  static Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
  static Bytes add_shifted(Bytes sums, Bytes a) { return add(sums, _mm256_srli_epi16(a, 4)); }

  static constexpr auto pack_plane = avx2::pack_plane;

  // Takes the four sums of each pair of bytes apart; see lookup_inner.h.
  template <bool kFirst>
  static void add_counts(Bytes sums, Bytes shifted, std::uint16_t* channel0,
                         std::uint16_t* channel1) {
    const Bytes byte = _mm256_set1_epi16(0xff);
    const Bytes o1 = _mm256_srli_epi16(shifted, 8);
    const Bytes o0 = _mm256_and_si256(
        _mm256_sub_epi16(_mm256_srli_epi16(sums, 8), _mm256_slli_epi16(o1, 4)), byte);
    const Bytes e1 = _mm256_and_si256(_mm256_sub_epi16(shifted, _mm256_slli_epi16(o0, 4)), byte);
    const Bytes e0 = _mm256_and_si256(_mm256_sub_epi16(sums, _mm256_slli_epi16(e1, 4)), byte);
    add_to<kFirst>(channel0, e0);
    add_to<kFirst>(channel0 + kPixels / 2, o0);
    add_to<kFirst>(channel1, e1);
    add_to<kFirst>(channel1 + kPixels / 2, o1);
  }

  // Brings a vector's counters, those of the even pixels before those of the odd ones, into order.
  static void interleave(std::uint16_t* counters) {
    const Bytes even = load(counters);
    const Bytes odd = load(counters + kPixels / 2);
    const Bytes low = _mm256_unpacklo_epi16(even, odd);
    const Bytes high = _mm256_unpackhi_epi16(even, odd);
    store(counters, _mm256_permute2x128_si256(low, high, 0x20));
    store(counters + kPixels / 2, _mm256_permute2x128_si256(low, high, 0x31));
  }

 private:
  template <bool kFirst>
  static void add_to(std::uint16_t* counters, Bytes counts) {
    store(counters, kFirst ? counts : _mm256_add_epi16(load(counters), counts));
  }
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_avx2(const ConvShape& shape,
                                                  const std::uint32_t* weight) {
  return std::make_unique<LookupKernel<Vector>>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
