// The popcount kernel with AVX-512 VPOPCNTDQ: output pixels beside each other, 32 or 64 channels a
// word, xor and popcount.
//
// A unit takes a tile of output pixels and some blocks of output channels of one group. It copies
// the tile's words together, tap by tap, and runs over them for all its output channels:
//
//     words [planes * kh * kw, tile]  x  weights [blocks, planes * kh * kw, kWeightBlock]
//
// accumulator = correction of the border class - 2 * mismatches; see core/border_classes.h.

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
#include "kernels/cpu/avx512_words.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/popcount_weights.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/tile_units.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2,avx512f,avx512bw,avx512vpopcntdq,prfchw")

#include "kernels/cpu/avx512_activation.h"
#include "kernels/cpu/avx512_counts.h"
#include "kernels/cpu/channel_epilogue.h"
#include "kernels/cpu/fetch_ahead.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kMostVectors = 4;       // of pixels, in a tile
constexpr std::int64_t kTileBytes = 24 << 10;  // the first cache has 32 KB at least

constexpr std::int32_t kFewestUnits = 8;
constexpr std::int32_t kMostTileParts = 64;
constexpr std::int32_t kFewestBlocks = 8;
constexpr std::int32_t kWordBlocks = kWordChannels<std::uint32_t> / kWeightBlock;

template <typename Words>
class PopcountPlan final : public BinaryConvPlan {
 public:
  using Word = typename Words::Word;

  PopcountPlan(const ConvShape& shape, std::shared_ptr<const PopcountWeights<Word>> weights)
      : shape_(shape),
        layout_(shape, kWordChannels<Word>),
        weights_(std::move(weights)),
        pixels_(output_pixels(shape)),
        vectors_(tile_vectors(pixels_, weights_->rows)),
        tiles_(divided_up(pixels_, vectors_ * Words::kPixels)),
        direct_(shape.taps() == 1 && shape.vertical.stride == 1 && shape.horizontal.stride == 1 &&
                layout_.row == shape.horizontal.size && layout_.rows == shape.vertical.size),
        units_(shape, layout_.planes_per_group, tiles_, weights_->blocks,
               {kFewestUnits, kMostTileParts, kFewestBlocks, 1}),
        sign_units_(shape, layout_.planes_per_group, tiles_, weights_->blocks,
                    {kFewestUnits, kMostTileParts, kFewestBlocks, kWordBlocks}),
        streamed_(is_streamed(pixels_, shape.out_channels)),
        border_(shape, weights_->source.data(), kMostVectors * Words::kPixels),
        runs_(output_runs(shape, layout_, vectors_ * Words::kPixels)) {}

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(shape_.group * layout_.planes_per_group * layout_.plane) *
           sizeof(Word);
  }
  std::int32_t pack_units() const override { return units_.pack_units(); }
  std::int32_t conv_units() const override { return units_.conv_units(); }

  std::int32_t sign_units() const override { return sign_units_.conv_units(); }

  void pack(std::int32_t unit, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t plane = unit % units_.planes;
    const std::int32_t group = plane / layout_.planes_per_group;
    const std::int32_t first = plane % layout_.planes_per_group * kWordChannels<Word>;
    const std::int32_t channel = group * shape_.in_channels_per_group() + first;
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    avx512::pack_rows(shape_, layout_, rows_of(unit), x + channel * image,
                      std::min(kWordChannels<Word>, shape_.in_channels_per_group() - first),
                      threshold + channel, static_cast<Word*>(workspace) + plane * layout_.plane);
  }

  void pack_signs(std::int32_t unit, const std::uint32_t* words, void* workspace) const override {
    constexpr std::int32_t kWords = kSourceWords<Word>;
    const std::int32_t plane = unit % units_.planes;
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    avx512::pack_rows_of_signs(shape_, layout_, rows_of(unit), words + plane * kWords * image,
                               std::min(kWords, shape_.words_per_tap() - plane * kWords),
                               static_cast<Word*>(workspace) + plane * layout_.plane);
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    with_activation(epilogue, [&](auto activation) {
      convolve_as<decltype(activation)::value>(unit, workspace, epilogue, y);
    });
  }

  void convolve_to_signs(std::int32_t unit, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    run_unit(unit, sign_units_, workspace, {}, SignStore{&bounds, words});
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, units_, workspace, {},
             [&](std::int32_t, std::int64_t index, __mmask16 lanes, __m512i accumulator) {
               _mm512_mask_storeu_epi32(accumulators + index, lanes, accumulator);
             });
  }

 private:
  // Stands for what else is called for each vector of accumulators.
  struct SignStore {
    const SignBounds* bounds;
    std::uint32_t* words;  // [ceil(Co / 32), Ho, Wo]
  };

  // Of the image, of a unit of packing.
  avx512::RowRange rows_of(std::int32_t unit) const {
    const std::int32_t row = unit / units_.planes * units_.pack_rows;
    return {row, std::min(shape_.vertical.size, row + units_.pack_rows)};
  }

  // The epilogue by value: what a compiler reads through references it reads again after each write
  // to Y.
  template <Activation kActivation>
  void convolve_as(std::int32_t unit, const void* workspace, const Epilogue epilogue,
                   float* y) const {
    const auto sum_of = [=](std::int32_t co, __m512i accumulator) {
      const __m512 scaled =
          _mm512_mul_ps(_mm512_set1_ps(epilogue.scale[co]), _mm512_cvtepi32_ps(accumulator));
      return _mm512_add_ps(scaled, _mm512_set1_ps(epilogue.bias[co]));
    };
    const Streams streams = {y, epilogue.residual};
    if (epilogue.residual == nullptr) {
      run_unit(unit, units_, workspace, streams,
               [=](std::int32_t co, std::int64_t index, __mmask16 lanes, __m512i accumulator) {
                 const __m512 t = sum_of(co, accumulator);
                 _mm512_mask_storeu_ps(y + index, lanes, activated<kActivation>(epilogue, co, t));
               });
    } else {
      run_unit(unit, units_, workspace, streams,
               [=](std::int32_t co, std::int64_t index, __mmask16 lanes, __m512i accumulator) {
                 const __m512 r = _mm512_maskz_loadu_ps(lanes, epilogue.residual + index);
                 const __m512 t = _mm512_add_ps(sum_of(co, accumulator), r);
                 _mm512_mask_storeu_ps(y + index, lanes, activated<kActivation>(epilogue, co, t));
               });
    }
  }

  // As many as fit the first cache.
  static std::int32_t tile_vectors(std::int32_t pixels, std::int32_t rows) {
    const std::int64_t fitting = std::max<std::int64_t>(1, kTileBytes / 64 / rows);
    const std::int32_t most = std::min(kMostVectors, divided_up(pixels, Words::kPixels));
    return static_cast<std::int32_t>(std::min<std::int64_t>(most, fitting));
  }

  // Calls store(co, index in [Co, Ho, Wo], lanes, accumulators) for all vectors of a unit.
  template <typename Store>
  void run_unit(std::int32_t unit, const TileUnits& units, const void* workspace,
                const Streams& streams, Store store) const {
    const std::int32_t begin = unit % units.tile_parts * units.tiles;
    const std::int32_t chunk = unit / units.tile_parts % units.chunks;
    const std::int32_t group = unit / units.tile_parts / units.chunks;
    const std::int32_t block = chunk * units.blocks;
    const Blocks blocks = {group, block, std::min(weights_->blocks, block + units.blocks)};
    for (std::int32_t tile = begin; tile < std::min(tiles_, begin + units.tiles); ++tile) {
      run_tile(tile, blocks, workspace, streams, store);
    }
  }

  // Of output channels.
  struct Blocks {
    std::int32_t group;
    std::int32_t first;
    std::int32_t end;
  };

  template <typename Store>
  void run_tile(std::int32_t tile, const Blocks& blocks, const void* workspace,
                const Streams& streams, Store store) const {
    const std::int32_t first = tile * vectors_ * Words::kPixels;
    const Word* planes = static_cast<const Word*>(workspace) +
                         std::int64_t{blocks.group} * layout_.planes_per_group * layout_.plane;
    // The last tile may be narrower.
    const std::int32_t vectors = std::min(vectors_, divided_up(pixels_ - first, Words::kPixels));
    std::vector<Word> far;
    alignas(64) Word near[kTileBytes / sizeof(Word) + kMostVectors * Words::kPixels];
    const Word* words = planes + first;
    std::int64_t pitch = layout_.plane;
    if (!direct_) {
      pitch = std::int64_t{vectors} * Words::kPixels;
      Word* tile_words = near;
      if (weights_->rows > kTileBytes / 64) {
        far.resize(static_cast<std::size_t>(weights_->rows * pitch + Words::kPixels));
        tile_words = far.data();
      }
      gather<Words>(shape_, layout_, planes, runs_[static_cast<std::size_t>(tile)], pitch,
                    tile_words);
      words = tile_words;
    }
    const Place place = {first, blocks};
    switch (vectors) {
      case 1:
        return run_blocks<1, 8>(words, pitch, place, streams, store);
      case 2:
        return run_blocks<2, 8>(words, pitch, place, streams, store);
      case 3:
        return run_blocks<3, 8>(words, pitch, place, streams, store);
      default:
        return run_blocks<kMostVectors, 4>(words, pitch, place, streams, store);
    }
  }

  struct Place {
    std::int32_t pixel;
    Blocks blocks;
  };

  template <int kVectors, int kChannels, typename Store>
  void run_blocks(const Word* words, std::int64_t pitch, const Place& place, const Streams& streams,
                  Store store) const {
    const std::int32_t channels = shape_.out_channels_per_group();
    const Pixels<kVectors> pixels(*this, place.pixel);
    for (std::int32_t block = place.blocks.first; block < place.blocks.end; ++block) {
      if (streamed_ && streams.y != nullptr) {
        // What the next block writes, while this one is computed.
        const std::int64_t next =
            place.blocks.group * channels + std::int64_t{block + 1} * kWeightBlock;
        fetch_ahead(streams, {next * pixels_ + place.pixel, kVectors * Words::kPixels, kWeightBlock,
                              pixels_});
      }
      for (std::int32_t part = 0; part < kWeightBlock; part += kChannels) {
        const std::int32_t within = block * kWeightBlock + part;
        __m512i sums[kChannels][kVectors];
        count_mismatches<Words, kVectors, kChannels>(
            words, pitch, weights_->block(place.blocks.group, block) + part, weights_->rows, sums);
        finish(place.blocks.group * channels + within, std::min(kChannels, channels - within),
               pixels, sums, store);
      }
    }
  }

  // What all output channels share of a tile.
  template <int kVectors>
  struct Pixels {
    static constexpr int kCount = (kVectors * Words::kPixels + kLanes - 1) / kLanes;

    std::int32_t first;
    // Of the plan, so that a write to Y cannot have changed them.
    std::int64_t channel;  // pixels of one
    std::int64_t pitch;    // of the corrections
    const std::int32_t* corrections;
    __m512i classes[kCount];
    __mmask16 lanes[kCount];

    Pixels(const PopcountPlan& plan, std::int32_t pixel)
        : first(pixel),
          channel(plan.pixels_),
          pitch(plan.border_.pitch),
          corrections(plan.border_.corrections.data()) {
      const std::int32_t all = std::min(kVectors * Words::kPixels, plan.pixels_ - pixel);
      for (int i = 0; i < kCount; ++i) {
        classes[i] = _mm512_loadu_si512(plan.border_.class_of.data() + pixel + i * kLanes);
        lanes[i] = static_cast<__mmask16>((1u << std::min(kLanes, all - i * kLanes)) - 1);
      }
    }
  };

  // Calls store for `count` output channels from co on, which may be none.
  template <int kVectors, int kChannels, typename Store>
  void finish(std::int32_t co, std::int32_t count, const Pixels<kVectors>& pixels,
              const __m512i (&sums)[kChannels][kVectors], Store store) const {
    for (int i = 0; i < kChannels && i < count; ++i) {
      const std::int64_t index = (co + i) * pixels.channel + pixels.first;
      for_accumulators(co + i, pixels, sums[i],
                       [&](int v, __m512i accumulator) __attribute__((always_inline)) {
                         store(co + i, index + v * kLanes, pixels.lanes[v], accumulator);
                       });
    }
  }

  // Puts their bits into words, which the first channel of a word begins.
  template <int kVectors, int kChannels>
  void finish(std::int32_t co, std::int32_t count, const Pixels<kVectors>& pixels,
              const __m512i (&sums)[kChannels][kVectors], const SignStore& store) const {
    static_assert(kWordChannels<std::uint32_t> % kChannels == 0);
    if (count <= 0) return;
    constexpr int kCount = Pixels<kVectors>::kCount;
    std::uint32_t* const words = store.words + co / 32 * pixels.channel + pixels.first;
    __m512i bits[kCount];
    for (int v = 0; v < kCount; ++v) {
      bits[v] = co % 32 != 0 ? _mm512_maskz_loadu_epi32(pixels.lanes[v], words + v * kLanes)
                             : _mm512_set1_epi32(static_cast<int>(store.bounds->flips(co / 32)));
    }
    for (int i = 0; i < kChannels && i < count; ++i) {
      const __m512i bound = _mm512_set1_epi32(store.bounds->bound(co + i));
      const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << ((co + i) % 32)));
      for_accumulators(co + i, pixels, sums[i],
                       [&](int v, __m512i accumulator) __attribute__((always_inline)) {
                         const __mmask16 above = _mm512_cmpge_epi32_mask(accumulator, bound);
                         bits[v] = _mm512_mask_xor_epi32(bits[v], above, bits[v], bit);
                       });
    }
    for (int v = 0; v < kCount; ++v) {
      _mm512_mask_storeu_epi32(words + v * kLanes, pixels.lanes[v], bits[v]);
    }
  }

  // Makes accumulators of an output channel's mismatches: calls visit(i, those of vector i).
  template <int kVectors, typename Visit>
  __attribute__((always_inline)) void for_accumulators(std::int32_t co,
                                                       const Pixels<kVectors>& pixels,
                                                       const __m512i (&sums)[kVectors],
                                                       Visit visit) const {
    const std::int32_t* corrections = pixels.corrections + co * pixels.pitch;
    const auto one = [&](auto constant) __attribute__((always_inline)) {
      constexpr int i = decltype(constant)::value;
      if constexpr (i < Pixels<kVectors>::kCount) {
        const __m512i correction =
            pixels.pitch == BorderCorrections::kVector
                ? _mm512_permutexvar_epi32(pixels.classes[i], _mm512_loadu_si512(corrections))
                : _mm512_i32gather_epi32(pixels.classes[i], corrections, sizeof(*corrections));
        const __m512i mismatches = Words::template to_int32<i>(sums);
        visit(i, _mm512_sub_epi32(correction, _mm512_add_epi32(mismatches, mismatches)));
      }
    };
    one(std::integral_constant<int, 0>{});
    one(std::integral_constant<int, 1>{});
    one(std::integral_constant<int, 2>{});
    one(std::integral_constant<int, 3>{});
  }

  ConvShape shape_;
  PlaneLayout layout_;
  std::shared_ptr<const PopcountWeights<Word>> weights_;
  std::int32_t pixels_;   // Ho * Wo
  std::int32_t vectors_;  // of pixels in a tile
  std::int32_t tiles_;
  bool direct_;  // a plane is a row of every tile
  TileUnits units_;
  TileUnits sign_units_;  // for signs: a word's channels are in one chunk
  bool streamed_;         // Y is, see kStreamedBytes
  BorderCorrections border_;
  std::vector<Runs> runs_;  // of every tile
};

template <typename Words>
class PopcountKernel final : public BinaryConvKernel {
 public:
  PopcountKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const PopcountWeights<typename Words::Word>>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<PopcountPlan<Words>>(shape, weights_);
  }

 private:
  std::shared_ptr<const PopcountWeights<typename Words::Word>> weights_;
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_avx512_popcount(const ConvShape& shape,
                                                             const std::uint32_t* weight) {
  if (shape.words_per_tap() % 2 == 0) {
    return std::make_unique<PopcountKernel<Words64>>(shape, weight);
  }
  return std::make_unique<PopcountKernel<Words32>>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
