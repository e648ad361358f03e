// The vectors of AVX2, for the look-up kernels.
//
// To be included once in a file, between the lines of target.h.

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
  static constexpr auto pack_plane_of_signs = avx2::pack_plane_of_signs;

  // Takes the sums of the two channels apart (see lookup_inner.h) and adds up those of the odd
  // pixels, and as numbers of 16 bits those of both.
  template <bool kFirst>
  static void add_counts(Bytes sums, Bytes shifted, std::uint16_t* channel0,
                         std::uint16_t* channel1) {
    // In bytes: sums - 16 * shifted, and shifted - 16 * the odd pixel's sum.
    const Bytes high = _mm256_set1_epi8(static_cast<char>(0xf0));
    const Bytes even_high = _mm256_set1_epi16(0xf0);
    const Bytes sixteenfold = _mm256_and_si256(_mm256_slli_epi16(shifted, 4), high);
    const Bytes carried = _mm256_and_si256(_mm256_srli_epi16(sums, 4), even_high);
    add_pair<kFirst>(channel0, _mm256_sub_epi8(sums, sixteenfold));
    add_pair<kFirst>(channel1, _mm256_sub_epi8(shifted, carried));
  }

  // Brings the counters of a vector, made by add_counts, into order.
  static void interleave(std::uint16_t* counters) {
    const Bytes odd = load(counters + kPixels / 2);
    const Bytes even = _mm256_sub_epi16(load(counters), _mm256_slli_epi16(odd, 8));
    const Bytes low = _mm256_unpacklo_epi16(even, odd);
    const Bytes high = _mm256_unpackhi_epi16(even, odd);
    store(counters, _mm256_permute2x128_si256(low, high, 0x20));
    store(counters + kPixels / 2, _mm256_permute2x128_si256(low, high, 0x31));
  }

 private:
  template <bool kFirst>
  static void add_pair(std::uint16_t* counters, Bytes counts) {
    add_to<kFirst>(counters, counts);
    add_to<kFirst>(counters + kPixels / 2, _mm256_srli_epi16(counts, 8));
  }
  template <bool kFirst>
  static void add_to(std::uint16_t* counters, Bytes counts) {
    store(counters, kFirst ? counts : _mm256_add_epi16(load(counters), counts));
  }
};

}  // namespace
}  // namespace cpu
}  // namespace bitexport
