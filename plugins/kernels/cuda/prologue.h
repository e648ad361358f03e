// What runs before the main loop: X as the main loop wants it, and tables made of the weights.
//
//   binarize   X >= Th as sign words [N, H, W, group, words_per_tap], and the table of corrections
//   gather     X as halves, or as three planes of bfloat16, [plane, N, H, W, group, units * 8]
//   expand     codes as halves [Co, taps, units * 8]
//
// NCHW is turned to pixels-outermost in tiles of 32 pixels by 8 units through shared memory: a warp
// reads 32 neighbouring pixels of a channel, and writes 8 neighbouring units of a pixel.

#ifndef BITEXPORT_KERNELS_CUDA_PROLOGUE_H_
#define BITEXPORT_KERNELS_CUDA_PROLOGUE_H_

#include <cstdint>

#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/conv_weights.h"
#include "kernels/cuda/host_device.h"

namespace bitexport {
namespace cuda {

inline constexpr int kPrologueThreads = 256;
inline constexpr int kTilePixels = 32;
inline constexpr int kTileUnits = 8;

// Valid taps by axis_border_class; {0, -1} where no output pixel has the class. The largest kernel
// that the table has room for is 7.
inline constexpr int kMostTapsOfAxis = 7;
struct AxisRanges {
  TapRange taps[2 * kMostTapsOfAxis + 1];
};

// Where an element of X is: image * batch_stride + pixel * pixel_stride + channel * channel_stride.
struct InputView {
  const void* x;
  std::int64_t batch_stride;
  std::int64_t pixel_stride;
  std::int64_t channel_stride;
  std::int64_t plane;  // H * W
};

struct PrologueArgs {
  ConvShape shape;
  InputView input;
  std::int64_t pixels;              // N * H * W
  std::int32_t units;               // of one group of one pixel: words, or vectors of 8 channels
  FastDivider units_divider;        // by units
  FastDivider pixel_units_divider;  // by group * units * bytes: see binarize_bytes
  const float* threshold;
  void* out;
  std::int64_t plane_bytes;  // from one bfloat16 term to the next
  std::int64_t blocks;       // that work on X; those after it work on the table of corrections

  // The table of corrections.
  const std::uint32_t* weight;
  std::int32_t* corrections;  // [classes, Co]
  AxisRanges vertical;
  AxisRanges horizontal;
  bool xor_form;
};

struct ExpandArgs {
  ConvArgs conv;  // the codebook's shape and words
  const std::uint32_t* codes;
  Vector16* out;
  std::int64_t vectors;
  std::int32_t units;
};

BITEXPORT_BLOCK float element(const float* x, std::int64_t index) { return x[index]; }
BITEXPORT_BLOCK float element(const std::uint16_t* x, std::int64_t index) {
  return float_of_half(x[index]);
}

// ---- Units -------------------------------------------------------------------------------------
// make(args, at, group, unit, out): `at` is the offset of the pixel's channel 0.

// 32 signs. NaN compares as below.
template <typename T>
struct SignUnit {
  using Value = std::uint32_t;
  static constexpr int kPlanes = 1;

  static BITEXPORT_BLOCK void make(const PrologueArgs& args, std::int64_t at, std::int32_t group,
                                   std::int32_t unit, Value* out) {
    const std::int32_t channels = args.shape.in_channels_per_group();
    const std::int32_t first = unit * kChannelsPerWord;
    const std::int32_t count =
        channels - first < kChannelsPerWord ? channels - first : kChannelsPerWord;
    const std::int32_t channel = group * channels + first;
    const T* x = static_cast<const T*>(args.input.x) + at + channel * args.input.channel_stride;
    std::uint32_t word = 0;
    BITEXPORT_UNROLL
    for (int i = 0; i < kChannelsPerWord; ++i) {
      if (i < count && element(x, i * args.input.channel_stride) >= args.threshold[channel + i]) {
        word |= 1u << i;
      }
    }
    *out = word;
  }
};

// 8 halves, which X already has.
struct HalfUnit {
  using Value = Vector16;
  static constexpr int kPlanes = 1;

  static BITEXPORT_BLOCK void make(const PrologueArgs& args, std::int64_t at, std::int32_t group,
                                   std::int32_t unit, Value* out) {
    const std::int32_t channels = args.shape.in_channels_per_group();
    const auto* x = static_cast<const std::uint16_t*>(args.input.x) + at +
                    (group * channels + unit * 8) * args.input.channel_stride;
    Value value = {};
    BITEXPORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (unit * 8 + i < channels) {
        value.word[i / 2] |= static_cast<std::uint32_t>(x[i * args.input.channel_stride])
                             << (i % 2 * 16);
      }
    }
    *out = value;
  }
};

// 8 floats as three terms each.
struct BfloatUnit {
  using Value = Vector16;
  static constexpr int kPlanes = kBfloatTerms;

  static BITEXPORT_BLOCK void make(const PrologueArgs& args, std::int64_t at, std::int32_t group,
                                   std::int32_t unit, Value* out) {
    const std::int32_t channels = args.shape.in_channels_per_group();
    const auto* x = static_cast<const float*>(args.input.x) + at +
                    (group * channels + unit * 8) * args.input.channel_stride;
    Value values[kPlanes] = {};
    BITEXPORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (unit * 8 + i < channels) {
        const BfloatTerms terms = split_to_bfloat(x[i * args.input.channel_stride]);
        BITEXPORT_UNROLL
        for (int plane = 0; plane < kPlanes; ++plane) {
          values[plane].word[i / 2] |= static_cast<std::uint32_t>(terms.term[plane])
                                       << (i % 2 * 16);
        }
      }
    }
    BITEXPORT_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) out[plane] = values[plane];
  }
};

// ---- A tile of 32 pixels by 8 units ------------------------------------------------------------

template <typename Unit>
struct TransposeBlock {
  static constexpr int kThreads = kPrologueThreads;
  static constexpr int kPitch = kTileUnits + 1;  // odd: a column of pixels lies in different banks
  static constexpr std::uint32_t kSharedBytes =
      Unit::kPlanes * kTilePixels * kPitch * sizeof(typename Unit::Value);
  struct Thread {};
};

template <typename Unit>
BITEXPORT_BLOCK std::uint32_t tile_at(int plane, int pixel, int unit) {
  return static_cast<std::uint32_t>(
      ((plane * kTilePixels + pixel) * TransposeBlock<Unit>::kPitch + unit) *
      int{sizeof(typename Unit::Value)});
}

template <typename Unit, typename Exec>
BITEXPORT_BLOCK void transpose_tile(const PrologueArgs& args, Exec& exec, std::int64_t block) {
  using Value = typename Unit::Value;
  const std::int32_t pixel_units = args.shape.group * args.units;
  const std::int32_t unit_tiles = ceil_div(pixel_units, kTileUnits);
  const std::int64_t pixel_tile = block / unit_tiles;
  const auto first_unit = static_cast<std::int32_t>(block - pixel_tile * unit_tiles) * kTileUnits;
  const std::int64_t first_pixel = pixel_tile * kTilePixels;
  exec.each([&](int tid, auto&) {
    const int in_tile = tid % kTilePixels;
    const std::int32_t unit = first_unit + tid / kTilePixels;
    const std::int64_t pixel = first_pixel + in_tile;
    if (pixel >= args.pixels || unit >= pixel_units) return;
    const std::int64_t image = pixel / args.input.plane;
    const std::int64_t at = image * args.input.batch_stride +
                            (pixel - image * args.input.plane) * args.input.pixel_stride;
    const std::int32_t group = args.units_divider.quotient(unit);
    Value values[Unit::kPlanes];
    Unit::make(args, at, group, args.units_divider.remainder(unit, group), values);
    BITEXPORT_UNROLL
    for (int plane = 0; plane < Unit::kPlanes; ++plane) {
      exec.store(tid, tile_at<Unit>(plane, in_tile, tid / kTilePixels), values[plane]);
    }
  });
  exec.barrier();
  exec.each([&](int tid, auto&) {
    const int in_tile = tid / kTileUnits;
    const std::int32_t unit = first_unit + tid % kTileUnits;
    const std::int64_t pixel = first_pixel + in_tile;
    if (pixel >= args.pixels || unit >= pixel_units) return;
    BITEXPORT_UNROLL
    for (int plane = 0; plane < Unit::kPlanes; ++plane) {
      auto* out =
          reinterpret_cast<Value*>(static_cast<std::uint8_t*>(args.out) + plane * args.plane_bytes);
      out[pixel * pixel_units + unit] =
          exec.template load<Value>(tid, tile_at<Unit>(plane, in_tile, tid % kTileUnits));
    }
  });
}

// ---- NHWC8: the channels of a pixel are neighbours already -------------------------------------

// A thread makes one byte of the sign words from 16 bytes of X; both are coalesced. Groups begin at
// a multiple of 8 channels, or there is one group.
struct BytesBlock {
  static constexpr int kThreads = kPrologueThreads;
  static constexpr std::uint32_t kSharedBytes = 16;
  struct Thread {};
};

template <typename Exec>
BITEXPORT_BLOCK void binarize_bytes(const PrologueArgs& args, Exec& exec, std::int64_t block) {
  constexpr int kBytesOfWord = kChannelsPerWord / 8;
  exec.each([&](int tid, auto&) {
    const std::int32_t group_bytes = args.units * kBytesOfWord;
    const std::int64_t bytes = args.pixels * args.shape.group * group_bytes;
    const std::int64_t index = block * kPrologueThreads + tid;
    if (index >= bytes) return;
    // A division of 64 bits costs more than the rest; few tensors need it.
    std::int64_t pixel;
    if (bytes <= 0x7FFFFFFF) {
      pixel = args.pixel_units_divider.quotient(static_cast<std::int32_t>(index));
    } else {
      pixel = index / args.pixel_units_divider.divisor;
    }
    const auto byte = static_cast<std::int32_t>(index - pixel * args.pixel_units_divider.divisor);
    const std::int32_t group = args.units_divider.quotient(byte / kBytesOfWord);
    const std::int32_t channels = args.shape.in_channels_per_group();
    const std::int32_t first = (byte - group * group_bytes) * 8;
    const std::int32_t count = channels - first < 8 ? channels - first : 8;
    std::uint32_t signs = 0;
    if (count > 0) {
      const std::int32_t channel = group * channels + first;
      const auto x =
          *reinterpret_cast<const Vector16*>(static_cast<const std::uint16_t*>(args.input.x) +
                                             pixel * args.input.pixel_stride + channel);
      BITEXPORT_UNROLL
      for (int i = 0; i < 8; ++i) {
        const auto half = static_cast<std::uint16_t>(x.word[i / 2] >> (i % 2 * 16));
        if (i < count && float_of_half(half) >= args.threshold[channel + i]) signs |= 1u << i;
      }
    }
    static_cast<std::uint8_t*>(args.out)[index] = static_cast<std::uint8_t>(signs);
  });
}

// ---- The table of corrections ------------------------------------------------------------------

// A warp sums the words of one output channel, for each class of border that occurs.
struct CorrectionsBlock {
  static constexpr int kThreads = kPrologueThreads;
  static constexpr int kChannels = kThreads / kLanes;
  static constexpr std::uint32_t kSharedBytes = 16;
  struct Thread {
    std::int32_t sum;
  };
};

// What a lane adds: valid taps by C - 2 popc(w), and in the xor form every tap by 2 popc(w).
BITEXPORT_BLOCK std::int32_t lane_correction(const PrologueArgs& args, const std::uint32_t* words,
                                             TapRange rows, TapRange columns, int lane) {
  const std::int32_t per_tap = args.shape.words_per_tap();
  const std::int32_t channels = args.shape.in_channels_per_group();
  std::int32_t sum = 0;
  for (std::int32_t i = lane; i < args.shape.taps() * per_tap; i += kLanes) {
    const std::int32_t tap = args.units_divider.quotient(i);
    const std::int32_t row = tap / args.shape.horizontal.kernel;
    const bool valid =
        rows.contains(row) && columns.contains(tap - row * args.shape.horizontal.kernel);
    const std::int32_t bits = 2 * count_bits(words[i]);
    if (args.xor_form) sum += bits;
    if (valid) sum -= bits;
    if (valid && i == tap * per_tap) sum += channels;
  }
  return sum;
}

template <typename Exec>
BITEXPORT_BLOCK void write_corrections(const PrologueArgs& args, Exec& exec, std::int64_t block) {
  using Thread = CorrectionsBlock::Thread;
  const std::int32_t vertical_classes = axis_border_classes(args.shape.vertical);
  const std::int32_t horizontal_classes = axis_border_classes(args.shape.horizontal);
  const auto channel_of = [&](int tid) {
    return block * CorrectionsBlock::kChannels + tid / kLanes;
  };
  BITEXPORT_NO_UNROLL
  for (std::int32_t v = 0; v < vertical_classes; ++v) {
    const TapRange rows = args.vertical.taps[v];
    if (rows.last < rows.first) continue;
    BITEXPORT_NO_UNROLL
    for (std::int32_t h = 0; h < horizontal_classes; ++h) {
      const TapRange columns = args.horizontal.taps[h];
      if (columns.last < columns.first) continue;
      exec.each([&](int tid, Thread& thread) {
        const std::int64_t channel = channel_of(tid);
        const std::int64_t row_words = std::int64_t{args.shape.taps()} * args.shape.words_per_tap();
        thread.sum = channel < args.shape.out_channels
                         ? lane_correction(args, args.weight + channel * row_words, rows, columns,
                                           tid % kLanes)
                         : 0;
      });
      exec.warp_sum([](Thread& thread) -> std::int32_t& { return thread.sum; });
      exec.each([&](int tid, Thread& thread) {
        const std::int64_t channel = channel_of(tid);
        if (tid % kLanes != 0 || channel >= args.shape.out_channels) return;
        const std::int64_t border = v * horizontal_classes + h;
        args.corrections[border * args.shape.out_channels + channel] = thread.sum;
      });
    }
  }
}

// ---- Codes to halves ---------------------------------------------------------------------------

// Vector `index` of [Co, taps, units].
BITEXPORT_BLOCK void expand_codes(const ExpandArgs& args, std::int64_t index) {
  if (index >= args.vectors) return;
  const std::int32_t taps = args.conv.taps_divider.divisor;
  const std::int64_t row = index / (std::int64_t{taps} * args.units);
  const auto in_row = static_cast<std::int32_t>(index - row * taps * args.units);
  const std::int32_t tap = args.conv.units_divider.quotient(in_row);
  args.out[index] = centroid_vector(args.conv, args.codes + row * args.conv.codebook.words_per_row,
                                    args.conv.units_divider.remainder(in_row, tap) * 8, tap);
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_PROLOGUE_H_
