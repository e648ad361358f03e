// The look-up kernel with AVX2 and output channels beside each other; see channel_lanes.h.
//
// A unit takes a tile of output channels and some pairs of output pixels. Blocks of the tile's
// weights stay in the first cache while all pairs run over them. The tables of a pair are found by
//
//     16 * code of the first pixel + 512 * code of the second,   with 16 in place of a padding code
//
// a sum of two rows of the packed activations. Taps that are padding to both pixels, above or below
// the image, are left out.

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
#include "kernels/cpu/channel_lanes.h"
#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/streamed.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2,prfchw")

#include "kernels/cpu/avx2_vector.h"
#include "kernels/cpu/lookup_inner.h"
// After them.
#include "kernels/cpu/avx2_inner.h"
#include "kernels/cpu/avx2_transpose.h"
#include "kernels/cpu/fetch_ahead.h"
#include "kernels/cpu/lookup_store.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kMostPairs = 64;   // of pixels in a unit
constexpr std::int32_t kFewestUnits = 4;  // so that some threads have work
constexpr std::int32_t kWindowRows = kLookupGroup * kGroupsPerFlush;
constexpr std::int32_t kBlockRows = 3 * kWindowRows;  // 24 KB of codes
constexpr std::int32_t kChannelsAtOnce = 16;          // of the epilogue
constexpr std::uint16_t kCodeStep = sizeof(LookupTable);
constexpr std::int32_t kSlack = 16;  // vectors of 16 numbers may end later

class ChannelPlan final : public BinaryConvPlan {
 public:
  ChannelPlan(const ConvShape& shape, std::shared_ptr<const ChannelWeights> weights)
      : shape_(shape),
        weights_(std::move(weights)),
        image_(std::int64_t{shape.vertical.size} * shape.horizontal.size),
        pixels_(output_pixels(shape)),
        pitch_(divided_up(weights_->planes(), kPlanesPerUnit) * kPlanesPerUnit),
        pairs_(divided_up(pixels_, 2)),
        streamed_(is_streamed(pixels_, shape.out_channels)),
        valid_(valid_inputs(shape, pixels_)) {
    const std::int32_t tiles = shape.group * weights_->tiles();
    const std::int32_t chunks =
        std::max(divided_up(pairs_, kMostPairs), divided_up(kFewestUnits, tiles));
    for (std::int32_t pair = 0; pair < pairs_; ++pair) {
      useful_.push_back(useful_rows(valid_rows(2 * pair), valid_rows(2 * pair + 1)));
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        sources_.push_back({source(2 * pair, tap), source(2 * pair + 1, tap)});
      }
    }
    pairs_ = divided_up(pairs_, chunks);
    chunks_ = divided_up(pixels_, 2 * pairs_);
  }

  std::size_t workspace_bytes() const override {
    const std::int64_t codes = (shape_.group * (image_ + 1) * pitch_ + kSlack) * 2;
    return static_cast<std::size_t>(aligned(codes) + pack_units() * scratch_bytes());
  }
  std::int32_t pack_units() const override { return shape_.group * (pitch_ / kPlanesPerUnit); }
  std::int32_t conv_units() const override { return shape_.group * weights_->tiles() * chunks_; }

  void pack(std::int32_t unit, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t group = unit / (pitch_ / kPlanesPerUnit);
    const std::int32_t first_plane = unit % (pitch_ / kPlanesPerUnit) * kPlanesPerUnit;
    auto* activations = static_cast<std::uint16_t*>(workspace) + group * (image_ + 1) * pitch_;
    auto* scratch = static_cast<std::uint8_t*>(workspace) +
                    aligned((shape_.group * (image_ + 1) * pitch_ + kSlack) * 2) +
                    unit * scratch_bytes();
    const std::uint8_t* planes[kPlanesPerUnit];
    for (std::int32_t i = 0; i < kPlanesPerUnit; ++i) {
      planes[i] = scratch + i * plane_bytes();
      const std::int32_t within = (first_plane + i) * kChannelsPerCode;
      const std::int32_t channels =
          std::min(kChannelsPerCode, shape_.in_channels_per_group() - within);
      if (channels <= 0) {
        planes[i] = scratch;
        continue;
      }
      const std::int32_t channel = group * shape_.in_channels_per_group() + within;
      avx2::encode_codes(x + channel * image_, image_, channels, threshold + channel,
                         scratch + i * plane_bytes());
    }
    for (std::int64_t pixel = 0; pixel < image_; pixel += 16) {
      const auto count = static_cast<std::int32_t>(std::min<std::int64_t>(16, image_ - pixel));
      transpose_codes(planes, count, activations + pixel * pitch_ + first_plane, pitch_);
      for (auto& plane : planes) plane += 16;
    }
    std::uint16_t* const padding = activations + image_ * pitch_ + first_plane;
    std::fill(padding, padding + kPlanesPerUnit,
              static_cast<std::uint16_t>(kPaddingTable * kCodeStep));
  }

  void pack_signs(std::int32_t unit, const std::uint32_t* words, void* workspace) const override {
    static_assert(kPlanesPerUnit == kCodesPerWord);
    auto* const activations = static_cast<std::uint16_t*>(workspace) + unit * kPlanesPerUnit;
    words += unit * image_;
    // Two at a time, the second perhaps the same.
    for (std::int64_t pixel = 0; pixel < image_; pixel += 2) {
      const std::int64_t second = std::min(pixel + 1, image_ - 1);
      store_codes(words[pixel], words[second], activations + pixel * pitch_,
                  activations + second * pitch_);
    }
    std::uint16_t* const padding = activations + image_ * pitch_;
    std::fill(padding, padding + kPlanesPerUnit,
              static_cast<std::uint16_t>(kPaddingTable * kCodeStep));
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    run_unit(unit, workspace, {y, epilogue.residual},
             [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
                 const std::uint16_t* counters) {
               const std::int64_t start = std::int64_t{co} * pixels_ + pixel;
               store_channel(epilogue, co, {start, count}, counters, valid_.data() + pixel, y);
             });
  }

  // A tile of channels has whole words of them.
  std::int32_t sign_units() const override { return conv_units(); }

  void convolve_to_signs(std::int32_t unit, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    static_assert(kLanesPerTile % kLanesPerVector == 0 && kLanesPerVector == 32);
    run_unit(unit, workspace, {}, SignStore{&bounds, words});
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, workspace, {},
             [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
                 const std::uint16_t* counters) {
               const std::int64_t start = std::int64_t{co} * pixels_ + pixel;
               store_accumulators({start, count}, counters, valid_.data() + pixel, accumulators);
             });
  }

 private:
  // Where the codes of two pixels of the image begin.
  struct Sources {
    std::int64_t first;
    std::int64_t second;
  };

  // Stands for what else is called for each output channel.
  struct SignStore {
    const SignBounds* bounds;
    std::uint32_t* words;  // [ceil(Co / 32), Ho, Wo]
  };

  static std::int64_t aligned(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
  std::int64_t plane_bytes() const { return aligned(image_ + 16); }
  std::int64_t scratch_bytes() const { return kPlanesPerUnit * plane_bytes(); }

  template <typename Store>
  void run_unit(std::int32_t unit, const void* workspace, const Streams& streams,
                Store store) const {
    switch (weights_->lanes_of(unit / chunks_ % weights_->tiles()) / kLanesPerVector) {
      case 1:
        return run_vectors<1>(unit, workspace, streams, store);
      case 2:
        return run_vectors<2>(unit, workspace, streams, store);
      case 3:
        return run_vectors<3>(unit, workspace, streams, store);
      default:
        return run_vectors<4>(unit, workspace, streams, store);
    }
  }

  template <int kVectors, typename Store>
  void run_vectors(std::int32_t unit, const void* workspace, const Streams& streams,
                   Store store) const {
    constexpr std::int32_t kLanes = kVectors * kLanesPerVector;
    const std::int32_t tile = unit / chunks_ % weights_->tiles();
    const std::int32_t group = unit / chunks_ / weights_->tiles();
    const std::int32_t first_pixel = unit % chunks_ * 2 * pairs_;
    const std::int32_t pairs = std::min(pairs_, divided_up(pixels_ - first_pixel, 2));
    const std::int32_t first_channel =
        group * shape_.out_channels_per_group() + tile * kLanesPerTile;
    const std::int32_t end =
        std::min(kLanes, shape_.out_channels_per_group() - tile * kLanesPerTile);
    const std::int32_t pixels = std::min(2 * pairs, pixels_ - first_pixel);
    const auto* activations =
        static_cast<const std::uint16_t*>(workspace) + group * (image_ + 1) * pitch_;
    alignas(64) std::uint16_t counters[kMostPairs * 2 * kLanes];
    const auto fetch = [&](std::int32_t pair) __attribute__((always_inline)) {
      if (!streamed_ || streams.y == nullptr) return;
      const std::int32_t begin = end * pair / pairs;
      fetch_ahead(streams, {std::int64_t{first_channel + begin} * pixels_ + first_pixel, pixels,
                            end * (pair + 1) / pairs - begin, pixels_});
    };
    count<kVectors>(activations, weights_->tile(group, tile), first_pixel, pairs, fetch, counters);
    for (std::int32_t i = 0; i < pairs * 2 * kVectors; ++i) {
      Vector::interleave(counters + i * Vector::kPixels);
    }
    if constexpr (std::is_same_v<Store, SignStore>) {
      for (std::int32_t lane = 0; lane < end; lane += kLanesPerVector) {
        const std::int32_t word = (first_channel + lane) / kLanesPerVector;
        write_plane<kLanes>(*store.bounds, word, counters + lane, {first_pixel, pixels},
                            store.words + word * std::int64_t{pixels_});
      }
    } else {
      alignas(64) std::uint16_t channels[kChannelsAtOnce * 2 * kMostPairs];
      for (std::int32_t lane = 0; lane < kLanes; lane += kChannelsAtOnce) {
        for (std::int32_t i = 0; i < pixels; i += 8) {
          transpose_counters<kLanes>(counters + i * kLanes + lane, channels + i, 2 * kMostPairs);
        }
        for (std::int32_t i = 0; i < std::min(kChannelsAtOnce, end - lane); ++i) {
          store(first_channel + lane + i, first_pixel, pixels, channels + i * 2 * kMostPairs);
        }
      }
    }
  }

  // Writes the signs of pixels to the plane of a word's channels. counters [pixels, kLanes], from
  // the first of those channels on.
  template <std::int32_t kLanes>
  void write_plane(const SignBounds& bounds, std::int32_t word, const std::uint16_t* counters,
                   const Pixels& pixels, std::uint32_t* plane) const {
    const std::int32_t channel = word * kLanesPerVector;
    const std::int32_t channels = std::min(kLanesPerVector, shape_.out_channels - channel);
    for (std::int32_t i = 0; i < pixels.count; ++i, counters += kLanes) {
      const std::int64_t pixel = pixels.first + i;
      const auto valid = static_cast<std::int32_t>(valid_[static_cast<std::size_t>(pixel)]);
      std::uint32_t bits = 0;
      if (bounds.is_narrow()) {
        bits = bits_of(valid, counters, bounds.limits() + channel);
      } else {
        for (std::int32_t j = 0; j < channels; ++j) {
          bits |= valid - 2 * counters[j] >= bounds.bound(channel + j) ? 1u << j : 0u;
        }
      }
      plane[pixel] = bits ^ bounds.flips(word);
    }
  }

  // Counts the mismatches of pairs of pixels with the channels of a tile: counters [pairs, 2, lanes
  // of the tile], in the order that Vector::interleave mends. Calls fetch(pair) for each, some time
  // before it is done.
  template <int kVectors, typename Fetch>
  void count(const std::uint16_t* activations, const std::uint8_t* codes, std::int32_t first_pixel,
             std::int32_t pairs, Fetch fetch, std::uint16_t* counters) const {
    constexpr std::int32_t kLanes = kVectors * kLanesPerVector;
    alignas(64) std::uint16_t tables[kBlockRows + kWindowRows + kSlack];
    std::int32_t last = 0;
    for (std::int32_t first = 0; first < weights_->rows(); first = last) {
      const std::int32_t rest = weights_->rows() - first;
      last = first + (rest <= kBlockRows + kWindowRows ? rest : kBlockRows);
      for (std::int32_t i = 0; i < pairs; ++i) {
        const std::int32_t pair = first_pixel / 2 + i;
        if (last == weights_->rows()) fetch(i);
        const TapRange useful = useful_[static_cast<std::size_t>(pair)];
        const TapRange rows = {std::max(first, useful.first), std::min(last, useful.last)};
        std::uint16_t* const sums = counters + i * 2 * kLanes;
        if (useful.count() == 0) std::memset(sums, 0, 2 * kLanes * sizeof(std::uint16_t));
        if (rows.count() <= 0) continue;
        find_tables(activations, pair, rows, tables);
        count_mismatches<Vector, kVectors, 1>(codes + std::int64_t{rows.first} * kLanes, tables,
                                              padded_lookup_tables(), rows.count() / kLookupGroup,
                                              rows.first == useful.first, sums);
      }
    }
  }

  // Where the tables of a pair of pixels lie for some rows of the weights, from
  // padded_lookup_tables(), in bytes.
  void find_tables(const std::uint16_t* activations, std::int32_t pair, TapRange rows,
                   std::uint16_t* tables) const {
    const std::int32_t planes = weights_->planes();
    const std::int32_t tap = rows.first / planes;
    std::int32_t plane = rows.first - tap * planes;
    const std::size_t taps = static_cast<std::size_t>(shape_.taps());
    const Sources* from = sources_.data() + static_cast<std::size_t>(pair) * taps;
    const Sources* const end = from + taps;
    from += tap;
    for (std::int32_t left = rows.count(); left > 0; plane = 0, ++from) {
      if (from == end) return std::fill(tables, tables + left, std::uint16_t{0});
      const std::int32_t count = std::min(planes - plane, left);
      const std::uint16_t* const first = activations + from->first + plane;
      const std::uint16_t* const second = activations + from->second + plane;
      for (std::int32_t i = 0; i < count; i += 16) {
        const auto at = [i](const std::uint16_t* codes) {
          return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
        };
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(tables + i),
                            _mm256_add_epi16(at(first), _mm256_slli_epi16(at(second), 5)));
      }
      tables += count;
      left -= count;
    }
  }

  // The rows of taps that meet the image at an output pixel; none past the last one.
  TapRange valid_rows(std::int32_t pixel) const {
    if (pixel >= pixels_) return {0, 0};
    return shape_.vertical.valid_taps(pixel / shape_.horizontal.out_size());
  }

  // The rows of the weights that one of two pixels needs, in whole groups of look-ups.
  TapRange useful_rows(TapRange first, TapRange second) const {
    if (first.count() == 0) first = second;
    if (second.count() == 0) second = first;
    if (first.count() == 0) return {0, 0};
    const std::int32_t pitch = shape_.horizontal.kernel * weights_->planes();
    return {std::min(first.first, second.first) * pitch / kLookupGroup * kLookupGroup,
            divided_up(std::max(first.last, second.last) * pitch, kLookupGroup) * kLookupGroup};
  }

  // Where the codes begin that an output pixel meets under a tap.
  std::int64_t source(std::int32_t pixel, std::int32_t tap) const {
    const std::int32_t kh = tap / shape_.horizontal.kernel;
    const std::int32_t row = pixel / shape_.horizontal.out_size();
    const std::int32_t x = shape_.horizontal.input_at(pixel % shape_.horizontal.out_size(),
                                                      tap % shape_.horizontal.kernel);
    const bool inside = valid_rows(pixel).contains(kh) && x >= 0 && x < shape_.horizontal.size;
    const std::int64_t y = shape_.vertical.input_at(row, kh);
    return (inside ? y * shape_.horizontal.size + x : image_) * pitch_;
  }

  ConvShape shape_;
  std::shared_ptr<const ChannelWeights> weights_;
  std::int64_t image_;            // H * W
  std::int32_t pixels_;           // Ho * Wo
  std::int32_t pitch_;            // planes of a group, rounded up to whole units of packing
  std::int32_t pairs_;            // of pixels in a unit, at most
  std::int32_t chunks_;           // of pairs
  bool streamed_;                 // Y is, see streamed.h
  std::vector<float> valid_;      // C * n_valid of every output pixel
  std::vector<TapRange> useful_;  // rows of the weights, of every pair
  std::vector<Sources> sources_;  // [pairs, taps]
};

class ChannelKernel final : public BinaryConvKernel {
 public:
  ChannelKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const ChannelWeights>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<ChannelPlan>(shape, weights_);
  }

 private:
  std::shared_ptr<const ChannelWeights> weights_;
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_avx2_channels(const ConvShape& shape,
                                                           const std::uint32_t* weight) {
  return std::make_unique<ChannelKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
