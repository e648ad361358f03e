// The epilogues of the AMX kernel: a strip's sums come pixel by pixel, and leave channel by
// channel.
//
// To be included once in a file, between the lines of target.h.

#include "kernels/cpu/avx512_activation.h"
#include "kernels/cpu/channel_epilogue.h"
#include "kernels/cpu/fetch_ahead.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr int kQuarters = 4;
constexpr int kQuarter = kTile / kQuarters;  // output channels

// Of a tile: [pixel, output channel].
using Sums = std::int32_t[kTile][kTile];

// Turns a quarter of a tile's output channels into vectors of pixels.
inline void transpose(const Sums& sums, int quarter, __m512i (&channels)[kQuarter]) {
  __m512i rows[kQuarter];  // lane i: pixel 4 * i + its index
  for (int i = 0; i < kQuarter; ++i) {
    const auto pixel = [&](int index) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(sums[index] + kQuarter * quarter));
    };
    rows[i] = _mm512_castsi128_si512(pixel(i));
    rows[i] = _mm512_inserti32x4(rows[i], pixel(kQuarter + i), 1);
    rows[i] = _mm512_inserti32x4(rows[i], pixel(2 * kQuarter + i), 2);
    rows[i] = _mm512_inserti32x4(rows[i], pixel(3 * kQuarter + i), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  channels[0] = _mm512_unpacklo_epi64(low01, low23);
  channels[1] = _mm512_unpackhi_epi64(low01, low23);
  channels[2] = _mm512_unpacklo_epi64(high01, high23);
  channels[3] = _mm512_unpackhi_epi64(high01, high23);
}

// What becomes of sums.
class Finisher {
 public:
  Finisher() = default;
  Finisher(const Finisher&) = delete;
  Finisher& operator=(const Finisher&) = delete;

  // The sums of `channels`, at most kTile, from co on: of these, a quarter that is not empty.
  virtual void finish(const Strip& strip, const Sums* sums, std::int32_t co, std::int32_t channels,
                      int quarter) const = 0;

 protected:
  ~Finisher() = default;
};

// Calls of_channel(c)(pixel, lanes, sums) for every vector of a quarter's sums: of its channel c,
// for the neighbouring pixels from that one of the strip on, as many as there are lanes.
template <int kTiles, bool kWhole, typename OfChannel>
__attribute__((always_inline)) inline void for_tiles(const Strip& strip, const Sums* sums,
                                                     int quarter, std::int32_t channels,
                                                     OfChannel of_channel) {
  __m512i vectors[kTiles][kQuarter];
  __mmask16 lanes[kTiles];
  std::int64_t offsets[kTiles];
  for (int t = 0; t < kTiles; ++t) {
    transpose(sums[t], quarter, vectors[t]);
    lanes[t] = kWhole ? 0xffff : strip.lanes[t];
    offsets[t] = kWhole ? t * kTile : strip.offsets[t];
    if (!kWhole) {
      for (__m512i& v : vectors[t]) v = _mm512_maskz_compress_epi32(strip.pixels[t], v);
    }
  }
  for (int c = 0; c < kQuarter; ++c) {
    if (c >= channels) return;
    const auto store = of_channel(c);
    for (int t = 0; t < kTiles; ++t) {
      store(offsets[t], lanes[t], vectors[t][c]);
    }
  }
}

template <typename OfChannel>
__attribute__((always_inline)) inline void for_strip(const Strip& strip, const Sums* sums,
                                                     int quarter, std::int32_t channels,
                                                     OfChannel of_channel) {
  channels -= kQuarter * quarter;
  if (strip.whole && strip.tiles == kStripTiles) {
    return for_tiles<kStripTiles, true>(strip, sums, quarter, channels, of_channel);
  }
  switch (strip.tiles) {
    case 1:
      return for_tiles<1, false>(strip, sums, quarter, channels, of_channel);
    case 2:
      return for_tiles<2, false>(strip, sums, quarter, channels, of_channel);
    case 3:
      return for_tiles<3, false>(strip, sums, quarter, channels, of_channel);
    default:
      return for_tiles<4, false>(strip, sums, quarter, channels, of_channel);
  }
}

// Writes Y.
template <Activation kActivation, bool kResidual>
class FloatFinisher final : public Finisher {
 public:
  // pixels: of an output channel. streamed: see streamed.h.
  FloatFinisher(const Epilogue& epilogue, std::int64_t pixels, bool streamed, float* y)
      : epilogue_(epilogue), pixels_(pixels), streamed_(streamed), y_(y) {}

  void finish(const Strip& strip, const Sums* sums, std::int32_t co, std::int32_t channels,
              int quarter) const override {
    const std::int32_t first = co + kQuarter * quarter;
    const std::int64_t index = first * pixels_ + strip.first;
    float* const y = y_ + index;
    const float* const residual = kResidual ? epilogue_.residual + index : nullptr;
    const std::int64_t pitch = pixels_;
    if (streamed_) {
      // What the next strip writes.
      constexpr std::int32_t kPixels = kStripTiles * kTile;
      fetch_ahead({y_, epilogue_.residual}, {index + kPixels, kPixels, kQuarter, pitch});
    }
    // By value: what a compiler reads through pointers it reads again after each write to Y.
    const Epilogue epilogue = epilogue_;
    for_strip(strip, sums, quarter, channels, [=](int c) {
      const __m512 scale = _mm512_set1_ps(epilogue.scale[first + c]);
      const __m512 bias = _mm512_set1_ps(epilogue.bias[first + c]);
      return [=](std::int64_t pixel, __mmask16 lanes, __m512i sum) __attribute__((always_inline)) {
        const std::int64_t i = c * pitch + pixel;
        __m512 t = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum));
        t = _mm512_add_ps(t, bias);
        if (kResidual) t = _mm512_add_ps(t, _mm512_maskz_loadu_ps(lanes, residual + i));
        _mm512_mask_storeu_ps(y + i, lanes, activated<kActivation>(epilogue, first + c, t));
      };
    });
  }

 private:
  const Epilogue epilogue_;
  const std::int64_t pixels_;
  const bool streamed_;
  float* const y_;
};

// Writes words of signs. The quarters of a word have to come in order.
class SignFinisher final : public Finisher {
 public:
  SignFinisher(const SignBounds& bounds, std::int64_t pixels, std::uint32_t* words)
      : bounds_(bounds), pixels_(pixels), words_(words) {}

  void finish(const Strip& strip, const Sums* sums, std::int32_t co, std::int32_t channels,
              int quarter) const override {
    constexpr std::int32_t kSigns = 32;
    const std::int32_t first = co + kQuarter * quarter;
    const std::int32_t count = std::min(kQuarter, channels - kQuarter * quarter);
    std::uint32_t* const words = words_ + first / kSigns * pixels_ + strip.first;
    for (int t = 0; t < strip.tiles; ++t) {
      const __mmask16 pixels = strip.pixels[t];
      const __mmask16 lanes = strip.lanes[t];
      std::uint32_t* const out = words + strip.offsets[t];
      __m512i bits = first % kSigns == 0
                         ? _mm512_set1_epi32(static_cast<int>(bounds_.flips(first / kSigns)))
                         : _mm512_maskz_loadu_epi32(lanes, out);
      __m512i vectors[kQuarter];
      transpose(sums[t], quarter, vectors);
      for (int c = 0; c < count; ++c) {
        const __mmask16 above =
            _mm512_cmpge_epi32_mask(_mm512_maskz_compress_epi32(pixels, vectors[c]),
                                    _mm512_set1_epi32(bounds_.bound(first + c)));
        const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << (first + c) % kSigns));
        bits = _mm512_mask_xor_epi32(bits, above, bits, bit);
      }
      _mm512_mask_storeu_epi32(out, lanes, bits);
    }
  }

 private:
  const SignBounds& bounds_;
  const std::int64_t pixels_;
  std::uint32_t* const words_;
};

// Writes the sums themselves.
class SumFinisher final : public Finisher {
 public:
  SumFinisher(std::int64_t pixels, std::int32_t* accumulators)
      : pixels_(pixels), accumulators_(accumulators) {}

  void finish(const Strip& strip, const Sums* sums, std::int32_t co, std::int32_t channels,
              int quarter) const override {
    const std::int64_t index = (co + kQuarter * quarter) * pixels_ + strip.first;
    for_strip(strip, sums, quarter, channels, [&](int c) {
      std::int32_t* const out = accumulators_ + index + c * pixels_;
      return [=](std::int64_t pixel, __mmask16 lanes, __m512i sum) {
        _mm512_mask_storeu_epi32(out + pixel, lanes, sum);
      };
    });
  }

 private:
  const std::int64_t pixels_;
  std::int32_t* const accumulators_;
};

}  // namespace
}  // namespace cpu
}  // namespace bitexport
