// What the kernel with channels beside each other puts in another order: codes as they are packed,
// counters as they are written.
//
// To be included once in a file, between the lines of target.h.

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kPlanesPerUnit = 8;  // of packing

// 8 planes of 16 pixels, as bytes -> 16 pixels of 8 planes, as 16 * code in 16 bits.
void transpose_codes(const std::uint8_t* const (&planes)[kPlanesPerUnit], std::int32_t pixels,
                     std::uint16_t* out, std::int64_t pitch) {
  __m128i row[kPlanesPerUnit];
  for (int i = 0; i < kPlanesPerUnit; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(planes[i]));
  }
  __m128i two[8];  // pixels 0 to 7 of planes 2 i and 2 i + 1, then pixels 8 to 15
  __m128i four[8];
  for (int i = 0; i < 4; ++i) {
    two[i] = _mm_unpacklo_epi8(row[2 * i], row[2 * i + 1]);
    two[4 + i] = _mm_unpackhi_epi8(row[2 * i], row[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 2; ++i) {
      const __m128i first = two[4 * half + 2 * i];
      const __m128i second = two[4 * half + 2 * i + 1];
      four[4 * half + i] = _mm_unpacklo_epi16(first, second);      // pixels 0 to 3 of four planes
      four[4 * half + 2 + i] = _mm_unpackhi_epi16(first, second);  // pixels 4 to 7
    }
  }
  for (std::int32_t pixel = 0; pixel < pixels; pixel += 2) {
    const __m128i first = four[pixel / 4 * 2];
    const __m128i second = four[pixel / 4 * 2 + 1];
    const __m128i both =
        pixel % 4 == 0 ? _mm_unpacklo_epi32(first, second) : _mm_unpackhi_epi32(first, second);
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepu8_epi16(both), 4);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + pixel * pitch), _mm256_castsi256_si128(wide));
    if (pixel + 1 == pixels) return;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + (pixel + 1) * pitch),
                     _mm256_extracti128_si256(wide, 1));
  }
}

// The codes in a word of two pixels, as 16 * code in 16 bits.
void store_codes(std::uint32_t first, std::uint32_t second, std::uint16_t* to_first,
                 std::uint16_t* to_second) {
  const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  const auto codes_of = [&](std::uint32_t word) {
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), shifts),
                            _mm256_set1_epi32(15));
  };
  // The pack works within 128-bit lanes; an index counts 64 bits.
  const __m256i both = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(codes_of(first), codes_of(second)), _MM_SHUFFLE(3, 1, 2, 0));
  const __m256i wide = _mm256_slli_epi16(both, 4);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to_first), _mm256_castsi256_si128(wide));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to_second), _mm256_extracti128_si256(wide, 1));
}

// Of 32 channels, whether valid - 2 * counter is above a limit; counters aligned to a vector.
std::uint32_t bits_of(std::int32_t valid, const std::uint16_t* counters,
                      const std::int16_t* limits) {
  const __m256i all = _mm256_set1_epi16(static_cast<short>(valid));
  const auto above = [&](int i) {
    const __m256i mismatches = _mm256_load_si256(reinterpret_cast<const __m256i*>(counters + i));
    const __m256i limit = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(limits + i));
    return _mm256_cmpgt_epi16(_mm256_sub_epi16(all, _mm256_add_epi16(mismatches, mismatches)),
                              limit);
  };
  // The pack works within 128-bit lanes; an index counts 64 bits.
  const __m256i bytes =
      _mm256_permute4x64_epi64(_mm256_packs_epi16(above(0), above(16)), _MM_SHUFFLE(3, 1, 2, 0));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}

// 16 channels of the counters [8 pixels, kLanes] -> [16, pitch].
template <std::int32_t kLanes>
void transpose_counters(const std::uint16_t* counters, std::uint16_t* out, std::int64_t pitch) {
  __m256i from[8];
  __m256i to[8];
  for (int i = 0; i < 8; ++i) {
    from[i] = _mm256_load_si256(reinterpret_cast<const __m256i*>(counters + i * kLanes));
  }
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = _mm256_unpacklo_epi16(from[2 * i], from[2 * i + 1]);
    to[2 * i + 1] = _mm256_unpackhi_epi16(from[2 * i], from[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    for (int high = 0; high < 2; ++high) {
      from[4 * i + 2 * high] = _mm256_unpacklo_epi32(to[4 * i + high], to[4 * i + 2 + high]);
      from[4 * i + 2 * high + 1] = _mm256_unpackhi_epi32(to[4 * i + high], to[4 * i + 2 + high]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = _mm256_unpacklo_epi64(from[i], from[4 + i]);
    to[2 * i + 1] = _mm256_unpackhi_epi64(from[i], from[4 + i]);
  }
  // Channels i and i + 8.
  for (int i = 0; i < 8; ++i) {
    _mm_store_si128(reinterpret_cast<__m128i*>(out + i * pitch), _mm256_castsi256_si128(to[i]));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + (i + 8) * pitch),
                    _mm256_extracti128_si256(to[i], 1));
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
