// The look-up kernels: output pixels beside each other, four channels a look-up, two output
// channels at once (lookup_inner.h), on planes of codes (lookup_layout.h).
//
// A unit takes a tile of output pixels and some pairs of output channels of one group. Per block of
// taps it copies the tile's codes together, which stay in the first cache while all pairs run over
// them:
//
//     codes [taps of the block, tile]  x  weights [pairs, taps]  ->  counters [pairs, 2, tile]
//
// and then accumulator = C * n_valid - 2 * counter: padded taps counted no mismatch, hence n_valid
// of the pixel is all that the border asks for.
//
// To be included once, between the lines of target.h in a file per instruction set, after
// lookup_inner.h.

#include "kernels/cpu/fetch_ahead.h"
#include "kernels/cpu/lookup_store.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kMostVectors = 4;        // of pixels, in a tile
constexpr std::int32_t kBlockBytes = 24 << 10;  // of codes; the first cache has 32 KB at least
// A small image is divided by its output channels, so that some threads have work.
constexpr std::int32_t kFewestUnits = 4;
constexpr std::int32_t kCounters = 32 << 10;  // of a unit
constexpr std::int32_t kWordPairs = 16;       // of output channels, in a word of signs

template <typename Vector>
class LookupPlan final : public BinaryConvPlan {
 public:
  LookupPlan(const ConvShape& shape, std::shared_ptr<const LookupWeights> weights)
      : shape_(shape),
        layout_(shape),
        weights_(std::move(weights)),
        pixels_(output_pixels(shape)),
        vectors_(std::min(kMostVectors, divided_up(pixels_, Vector::kPixels))),
        tiles_(divided_up(pixels_, vectors_ * Vector::kPixels)),
        whole_(chunks_of(1)),
        words_(chunks_of(kWordPairs)),
        streamed_(is_streamed(pixels_, shape.out_channels)),
        valid_(valid_inputs(shape, tiles_ * vectors_ * Vector::kPixels)) {
    for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
      tap_offsets_.push_back(layout_.tap_offset(tap));
    }
  }

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(planes() * (layout_.plane_bytes() + layout_.scratch_bytes()));
  }
  std::int32_t pack_units() const override { return planes(); }
  std::int32_t conv_units() const override { return shape_.group * whole_.count * tiles_; }
  std::int32_t sign_units() const override { return words_.count * tiles_; }

  void pack(std::int32_t plane, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t group = plane / layout_.planes_per_group();
    const std::int32_t first = plane % layout_.planes_per_group() * kChannelsPerCode;
    const std::int32_t channel = group * shape_.in_channels_per_group() + first;
    const std::int32_t channels =
        std::min(kChannelsPerCode, shape_.in_channels_per_group() - first);
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    Vector::pack_plane(shape_, layout_, x + channel * image, channels, threshold + channel,
                       plane_scratch(plane, workspace), plane_codes(plane, workspace));
  }

  void pack_signs(std::int32_t plane, const std::uint32_t* words, void* workspace) const override {
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    Vector::pack_plane_of_signs(shape_, layout_, words + plane / kCodesPerWord * image,
                                plane % kCodesPerWord, plane_scratch(plane, workspace),
                                plane_codes(plane, workspace));
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    run_unit(unit, whole_, workspace, {y, epilogue.residual},
             [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
                 const std::uint16_t* counters) {
               const std::int64_t start = std::int64_t{co} * pixels_ + pixel;
               store_channel(epilogue, co, {start, count}, counters, valid_.data() + pixel, y);
             });
  }

  void convolve_to_signs(std::int32_t unit, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    run_unit(unit, words_, workspace, {}, SignStore{&bounds, words});
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, whole_, workspace, {},
             [&](std::int32_t co, std::int32_t pixel, std::int32_t count,
                 const std::uint16_t* counters) {
               const std::int64_t start = std::int64_t{co} * pixels_ + pixel;
               store_accumulators({start, count}, counters, valid_.data() + pixel, accumulators);
             });
  }

 private:
  // Stands for what else is called for each output channel.
  struct SignStore {
    const SignBounds* bounds;
    std::uint32_t* words;  // [ceil(Co / 32), Ho, Wo]
  };

  // Some pairs of output channels of one group are the work of a unit.
  struct Chunks {
    std::int32_t pairs;  // of a chunk, at most
    std::int32_t count;
  };

  // Each of `multiple` pairs, or some of them; but for the last one.
  Chunks chunks_of(std::int32_t multiple) const {
    const std::int32_t most = kCounters / (2 * vectors_ * Vector::kPixels) / multiple;
    const std::int32_t share = divided_up(weights_->pairs * tiles_, kFewestUnits);
    const std::int32_t pairs = multiple * std::min(most, divided_up(share, multiple));
    return {pairs, divided_up(weights_->pairs, pairs)};
  }

  std::uint8_t* plane_codes(std::int32_t plane, void* workspace) const {
    return static_cast<std::uint8_t*>(workspace) + plane * layout_.plane_bytes();
  }
  std::uint8_t* plane_scratch(std::int32_t plane, void* workspace) const {
    return plane_codes(planes(), workspace) + plane * layout_.scratch_bytes();
  }

  std::int32_t planes() const { return shape_.group * layout_.planes_per_group(); }

  // Calls store(co, first pixel, pixels, counters) for every output channel of a unit.
  template <typename Store>
  void run_unit(std::int32_t unit, const Chunks& chunks, const void* workspace,
                const Streams& streams, Store store) const {
    const std::int32_t first = unit % tiles_ * vectors_ * Vector::kPixels;
    // The last tile may be narrower.
    switch (std::min(vectors_, divided_up(pixels_ - first, Vector::kPixels))) {
      case 1:
        return run_vectors<1>(unit, chunks, workspace, streams, store);
      case 2:
        return run_vectors<2>(unit, chunks, workspace, streams, store);
      case 3:
        return run_vectors<3>(unit, chunks, workspace, streams, store);
      default:
        return run_vectors<kMostVectors>(unit, chunks, workspace, streams, store);
    }
  }

  template <int kVectors, typename Store>
  void run_vectors(std::int32_t unit, const Chunks& chunks, const void* workspace,
                   const Streams& streams, Store store) const {
    constexpr std::int32_t kPixels = kVectors * Vector::kPixels;
    constexpr std::int32_t kBlockRows =
        kBlockBytes / kPixels / (kLookupGroup * kGroupsPerFlush) * (kLookupGroup * kGroupsPerFlush);
    static_assert(kBlockRows > 0);
    const std::int32_t tile = unit % tiles_;
    const std::int32_t chunk = unit / tiles_ % chunks.count;
    const std::int32_t group = unit / tiles_ / chunks.count;
    const std::int32_t first_pair = chunk * chunks.pairs;
    const std::int32_t pairs = std::min(chunks.pairs, weights_->pairs - first_pair);
    const std::int32_t pixel = tile * vectors_ * Vector::kPixels;
    const std::int32_t channels = shape_.out_channels_per_group();
    const auto* planes = static_cast<const std::uint8_t*>(workspace) +
                         group * layout_.planes_per_group() * layout_.plane_bytes() + pixel;
    alignas(64) std::uint8_t codes[kBlockRows * kPixels];
    alignas(64) std::uint16_t counters[kCounters];
    for (std::int32_t first = 0; first < weights_->taps; first += kBlockRows) {
      const std::int32_t rows = std::min(kBlockRows, weights_->taps - first);
      gather<kVectors>(planes, first, rows, codes);
      const bool fetches = streamed_ && streams.y != nullptr && first + rows == weights_->taps;
      for (std::int32_t pair = 0; pair < pairs; ++pair) {
        if (fetches) {
          const std::int32_t co = group * channels + 2 * (first_pair + pair);
          fetch_ahead(streams, {std::int64_t{co} * pixels_ + pixel, kPixels, 2, pixels_});
        }
        count_mismatches<Vector, kVectors, sizeof(LookupTable)>(
            codes, weights_->row(group, first_pair + pair) + first, lookup_tables(),
            rows / kLookupGroup, first == 0, counters + pair * 2 * kPixels);
      }
    }
    for (std::int32_t i = 0; i < pairs * 2 * kVectors; ++i) {
      Vector::interleave(counters + i * Vector::kPixels);
    }
    const std::int32_t count = std::min(kPixels, pixels_ - pixel);
    const std::int32_t end = std::min(channels, 2 * (first_pair + pairs));
    if constexpr (std::is_same_v<Store, SignStore>) {
      for (std::int32_t co = 2 * first_pair; co < end; co += 2 * kWordPairs) {
        const WordCounters word = {co, std::min(2 * kWordPairs, end - co),
                                   counters + (co - 2 * first_pair) * kPixels, kPixels};
        write_words(*store.bounds, word, count, valid_.data() + pixel,
                    store.words + std::int64_t{co / (2 * kWordPairs)} * pixels_ + pixel);
      }
    } else {
      for (std::int32_t i = 2 * first_pair; i < end; ++i) {
        store(group * channels + i, pixel, count, counters + (i - 2 * first_pair) * kPixels);
      }
    }
  }

  // Copies the codes of a tile under the taps first .. first + rows - 1 together.
  template <int kVectors>
  void gather(const std::uint8_t* planes, std::int32_t first, std::int32_t rows,
              std::uint8_t* codes) const {
    constexpr std::int32_t kPixels = kVectors * Vector::kPixels;
    const std::int32_t taps = shape_.taps();
    const std::int32_t last = std::min(first + rows, layout_.planes_per_group() * taps);
    std::int32_t tap = first % taps;
    const std::uint8_t* plane = planes + first / taps * layout_.plane_bytes();
    for (std::int32_t i = first; i < last; ++i, codes += kPixels) {
      const std::uint8_t* source = plane + tap_offsets_[static_cast<std::size_t>(tap)];
      for (int v = 0; v < kVectors; ++v) {
        Vector::copy(source + v * Vector::kPixels, codes + v * Vector::kPixels);
      }
      if (++tap == taps) {
        tap = 0;
        plane += layout_.plane_bytes();
      }
    }
    // Fills the last group of look-ups up, and counts nothing.
    std::memset(codes, kPaddingCode, static_cast<std::size_t>(first + rows - last) * kPixels);
  }

  ConvShape shape_;
  LookupLayout layout_;
  std::shared_ptr<const LookupWeights> weights_;
  std::int32_t pixels_;   // Ho * Wo
  std::int32_t vectors_;  // of pixels in a tile
  std::int32_t tiles_;
  Chunks whole_;
  Chunks words_;              // for signs: a word's channels are in one chunk
  bool streamed_;             // Y is, see streamed.h
  std::vector<float> valid_;  // C * n_valid of every output pixel
  std::vector<std::int64_t> tap_offsets_;
};

template <typename Vector>
class LookupKernel final : public BinaryConvKernel {
 public:
  LookupKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const LookupWeights>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<LookupPlan<Vector>>(shape, weights_);
  }

 private:
  std::shared_ptr<const LookupWeights> weights_;
};

}  // namespace
}  // namespace cpu
}  // namespace bitexport
