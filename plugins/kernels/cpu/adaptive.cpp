// Chooses a kernel for a layer and the size of its images.
//
// The weights stay as the op has them until an image comes: which kernel is quickest, and which of
// the taps ever meet the image, depends on its size. Kernels are made once and kept.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/amx_layout.h"
#include "kernels/cpu/binary_conv.h"
#include "kernels/cpu/channel_lanes.h"
#include "kernels/cpu/variants.h"

namespace bitexport {
namespace cpu {
namespace {

enum Variant : std::size_t { kWords, kDepthwise, kLookup, kChannels, kPopcount, kAmx, kVariants };

// Taps first .. last - 1 along an axis that meet a pixel of the image somewhere.
TapRange useful_taps(const ConvAxis& axis) {
  // Both ends of the valid range fall as the output pixel moves on.
  const TapRange begin = axis.valid_taps(0);
  const TapRange end = axis.valid_taps(axis.out_size() - 1);
  return {std::min(begin.first, end.first), std::max(begin.last, end.last)};
}

// The same convolution along an axis without the taps before and after the useful ones; the axis
// itself where it has no such form.
ConvAxis trimmed(const ConvAxis& axis, TapRange taps) {
  ConvAxis result = axis;
  result.kernel = taps.count();
  result.pad_begin -= taps.first * axis.dilation;
  result.pad_end -= (axis.kernel - taps.last) * axis.dilation;
  return taps.count() > 0 && result.pad_begin >= 0 && result.pad_end >= 0 ? result : axis;
}

// Weights [Co, kh, kw, words_per_tap] without the taps that `useful` lacks.
std::vector<std::uint32_t> trimmed_weight(const ConvShape& shape, TapRange rows, TapRange columns,
                                          const std::vector<std::uint32_t>& weight) {
  std::vector<std::uint32_t> kept;
  for (std::int64_t co = 0; co < shape.out_channels; ++co) {
    for (std::int64_t kh = rows.first; kh < rows.last; ++kh) {
      const std::int64_t row = (co * shape.vertical.kernel + kh) * shape.horizontal.kernel;
      const auto* words = weight.data() + row * shape.words_per_tap();
      kept.insert(kept.end(), words + std::int64_t{columns.first} * shape.words_per_tap(),
                  words + std::int64_t{columns.last} * shape.words_per_tap());
    }
  }
  return kept;
}

#if defined(BITEXPORT_HAVE_X86)
// Words of a few channels are mostly empty: looking four channels up is quicker there.
bool pays_for_popcount(const ConvShape& shape) {
  constexpr std::int32_t kFewestChannels = 20;
  return shape.in_channels_per_group() >= kFewestChannels &&
         shape.vertical.kernel <= kMostPopcountTaps && shape.horizontal.kernel <= kMostPopcountTaps;
}

// A product of tiles takes its time however little of them is in use, and the epilogue is half of
// the time of few products. The image as bytes is to be of the size of X at most.
bool pays_for_amx(const ConvShape& shape) {
  constexpr std::int32_t kFewestSteps = 8;
  constexpr std::int32_t kFewestChannels = 32;
  constexpr double kLeastInUse = 0.55;
  const std::int32_t channels = shape.in_channels_per_group();
  const std::int32_t planes = divided_up(channels, kLineChannels);
  if (planes * shape.taps() < kFewestSteps || shape.out_channels_per_group() < kFewestChannels) {
    return false;
  }
  const LineLayout layout(shape);
  const double image = double{1} * shape.vertical.size * shape.horizontal.size;
  if (static_cast<double>(layout.plane) > std::max(4.0 * image, 1024.0)) return false;
  const double pixels = double{1} * shape.vertical.out_size() * shape.horizontal.out_size();
  const double tiles = std::ceil(static_cast<double>(layout.output_lines(shape)) / kTile);
  return channels * pixels >= kLeastInUse * planes * kLineChannels * tiles * kTile;
}
#endif

bool fits_lookup(const ConvShape& shape) {
  // It counts mismatches in 16 bits.
  const std::int64_t most = std::int64_t{shape.in_channels_per_group()} * shape.taps();
  // A vector of pixels would be mostly empty.
  constexpr std::int64_t kFewestPixels = 5;
  const std::int64_t pixels = std::int64_t{shape.vertical.out_size()} * shape.horizontal.out_size();
  // It copies the image for every column of the kernel.
  constexpr std::int32_t kMostColumns = 64;
  return most <= std::numeric_limits<std::uint16_t>::max() && pixels >= kFewestPixels &&
         shape.horizontal.kernel <= kMostColumns;
}

Variant choose(const ConvShape& shape, Isa isa) {
  if (shape.in_channels_per_group() == 1 && shape.taps() <= kMostDepthwiseTaps) return kDepthwise;
#if defined(BITEXPORT_HAVE_X86)
  if (isa == Isa::kAmx && pays_for_amx(shape)) return kAmx;
  if (isa >= Isa::kAvx512Popcount && pays_for_popcount(shape)) return kPopcount;
  if (isa == Isa::kAvx2 && fits_lookup(shape) && pays_for_channel_lanes(shape)) return kChannels;
#endif
  return isa != Isa::kPortable && fits_lookup(shape) ? kLookup : kWords;
}

std::unique_ptr<const BinaryConvKernel> make(Variant variant, const ConvShape& shape,
                                             const std::uint32_t* weight, Isa isa) {
#if defined(BITEXPORT_HAVE_X86)
  const bool wide = isa >= Isa::kAvx512;
  if (variant == kAmx) return make_amx(shape, weight);
  if (variant == kPopcount) return make_avx512_popcount(shape, weight);
  if (variant == kChannels) return make_avx2_channels(shape, weight);
  if (variant == kLookup) return wide ? make_avx512(shape, weight) : make_avx2(shape, weight);
  if (variant == kDepthwise && wide) return make_depthwise_avx512(shape, weight);
  if (variant == kDepthwise && isa == Isa::kAvx2) return make_depthwise_avx2(shape, weight);
  if (variant == kWords && isa != Isa::kPortable) return make_popcnt(shape, weight);
#elif defined(BITEXPORT_HAVE_NEON)
  if (variant == kLookup) return make_neon(shape, weight);
  if (variant == kDepthwise && isa == Isa::kNeon) return make_depthwise_neon(shape, weight);
#endif
  static_cast<void>(isa);
  if (variant == kDepthwise) return make_depthwise_portable(shape, weight);
  return make_portable(shape, weight);
}

class AdaptiveKernel final : public BinaryConvKernel {
 public:
  AdaptiveKernel(const ConvShape& shape, const std::uint32_t* weight, Isa isa)
      : weight_(weight, weight + shape.weight_words()), isa_(isa) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    const TapRange rows = useful_taps(shape.vertical);
    const TapRange columns = useful_taps(shape.horizontal);
    ConvShape useful = shape;
    useful.vertical = trimmed(shape.vertical, rows);
    useful.horizontal = trimmed(shape.horizontal, columns);
    if (useful.taps() == shape.taps()) return kernel(choose(shape, isa_), shape).plan(shape);
    // The plan keeps what it needs of the kernel.
    const bool fewer_rows = useful.vertical.kernel < shape.vertical.kernel;
    const bool fewer_columns = useful.horizontal.kernel < shape.horizontal.kernel;
    const std::vector<std::uint32_t> weight =
        trimmed_weight(shape, fewer_rows ? rows : TapRange{0, shape.vertical.kernel},
                       fewer_columns ? columns : TapRange{0, shape.horizontal.kernel}, weight_);
    return make(choose(useful, isa_), useful, weight.data(), isa_)->plan(useful);
  }

 private:
  const BinaryConvKernel& kernel(Variant variant, const ConvShape& shape) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& kernel = kernels_[variant];
    if (kernel == nullptr) kernel = make(variant, shape, weight_.data(), isa_);
    return *kernel;
  }

  std::vector<std::uint32_t> weight_;
  Isa isa_;
  mutable std::mutex mutex_;
  mutable std::array<std::unique_ptr<const BinaryConvKernel>, kVariants> kernels_;
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_binary_conv(const ConvShape& shape,
                                                         const std::uint32_t* weight, Isa isa) {
  return std::make_unique<AdaptiveKernel>(shape, weight, isa);
}

}  // namespace cpu
}  // namespace bitexport
