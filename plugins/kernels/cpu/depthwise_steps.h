// The steps of depthwise convolution: signs, their sums, and the results.
//
// Activations are bytes, +1, -1, and 0 on the padding; a weight is the byte s, 0 for +1 and -1 for
// -1. In two's complement a * (+1) = a and a * (-1) = -a = (a ^ -1) + 1, hence
//
//     accumulator = the number of taps of weight -1 + sum over taps of (a ^ s),
//
// with padded taps counted in, as (0 ^ -1) + 1 = 0. A byte holds the sum of kMostDepthwiseTaps.
//
// The file per instruction set includes the headers of the standard library, and has kVectorBytes,
// what an instruction adds at once; kFloats, how many accumulators it scales at once; and
//
//     template <int kCount> Floats floats_of(const std::int8_t* sums)
//
// which makes a vector of kCount floats, of 1, 4, 8 ... kFloats; and
//
//     void encode_rows(const PixelRows& rows, const float* x, const float* threshold,
//                      std::int8_t* signs)
//     void encode_rows_by_twos(const PixelRows& rows, const float* x, const float* threshold,
//                              std::int8_t* even, std::int8_t* odd)
//
// which make +1 of x >= threshold, else -1, and may write up to kVectorBytes zeros after a row; the
// second puts every other pixel apart. The loops here are plain, for the compiler to make vectors
// of.

#include "kernels/cpu/channel_epilogue.h"

namespace bitexport {
namespace cpu {
namespace {

typedef std::int8_t Bytes __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t Words __attribute__((vector_size(kVectorBytes)));

// Where the pixels under the taps lie, past those under the first one: a copy of its own, as a
// compiler reads again what a write to the sums may have changed. Of kTaps taps, or of any number
// where that is 0.
template <int kTaps>
class TapOffsets {
 public:
  explicit TapOffsets(const std::vector<std::int64_t>& offsets) {
    std::copy_n(offsets.begin(), kTaps, offsets_);
  }
  std::int32_t taps() const { return kTaps; }
  std::int64_t operator[](std::int32_t tap) const { return offsets_[tap]; }

 private:
  std::int64_t offsets_[kTaps];
};

template <>
class TapOffsets<0> {
 public:
  explicit TapOffsets(const std::vector<std::int64_t>& offsets)
      : taps_(static_cast<std::int32_t>(offsets.size())), offsets_(offsets.data()) {}
  std::int32_t taps() const { return taps_; }
  std::int64_t operator[](std::int32_t tap) const { return offsets_[tap]; }

 private:
  std::int32_t taps_;
  const std::int64_t* offsets_;
};

// Sums of kVectors vectors of neighbouring pixels.
template <int kVectors, typename Offsets>
inline void add_taps(const std::int8_t* pixels, const Offsets& offsets, const std::int32_t* signs,
                     std::int32_t negative, std::int8_t* sums) {
  Bytes sum[kVectors];
  for (int i = 0; i < kVectors; ++i) sum[i] = reinterpret_cast<Bytes>(Words{} + negative);
  for (std::int32_t tap = 0; tap < offsets.taps(); ++tap) {
    const Words sign = Words{} + signs[tap];
    for (int i = 0; i < kVectors; ++i) {
      Words some;
      std::memcpy(&some, pixels + offsets[tap] + i * kVectorBytes, sizeof(some));
      sum[i] += reinterpret_cast<Bytes>(some ^ sign);
    }
  }
  // One by one: all at once, GCC takes them through memory.
  for (int i = 0; i < kVectors; ++i) std::memcpy(sums + i * kVectorBytes, &sum[i], kVectorBytes);
}

// Every stride-th pixel from the first one on.
inline void encode_strided(const PixelRows& rows, const float* x, const float* threshold,
                           std::int32_t stride, std::int8_t* signs) {
  for_each_row(rows, [&](std::int32_t channel, std::int64_t pixel, std::int64_t sign) {
    for (std::int32_t i = 0; i < rows.width; i += stride) {
      signs[sign++] = x[pixel + i] >= threshold[channel] ? 1 : -1;
    }
  });
}

// As ChannelEpilogue::activated, element by element.
template <Activation kActivation, typename Floats>
inline Floats activated(const ChannelEpilogue<kActivation>& channel, Floats t) {
  if (kActivation == Activation::kPRelu) {
    const Floats bent = channel.slope_or_low() * t;
    return (t >= 0.0f ? t : bent) + channel.shift_or_high();
  }
  if (kActivation == Activation::kClip) {
    const Floats low = Floats{} + channel.slope_or_low();
    const Floats high = Floats{} + channel.shift_or_high();
    const Floats raised = t < low ? low : t;
    return raised > high ? high : raised;
  }
  return t;
}

// Y of kCount neighbouring pixels.
template <int kCount, bool kResidual, Activation kActivation>
inline void write_pixels(const std::int8_t* sums, const ChannelEpilogue<kActivation>& channel,
                         const float* residual, float* y) {
  auto values = channel.scale() * floats_of<kCount>(sums);
  values = values + channel.bias();
  if constexpr (kResidual) {
    decltype(values) some;
    std::memcpy(&some, residual, sizeof(some));
    values = values + some;
  }
  values = activated(channel, values);
  std::memcpy(y, &values, sizeof(values));
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
