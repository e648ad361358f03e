// AVX2 kernel: output pixels beside each other, four channels a look-up, two output channels at
// once (avx2_inner.h), on planes of codes (nibble_layout.h).
//
// A unit takes a tile of output pixels and up to 64 pairs of output channels of one group. Per
// block of taps it copies the tile's codes together, which stay in the first cache while all pairs
// run over them:
//
//     codes [taps of the block, tile]  x  weights [pairs, taps]  ->  counters [pairs, 2, tile]
//
// and then accumulator = C * n_valid - 2 * counter: padded taps counted no mismatch, hence n_valid
// of the pixel is all that the border asks for.

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "core/packing.h"
#include "kernels/cpu/avx2_inner.h"
#include "kernels/cpu/avx2_pack.h"
#include "kernels/cpu/nibble_layout.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

using avx2::kGroup;
using avx2::kVectorPixels;

constexpr std::int32_t kMostVectors = 4;
constexpr std::int32_t kMostPixels = kMostVectors * kVectorPixels;  // of a tile
// Pairs of output channels of a unit, for the widest tile; a narrow one takes twice as many.
constexpr std::int32_t kPairs = 64;
constexpr std::int32_t kBlockRows = 60 * kGroup;  // 23 KB of codes

std::int32_t divided_up(std::int32_t a, std::int32_t b) { return (a + b - 1) / b; }

// Weight codes [group, pairs, taps rounded up to whole look-up groups].
struct Weights {
  std::int32_t pairs;  // of output channels in a group, the last one perhaps half empty
  std::int32_t taps;   // planes * kh * kw, rounded up
  std::vector<std::uint8_t> codes;

  Weights(const ConvShape& shape, const std::uint32_t* weight)
      : pairs(divided_up(shape.out_channels_per_group(), 2)),
        taps(divided_up(planes(shape) * shape.taps(), kGroup) * kGroup),
        codes(static_cast<std::size_t>(std::int64_t{shape.group} * pairs * taps)) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      const std::int32_t group = co / shape.out_channels_per_group();
      const std::int32_t within = co % shape.out_channels_per_group();
      std::uint8_t* row = codes.data() + (std::int64_t{group} * pairs + within / 2) * taps;
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        const std::uint32_t* words =
            weight + (std::int64_t{co} * shape.taps() + tap) * shape.words_per_tap();
        for (std::int32_t plane = 0; plane < planes(shape); ++plane) {
          const std::uint32_t code = words[plane / 8] >> (plane % 8 * kChannelsPerCode) & 15u;
          row[plane * shape.taps() + tap] |=
              static_cast<std::uint8_t>(code << (within % 2 * kChannelsPerCode));
        }
      }
    }
  }

  const std::uint8_t* row(std::int32_t group, std::int32_t pair) const {
    return codes.data() + (std::int64_t{group} * pairs + pair) * taps;
  }

  static std::int32_t planes(const ConvShape& shape) {
    return divided_up(shape.in_channels_per_group(), kChannelsPerCode);
  }
};

// A run of output pixels of one row within a tile.
struct Run {
  std::int32_t first;  // pixel of the tile
  std::int32_t row;
  std::int32_t column;
  std::int32_t length;
};

class Avx2Plan final : public BinaryConvPlan {
 public:
  Avx2Plan(const ConvShape& shape, std::shared_ptr<const Weights> weights)
      : shape_(shape),
        layout_(shape),
        weights_(std::move(weights)),
        pixels_(shape.vertical.out_size() * shape.horizontal.out_size()),
        vectors_(std::min(kMostVectors, divided_up(pixels_, kVectorPixels))),
        tiles_(divided_up(pixels_, vectors_ * kVectorPixels)),
        pairs_(vectors_ > kMostVectors / 2 ? kPairs : 2 * kPairs),
        chunks_(divided_up(weights_->pairs, pairs_)) {
    for (std::int32_t pixel = 0; pixel < pixels_; ++pixel) {
      const std::int32_t width = shape.horizontal.out_size();
      valid_.push_back(static_cast<float>(shape.in_channels_per_group() *
                                          shape.valid_taps(pixel / width, pixel % width)));
    }
    valid_.resize(static_cast<std::size_t>(tiles_ * vectors_ * kVectorPixels));
    for (std::int32_t tile = 0; tile < tiles_; ++tile) runs_.push_back(runs_of(tile));
  }

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(planes() * (layout_.plane_bytes + codes_bytes()));
  }
  std::int32_t pack_units() const override { return planes(); }
  std::int32_t conv_units() const override { return shape_.group * chunks_ * tiles_; }

  void pack(std::int32_t plane, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t group = plane / layout_.planes_per_group;
    const std::int32_t first = plane % layout_.planes_per_group * kChannelsPerCode;
    const std::int32_t channel = group * shape_.in_channels_per_group() + first;
    const std::int32_t channels =
        std::min(kChannelsPerCode, shape_.in_channels_per_group() - first);
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    auto* planes_begin = static_cast<std::uint8_t*>(workspace);
    std::uint8_t* codes = planes_begin + planes() * layout_.plane_bytes + plane * codes_bytes();
    avx2::pack_plane(shape_, layout_, x + channel * image, channels, threshold + channel, codes,
                     planes_begin + plane * layout_.plane_bytes);
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    run_unit(
        unit, workspace,
        [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
            const std::uint16_t* counters) { store(co, pixel, count, counters, epilogue, y); });
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, workspace,
             [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
                 const std::uint16_t* counters) {
               for (std::int32_t i = 0; i < count; ++i) {
                 const auto valid =
                     static_cast<std::int32_t>(valid_[static_cast<std::size_t>(pixel + i)]);
                 accumulators[std::int64_t{co} * pixels_ + pixel + i] = valid - 2 * counters[i];
               }
             });
  }

 private:
  std::int32_t planes() const { return shape_.group * layout_.planes_per_group; }
  std::int64_t codes_bytes() const {
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    return (image + kPlaneSlack + 63) / 64 * 64;
  }

  std::vector<Run> runs_of(std::int32_t tile) const {
    const std::int32_t width = shape_.horizontal.out_size();
    const std::int32_t begin = tile * vectors_ * kVectorPixels;
    const std::int32_t end = std::min(pixels_, begin + vectors_ * kVectorPixels);
    std::vector<Run> runs;
    for (std::int32_t pixel = begin; pixel < end;) {
      const std::int32_t column = pixel % width;
      const std::int32_t length = std::min(width - column, end - pixel);
      runs.push_back({pixel - begin, pixel / width, column, length});
      pixel += length;
    }
    return runs;
  }

  // Calls store(co, first pixel, pixels, counters) for every output channel of a unit.
  template <typename Store>
  void run_unit(std::int32_t unit, const void* workspace, Store store) const {
    const std::int32_t first = unit % tiles_ * vectors_ * kVectorPixels;
    // The last tile may be narrower.
    switch (std::min(vectors_, divided_up(pixels_ - first, kVectorPixels))) {
      case 1:
        return run_vectors<1>(unit, workspace, store);
      case 2:
        return run_vectors<2>(unit, workspace, store);
      case 3:
        return run_vectors<3>(unit, workspace, store);
      default:
        return run_vectors<kMostVectors>(unit, workspace, store);
    }
  }

  template <int kVectors, typename Store>
  void run_vectors(std::int32_t unit, const void* workspace, Store store) const {
    constexpr std::int32_t kPixels = kVectors * kVectorPixels;
    const std::int32_t tile = unit % tiles_;
    const std::int32_t chunk = unit / tiles_ % chunks_;
    const std::int32_t group = unit / tiles_ / chunks_;
    const std::int32_t first_pair = chunk * pairs_;
    const std::int32_t pairs = std::min(pairs_, weights_->pairs - first_pair);
    // A whole vector of slack: the last run of a row may be copied past its end.
    alignas(32) std::uint8_t codes[kBlockRows * kPixels + kVectorPixels];
    alignas(32) std::uint16_t counters[kPairs * 2 * kMostPixels];
    std::memset(counters, 0, sizeof(counters[0]) * static_cast<std::size_t>(pairs) * 2 * kPixels);
    for (std::int32_t first = 0; first < weights_->taps; first += kBlockRows) {
      const std::int32_t rows = std::min(kBlockRows, weights_->taps - first);
      gather<kVectors>(group, tile, first, rows, static_cast<const std::uint8_t*>(workspace),
                       codes);
      for (std::int32_t pair = 0; pair < pairs; ++pair) {
        avx2::count_mismatches<kVectors>(codes, weights_->row(group, first_pair + pair) + first,
                                         rows / kGroup, counters + pair * 2 * kPixels);
      }
    }
    for (std::int32_t i = 0; i < pairs * 2 * kVectors; ++i) {
      avx2::interleave(counters + i * kVectorPixels);
    }
    const std::int32_t pixel = tile * vectors_ * kVectorPixels;
    const std::int32_t count = std::min(kPixels, pixels_ - pixel);
    const std::int32_t channels = shape_.out_channels_per_group();
    for (std::int32_t i = 2 * first_pair; i < std::min(channels, 2 * (first_pair + pairs)); ++i) {
      const std::int32_t co = group * channels + i;
      store(co, pixel, count, counters + (i - 2 * first_pair) * kPixels);
    }
  }

  // Copies the codes of a tile under the taps first .. first + rows - 1 together.
  template <int kVectors>
  void gather(std::int32_t group, std::int32_t tile, std::int32_t first, std::int32_t rows,
              const std::uint8_t* workspace, std::uint8_t* codes) const {
    constexpr std::int32_t kPixels = kVectors * kVectorPixels;
    const std::int32_t taps = shape_.taps();
    const std::int32_t used = layout_.planes_per_group * taps;
    const std::vector<Run>& runs = runs_[static_cast<std::size_t>(tile)];
    for (std::int32_t i = 0; i < rows; ++i, codes += kPixels) {
      const std::int32_t tap = first + i;
      if (tap >= used) {
        // Fills the last group of look-ups up, and counts nothing.
        std::memset(codes, kPaddingCode, kPixels);
        continue;
      }
      const std::int64_t plane = std::int64_t{group} * layout_.planes_per_group + tap / taps;
      const std::int32_t kh = tap % taps / shape_.horizontal.kernel;
      const std::int32_t kw = tap % taps % shape_.horizontal.kernel;
      const std::uint8_t* source =
          workspace + plane * layout_.plane_bytes +
          std::int64_t{kh} * shape_.vertical.dilation * layout_.row_bytes +
          layout_.column_offset(std::int64_t{kw} * shape_.horizontal.dilation,
                                shape_.horizontal.stride);
      for (const Run& run : runs) {
        const std::uint8_t* in =
            source + std::int64_t{run.row} * shape_.vertical.stride * layout_.row_bytes +
            run.column;
        for (std::int32_t done = 0; done < run.length; done += kVectorPixels) {
          const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + done));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + run.first + done), some);
        }
      }
    }
  }

  void store(std::int32_t co, std::int32_t pixel, std::int32_t count, const std::uint16_t* counters,
             const Epilogue& epilogue, float* y) const {
    const std::int64_t start = std::int64_t{co} * pixels_ + pixel;
    const float* valid = valid_.data() + pixel;
    const float* residual = epilogue.residual == nullptr ? nullptr : epilogue.residual + start;
    const float scale = epilogue.scale[co];
    const float bias = epilogue.bias[co];
    float* out = y + start;
    std::int32_t i = 0;
    for (; i + 8 <= count; i += 8) {
      const __m128i narrow = _mm_load_si128(reinterpret_cast<const __m128i*>(counters + i));
      const __m256 mismatches = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(narrow));
      const __m256 accumulator =
          _mm256_sub_ps(_mm256_loadu_ps(valid + i), _mm256_add_ps(mismatches, mismatches));
      __m256 value = _mm256_mul_ps(_mm256_set1_ps(scale), accumulator);
      value = _mm256_add_ps(value, _mm256_set1_ps(bias));
      if (residual != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(residual + i));
      _mm256_storeu_ps(out + i, value);
    }
    for (; i < count; ++i) {
      float value = scale * (valid[i] - 2.0f * static_cast<float>(counters[i]));
      value = value + bias;
      out[i] = residual == nullptr ? value : value + residual[i];
    }
  }

  ConvShape shape_;
  NibbleLayout layout_;
  std::shared_ptr<const Weights> weights_;
  std::int32_t pixels_;   // Ho * Wo
  std::int32_t vectors_;  // of 32 pixels in a tile
  std::int32_t tiles_;
  std::int32_t pairs_;                  // of output channels in a unit, at most
  std::int32_t chunks_;                 // of pairs of output channels
  std::vector<float> valid_;            // C * n_valid of every output pixel
  std::vector<std::vector<Run>> runs_;  // of every tile
};

class Avx2Kernel final : public BinaryConvKernel {
 public:
  Avx2Kernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const Weights>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<Avx2Plan>(shape, weights_);
  }

 private:
  std::shared_ptr<const Weights> weights_;
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_avx2(const ConvShape& shape,
                                                  const std::uint32_t* weight) {
  const std::int64_t most = std::int64_t{shape.in_channels_per_group()} * shape.taps();
  if (most > 0xffff) return nullptr;
  return std::make_unique<Avx2Kernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
