// The AMX kernel: signs as bytes, 64 channels of 16 pixels by 64 channels of 16 output channels in
// one instruction.
//
// A unit takes some strips of 64 output pixels and a chunk of output channels, 16 at a time. Its
// inner loop runs over steps, of a tap and 64 input channels each:
//
//     sums [64 pixels, 16 channels] += activations [64, 64] x weights [64, 16]
//
// The weights stay bits, an eighth of the bytes, and become bytes just before they are multiplied,
// on units of the CPU that the products leave idle. So does the epilogue of the strip before.

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
#include "kernels/cpu/amx_layout.h"
#include "kernels/cpu/avx512_words.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/streamed.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/tile_units.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2,avx512f,avx512bw,prfchw")

#include "kernels/cpu/amx_finish.h"
#include "kernels/cpu/amx_tiles.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kFewestUnits = 16;
// Few parts of many strips: all channels of a strip lie in different pages of memory.
constexpr std::int32_t kMostStripParts = 8;
constexpr std::int32_t kWordTiles = 2;  // of output channels, whose signs are a word

// +1 where a bit is set, else -1.
__m512i bytes_of(std::uint64_t bits) {
  return _mm512_mask_blend_epi8(bits, _mm512_set1_epi8(-1), _mm512_set1_epi8(1));
}

// The weights of some tiles of output channels as bytes, step by step, each tile's several times.
class WeightStream {
 public:
  // words: of the tiles, `tile_words` each.
  WeightStream(const std::uint64_t* words, std::int64_t tile_words, std::int32_t tiles,
               std::int32_t times)
      : tile_words_(tile_words),
        times_(times),
        tile_(words),
        last_tile_(words + (tiles - 1) * tile_words),
        next_(words),
        left_(times) {
    for (std::uint32_t slot = 0; slot < kAhead; ++slot) {
      for (int part = 0; part < kParts; ++part) expand(slot, part);
      advance();
    }
  }

  // The current step's, [input channels / 4, output channels, 4].
  const void* bytes() const { return ring_[slot_]; }

  // Makes a part of a later step's.
  static constexpr int kParts = 4;
  void prepare(int part) { expand((slot_ + kAhead) % kSlots, part); }

  // On to the next step, once all parts are prepared.
  void next() {
    slot_ = (slot_ + 1) % kSlots;
    advance();
  }

 private:
  // A tile that loads what was written just before would have to wait.
  static constexpr std::uint32_t kAhead = 3;
  static constexpr std::uint32_t kSlots = 4;

  __attribute__((always_inline)) void expand(std::uint32_t slot, int part) {
    constexpr int kRows = kTile / kParts;
    for (int i = part * kRows; i < (part + 1) * kRows; ++i) {
      _mm512_store_si512(ring_[slot][i], bytes_of(next_[i]));
    }
  }

  // After the last step, some are made that nobody takes.
  void advance() {
    next_ += kTile;
    if (next_ != tile_ + tile_words_) return;
    if (--left_ == 0) {
      left_ = times_;
      if (tile_ != last_tile_) tile_ = next_;
    }
    next_ = tile_;
  }

  alignas(64) std::int8_t ring_[kSlots][kTile][kRowBytes];
  const std::int64_t tile_words_;
  const std::int32_t times_;
  const std::uint64_t* tile_;
  const std::uint64_t* const last_tile_;
  const std::uint64_t* next_;
  std::int32_t left_;
  std::uint32_t slot_ = 0;
};

// Sums that wait for their epilogue, while the next ones are computed.
class Pending {
 public:
  explicit Pending(const Finisher& finisher) : finisher_(finisher) {}

  // What the tiles are to be stored to.
  Sums* next_sums() { return sums_[turn_ ^ 1]; }

  // Those that were stored there are to be finished from now on; the ones before must be.
  void begin(const Strip& strip, std::int32_t co, std::int32_t channels) {
    strip_ = &strip;
    co_ = co;
    channels_ = channels;
    quarter_ = 0;
    turn_ ^= 1;
  }

  // A quarter of them, if one is left.
  void finish_next() {
    if (kQuarter * quarter_ >= channels_) return;
    finisher_.finish(*strip_, sums_[turn_], co_, channels_, quarter_++);
  }

 private:
  alignas(64) Sums sums_[2][kStripTiles];
  const Finisher& finisher_;
  const Strip* strip_ = nullptr;
  std::int32_t co_ = 0;
  std::int32_t channels_ = 0;
  int quarter_ = 0;
  int turn_ = 0;
};

class AmxPlan final : public BinaryConvPlan {
 public:
  AmxPlan(const ConvShape& shape, std::shared_ptr<const StepWeights> weights)
      : shape_(shape),
        layout_(shape),
        weights_(std::move(weights)),
        pixels_(output_pixels(shape)),
        streamed_input_(is_streamed(std::int64_t{shape.vertical.size} * shape.horizontal.size,
                                    shape.in_channels)),
        streamed_(is_streamed(pixels_, shape.out_channels)),
        strips_(output_strips(shape, layout_)),
        units_(shape, layout_.planes_per_group, static_cast<std::int32_t>(strips_.size()),
               weights_->tiles, {kFewestUnits, kMostStripParts, kWordTiles, kWordTiles}) {
    for (std::int32_t i = 0; i < weights_->steps; ++i) {
      step_lines_.push_back(i / shape.taps() * layout_.plane +
                            layout_.tap_offset(shape, i % shape.taps()));
    }
    const ConvAxis& axis = shape.horizontal;
    for (std::int64_t i = 0; i < std::int64_t{axis.pad_begin} + axis.size + axis.pad_end; ++i) {
      column_lines_.push_back(layout_.column_offset(shape, i));
    }
  }

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(layout_.lines(shape_)) * sizeof(Line);
  }
  std::int32_t pack_units() const override { return units_.pack_units(); }
  std::int32_t conv_units() const override { return units_.conv_units(); }
  std::int32_t sign_units() const override { return conv_units(); }

  void pack(std::int32_t unit, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t plane = unit % units_.planes;
    const std::int32_t channel = plane / layout_.planes_per_group * shape_.in_channels_per_group() +
                                 plane % layout_.planes_per_group * kLineChannels;
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    pack_unit(unit, workspace, [&](std::int64_t pixel, std::int32_t count, std::uint64_t* words) {
      avx512::wide_words(x + channel * image + pixel, image, channels_of(plane),
                         threshold + channel, count, streamed_input_, words);
    });
  }

  void pack_signs(std::int32_t unit, const std::uint32_t* words, void* workspace) const override {
    const std::int32_t plane = unit % units_.planes;
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    pack_unit(unit, workspace, [&](std::int64_t pixel, std::int32_t count, std::uint64_t* out) {
      avx512::wide_words_of_signs(words + 2 * plane * image + pixel, image,
                                  std::min(2, shape_.words_per_tap() - 2 * plane), count, out);
    });
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    with_activation(epilogue, [&](auto activation) {
      constexpr Activation kActivation = decltype(activation)::value;
      if (epilogue.residual == nullptr) {
        run_unit(unit, workspace,
                 FloatFinisher<kActivation, false>(epilogue, pixels_, streamed_, y));
      } else {
        run_unit(unit, workspace,
                 FloatFinisher<kActivation, true>(epilogue, pixels_, streamed_, y));
      }
    });
  }

  void convolve_to_signs(std::int32_t unit, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    run_unit(unit, workspace, SignFinisher(bounds, pixels_, words));
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, workspace, SumFinisher(pixels_, accumulators));
  }

 private:
  std::int32_t channels_of(std::int32_t plane) const {
    const std::int32_t first = plane % layout_.planes_per_group * kLineChannels;
    return std::min(kLineChannels, shape_.in_channels_per_group() - first);
  }

  // encode(pixel, count, words) makes the words of `count` pixels of the plane.
  template <typename Encode>
  void pack_unit(std::int32_t unit, void* workspace, Encode encode) const {
    const std::int32_t plane = unit % units_.planes;
    const std::int32_t first = unit / units_.planes * units_.pack_rows;
    const std::int32_t end = std::min(shape_.vertical.size, first + units_.pack_rows);
    Line* const lines = static_cast<Line*>(workspace) + plane * layout_.plane;
    clear_padding(first, end, lines);
    // Channels that are none count nothing.
    const std::int32_t channels = channels_of(plane);
    const __mmask64 some =
        channels == kLineChannels ? ~std::uint64_t{0} : (std::uint64_t{1} << channels) - 1;
    const std::int32_t width = shape_.horizontal.size;
    const std::int64_t* const columns = column_lines_.data() + shape_.horizontal.pad_begin;
    const std::int64_t last = std::int64_t{end} * width;
    std::int64_t row = std::int64_t{first} + shape_.vertical.pad_begin;
    Line* line = lines + layout_.row_offset(shape_, row);
    std::int32_t column = 0;
    for (std::int64_t pixel = std::int64_t{first} * width; pixel < last;
         pixel += avx512::kWidePixels) {
      const auto count =
          static_cast<std::int32_t>(std::min<std::int64_t>(avx512::kWidePixels, last - pixel));
      alignas(64) std::uint64_t words[avx512::kWidePixels];
      encode(pixel, count, words);
      for (std::int32_t i = 0; i < count; ++i) {
        _mm512_store_si512(line[columns[column]], _mm512_maskz_mov_epi8(some, bytes_of(words[i])));
        if (++column == width) {
          column = 0;
          line = lines + layout_.row_offset(shape_, ++row);
        }
      }
    }
  }

  // Zeros around rows of the image; the first and last ones bring what is above and below along.
  void clear_padding(std::int32_t first, std::int32_t end, Line* lines) const {
    const ConvAxis& v = shape_.vertical;
    const ConvAxis& h = shape_.horizontal;
    const std::int64_t width = std::int64_t{h.pad_begin} + h.size + h.pad_end;
    const auto clear = [&](std::int64_t row, std::int64_t column, std::int64_t columns_end) {
      Line* const line = lines + layout_.row_offset(shape_, row);
      for (; column < columns_end; ++column) {
        _mm512_store_si512(line[column_lines_[static_cast<std::size_t>(column)]],
                           _mm512_setzero_si512());
      }
    };
    const std::int64_t image = v.pad_begin;
    for (std::int64_t row = first == 0 ? 0 : image + first; row < image + first; ++row) {
      clear(row, 0, width);
    }
    for (std::int64_t row = image + first; row < image + end; ++row) {
      clear(row, 0, h.pad_begin);
      clear(row, std::int64_t{h.pad_begin} + h.size, width);
    }
    const std::int64_t below = end == v.size ? v.pad_end : 0;
    for (std::int64_t row = image + end; row < image + end + below; ++row) clear(row, 0, width);
  }

  void run_unit(std::int32_t unit, const void* workspace, const Finisher& finisher) const {
    const std::int32_t first = unit % units_.tile_parts * units_.tiles;
    const std::int32_t end =
        std::min(static_cast<std::int32_t>(strips_.size()), first + units_.tiles);
    const std::int32_t first_tile = unit / units_.tile_parts % units_.chunks * units_.blocks;
    const std::int32_t end_tile = std::min(weights_->tiles, first_tile + units_.blocks);
    const std::int32_t group = unit / units_.tile_parts / units_.chunks;
    const std::int32_t channels = shape_.out_channels_per_group();
    const Line* const lines = static_cast<const Line*>(workspace) +
                              std::int64_t{group} * layout_.planes_per_group * layout_.plane;
    Tiles tiles;
    WeightStream weights(weights_->tile(group, first_tile), std::int64_t{weights_->steps} * kTile,
                         end_tile - first_tile, end - first);
    Pending pending(finisher);
    // Strip by strip within a tile of channels: what is written next lies beside what was written.
    for (std::int32_t tile = first_tile; tile < end_tile; ++tile) {
      for (std::int32_t i = first; i < end; ++i) {
        const Strip& strip = strips_[static_cast<std::size_t>(i)];
        multiply(tiles, lines + strip.line, strip.tiles, weights, pending);
        pending.begin(strip, group * channels + tile * kTile,
                      std::min(kTile, channels - tile * kTile));
      }
    }
    for (int i = 0; i < kQuarters; ++i) pending.finish_next();
  }

  void multiply(Tiles& tiles, const Line* lines, std::int32_t count, WeightStream& weights,
                Pending& pending) const {
    switch (count) {
      case 1:
        return multiply<1>(tiles, lines, weights, pending);
      case 2:
        return multiply<2>(tiles, lines, weights, pending);
      case 3:
        return multiply<3>(tiles, lines, weights, pending);
      default:
        return multiply<4>(tiles, lines, weights, pending);
    }
  }

  template <int kTiles>
  void multiply(Tiles& tiles, const Line* lines, WeightStream& weights, Pending& pending) const {
    tiles.zero<0>();
    tiles.zero<1>();
    tiles.zero<2>();
    tiles.zero<3>();
    const std::int64_t* step_lines = step_lines_.data();
    const std::int32_t steps = weights_->steps;
    std::int32_t due = 0;
    for (std::int32_t step = 0; step < steps; ++step) {
      const Line* activations = lines + step_lines[step];
      tiles.load<4>(weights.bytes(), kRowBytes);
      tiles.load<5>(activations, sizeof(Line));
      tiles.add_products<0, 5, 4>();
      weights.prepare(0);
      if (kTiles > 1) {
        tiles.load<6>(activations + kTile, sizeof(Line));
        tiles.add_products<1, 6, 4>();
      }
      weights.prepare(1);
      if (kTiles > 2) {
        tiles.load<5>(activations + 2 * kTile, sizeof(Line));
        tiles.add_products<2, 5, 4>();
      }
      weights.prepare(2);
      if (kTiles > 3) {
        tiles.load<6>(activations + 3 * kTile, sizeof(Line));
        tiles.add_products<3, 6, 4>();
      }
      weights.prepare(3);
      weights.next();
      // Evenly among the steps.
      for (due += kQuarters; due >= steps; due -= steps) pending.finish_next();
    }
    Sums* const sums = pending.next_sums();
    tiles.store<0>(sums[0], kRowBytes);
    if (kTiles > 1) tiles.store<1>(sums[1], kRowBytes);
    if (kTiles > 2) tiles.store<2>(sums[2], kRowBytes);
    if (kTiles > 3) tiles.store<3>(sums[3], kRowBytes);
  }

  ConvShape shape_;
  LineLayout layout_;
  std::shared_ptr<const StepWeights> weights_;
  std::int32_t pixels_;  // of an output channel
  bool streamed_input_;  // see streamed.h
  bool streamed_;        // the output
  std::vector<Strip> strips_;
  TileUnits units_;                         // tiles are strips, blocks tiles of output channels
  std::vector<std::int64_t> step_lines_;    // where a step's lines begin, from the first one's
  std::vector<std::int64_t> column_lines_;  // where a column of the padded image lies in its row
};

class AmxKernel final : public BinaryConvKernel {
 public:
  AmxKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const StepWeights>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<AmxPlan>(shape, weights_);
  }

 private:
  std::shared_ptr<const StepWeights> weights_;
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_amx(const ConvShape& shape,
                                                 const std::uint32_t* weight) {
  return std::make_unique<AmxKernel>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
