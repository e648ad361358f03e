// The inner loop of the popcount kernel: mismatching bits of output channels; and the words that it
// runs over.
//
// To be included once in a file, between the lines of target.h.

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kLanes = 16;  // of 32 bits in a vector

// Vectors of 16 pixels, 32 channels each.
struct Words32 {
  using Word = std::uint32_t;
  static constexpr std::int32_t kPixels = kLanes;
  static __m512i repeat(Word word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static __m512i add_popcount(__m512i sum, __m512i bits) {
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(bits));
  }
  // 16 neighbouring sums as int32, from vector kIndex * kLanes / kPixels on.
  template <int kIndex, int kVectors>
  static __m512i to_int32(const __m512i (&sums)[kVectors]) {
    return sums[kIndex];
  }
};

// Vectors of 8 pixels, 64 channels each.
struct Words64 {
  using Word = std::uint64_t;
  static constexpr std::int32_t kPixels = kLanes / 2;
  static __m512i repeat(Word word) { return _mm512_set1_epi64(static_cast<long long>(word)); }
  static __m512i add_popcount(__m512i sum, __m512i bits) {
    return _mm512_add_epi64(sum, _mm512_popcnt_epi64(bits));
  }
  template <int kIndex, int kVectors>
  static __m512i to_int32(const __m512i (&sums)[kVectors]) {
    constexpr int kLast = std::min(2 * kIndex + 1, kVectors - 1);
    // The low halves; index 16 + i is lane i of the second vector.
    const __m512i low =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(sums[2 * kIndex], low, sums[kLast]);
  }
};

// Copies a tile's words under all taps of all planes together, to rows of `pitch` words; writes up
// to a vector past each row.
template <typename Words>
void gather(const ConvShape& shape, const PlaneLayout& layout, const typename Words::Word* planes,
            const Runs& runs, std::int64_t pitch, typename Words::Word* words) {
  for (std::int32_t plane = 0; plane < layout.planes_per_group; ++plane) {
    for (std::int32_t tap = 0; tap < shape.taps(); ++tap, words += pitch) {
      const auto* source = planes + plane * layout.plane + layout.tap_offset(shape, tap);
      for (const Run& run : runs) {
        for (std::int32_t done = 0; done < run.length; done += Words::kPixels) {
          _mm512_storeu_si512(words + run.first + done,
                              _mm512_loadu_si512(source + run.source + done));
        }
      }
    }
  }
}

// Mismatches of kVectors vectors of pixels with kChannels output channels.
//
// words [rows, pitch], of which the first kVectors vectors of a row; weights [rows, kWeightBlock],
// of which the first kChannels words of a row.
template <typename Words, int kVectors, int kChannels>
inline void count_mismatches(const typename Words::Word* words, std::int64_t pitch,
                             const typename Words::Word* weights, std::int32_t rows,
                             __m512i (&sums)[kChannels][kVectors]) {
  // Their own array: the compiler keeps it in registers.
  __m512i own[kChannels][kVectors];
  for (auto& channel : own) {
    for (__m512i& sum : channel) sum = _mm512_setzero_si512();
  }
  for (std::int32_t row = 0; row < rows; ++row, words += pitch, weights += kWeightBlock) {
    __m512i pixels[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      pixels[v] = _mm512_loadu_si512(words + v * Words::kPixels);
    }
    for (int i = 0; i < kChannels; ++i) {
      const __m512i weight = Words::repeat(weights[i]);
      for (int v = 0; v < kVectors; ++v) {
        own[i][v] = Words::add_popcount(own[i][v], _mm512_xor_si512(pixels[v], weight));
      }
    }
  }
  for (int i = 0; i < kChannels; ++i) {
    for (int v = 0; v < kVectors; ++v) sums[i][v] = own[i][v];
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
