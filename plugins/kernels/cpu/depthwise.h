// Depthwise convolution: each output channel sees one input channel, so that there is one bit a tap
// and nothing to count in a word.
//
// Activations are bytes, +1, -1, and 0 on the padding; a weight is the byte s, 0 for +1 and -1 for
// -1. In two's complement a * (+1) = a and a * (-1) = -a = (a ^ -1) + 1, hence
//
//     accumulator = sum over taps of (a ^ s) + the number of taps of weight -1,
//
// with padded taps counted in, as (0 ^ -1) + 1 = 0. A sum of bytes holds kMostTaps taps.
//
// Rows and columns of the padded image are sorted by their remainders modulo the strides
// ("phases"), so that under every tap the pixels of the whole output are neighbours, with some
// between the rows that are computed in vain.
//
// To be included once, between the lines of target.h in a file per instruction set, after the
// headers of the standard library. That file has kVectorBytes, what an instruction adds at once,
// and
//
//     void encode_signs(const float* x, std::int64_t count, float threshold, std::int8_t* signs)
//
// which makes +1 of x[i] >= threshold, else -1. The loops here are plain, for the compiler to make
// vectors of.

#include "kernels/cpu/channel_epilogue.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kVectorsAtOnce = 4;
// Bytes that are computed before they are moved, and moved before they are read: reading across
// what two instructions have just written stalls.
constexpr std::int32_t kStageBytes = 4096;
static_assert(kStageBytes % kVectorBytes == 0);

typedef std::int8_t Bytes __attribute__((vector_size(kVectorBytes)));
typedef std::int8_t Bytes16 __attribute__((vector_size(16)));

// Where the pixels of a channel lie, in bytes.
struct DepthwiseLayout {
  std::int64_t width;   // of a phase
  std::int64_t height;  // of a phase
  std::int64_t phase;
  std::int64_t plane;
  std::int32_t horizontal_stride;
  std::int32_t vertical_stride;

  explicit DepthwiseLayout(const ConvShape& shape)
      : width(phase_size(shape.horizontal)),
        height(phase_size(shape.vertical)),
        phase(width * height),
        // Sums are computed by the vector, past the last pixel.
        plane((phase * shape.horizontal.stride * shape.vertical.stride + kVectorBytes + 63) / 64 *
              64),
        horizontal_stride(shape.horizontal.stride),
        vertical_stride(shape.vertical.stride) {}

  // Of a pixel of the padded image.
  std::int64_t offset(std::int32_t row, std::int32_t column) const {
    if (vertical_stride == 1 && horizontal_stride == 1) return row * width + column;
    const std::int64_t index =
        std::int64_t{row % vertical_stride} * horizontal_stride + column % horizontal_stride;
    return index * phase + row / vertical_stride * width + column / horizontal_stride;
  }

 private:
  static std::int64_t phase_size(const ConvAxis& axis) {
    return (std::int64_t{axis.size} + axis.pad_begin + axis.pad_end + axis.stride - 1) /
           axis.stride;
  }
};

struct DepthwiseWeights {
  std::vector<std::int8_t> signs;      // [Co, kh, kw], 0 or -1
  std::vector<std::int32_t> negative;  // [Co], taps of weight -1

  DepthwiseWeights(const ConvShape& shape, const std::uint32_t* weight) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      negative.push_back(0);
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap, ++weight) {
        const bool positive = (*weight & 1u) != 0;
        signs.push_back(positive ? 0 : -1);
        negative.back() += positive ? 0 : 1;
      }
    }
  }
};

template <typename Chunk>
inline Chunk load(const std::int8_t* from) {
  Chunk chunk;
  std::memcpy(&chunk, from, sizeof(chunk));
  return chunk;
}

template <typename Chunk>
inline void move_chunks(const std::int8_t* from, std::int64_t count, std::int8_t* to) {
  constexpr std::int64_t kChunk = sizeof(Chunk);
  const Chunk last = load<Chunk>(from + count - kChunk);
  for (std::int64_t i = 0; i + kChunk <= count; i += kChunk) {
    const Chunk chunk = load<Chunk>(from + i);
    std::memcpy(to + i, &chunk, kChunk);
  }
  std::memcpy(to + count - kChunk, &last, kChunk);
}

// Moves bytes, perhaps to an overlapping place before them: rows are so short that a call of
// memmove costs more than the copy.
inline void move_row(const std::int8_t* from, std::int64_t count, std::int8_t* to) {
  if (count >= 16) return move_chunks<Bytes16>(from, count, to);
  if (count >= 8) return move_chunks<std::uint64_t>(from, count, to);
  if (count >= 4) return move_chunks<std::uint32_t>(from, count, to);
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// Every other one of 2 * kHalves bytes, of which the last may lie past the end of a row.
constexpr std::int32_t kHalves = 16;
inline void even_bytes(const std::int8_t* from, std::int8_t* to) {
  typedef std::uint16_t Pairs __attribute__((vector_size(2 * kHalves)));
  typedef std::uint8_t Halves __attribute__((vector_size(kHalves)));
  Pairs pairs;
  std::memcpy(&pairs, from, sizeof(pairs));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  pairs >>= 8;
#endif
  const Halves halves = __builtin_convertvector(pairs, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

// Every kStride-th byte from `from` on, or every stride-th one where kStride is 0; one byte after
// the last may be read.
template <int kStride>
inline void copy_strided(const std::int8_t* from, std::int32_t count, std::int32_t stride,
                         std::int8_t* to) {
  if (kStride == 1) return move_row(from, count, to);
  std::int32_t i = 0;
  if (kStride == 2 && count >= kHalves) {
    for (; i + kHalves < count; i += kHalves) even_bytes(from + 2 * i, to + i);
    return even_bytes(from + 2 * (count - kHalves), to + count - kHalves);
  }
  for (; i < count; ++i) to[i] = from[i * stride];
}

// Sums of kVectors vectors of neighbouring pixels, which lie `offsets` past `pixels` under the
// taps.
template <int kVectors>
inline void add_taps(const std::int8_t* pixels, const std::vector<std::int64_t>& offsets,
                     const std::int8_t* signs, std::int8_t* sums) {
  Bytes sum[kVectors] = {};
  for (std::size_t tap = 0; tap < offsets.size(); ++tap) {
    const Bytes sign = Bytes{} + signs[tap];
    for (int i = 0; i < kVectors; ++i) {
      Bytes some;
      std::memcpy(&some, pixels + offsets[tap] + i * kVectorBytes, sizeof(some));
      sum[i] += some ^ sign;
    }
  }
  std::memcpy(sums, sum, sizeof(sum));
}

class DepthwisePlan final : public BinaryConvPlan {
 public:
  DepthwisePlan(const ConvShape& shape, std::shared_ptr<const DepthwiseWeights> weights)
      : shape_(shape),
        layout_(shape),
        weights_(std::move(weights)),
        packed_(channels_of_unit(std::int64_t{shape.vertical.size} * shape.horizontal.size)),
        convolved_(channels_of_unit(output_pixels(shape))) {
    for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
      for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
        offsets_.push_back(
            layout_.offset(kh * shape.vertical.dilation, kw * shape.horizontal.dilation));
      }
    }
  }

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(shape_.in_channels * layout_.plane);
  }
  std::int32_t pack_units() const override { return divided_up(shape_.in_channels, packed_); }
  std::int32_t conv_units() const override { return divided_up(shape_.out_channels, convolved_); }

  void pack(std::int32_t unit, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    const std::int32_t first = unit * packed_;
    const std::int32_t end = std::min(shape_.in_channels, first + packed_);
    std::int8_t* planes = static_cast<std::int8_t*>(workspace);
    std::memset(planes + first * layout_.plane, 0,
                static_cast<std::size_t>((end - first) * layout_.plane));
    std::int8_t signs[kStageBytes + 1];
    for (std::int64_t done = 0; done < image; done += kStageBytes) {
      // A part of one channel, or several whole ones.
      const std::int64_t count = std::min<std::int64_t>(kStageBytes, image - done);
      for (std::int32_t channel = first; channel < end; ++channel) {
        encode_signs(x + channel * image + done, count, threshold[channel],
                     signs + (channel - first) * count);
      }
      signs[(end - first) * count] = 0;
      for (std::int32_t channel = first; channel < end; ++channel) {
        place(done, count, signs + (channel - first) * count, planes + channel * layout_.plane);
      }
    }
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    run_unit(unit, workspace,
             [&](const Piece& piece, std::int32_t negative, const std::int8_t* sums) {
               with_activation(epilogue, [&](auto activation) {
                 const ChannelEpilogue<decltype(activation)::value> channel(epilogue, piece.co);
                 write(channel, piece, negative, sums, epilogue.residual, y);
               });
             });
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, workspace,
             [&](const Piece& piece, std::int32_t negative, const std::int8_t* sums) {
               for (std::int32_t i = 0; i < piece.count; ++i) {
                 accumulators[piece.index + i] = sums[i] + negative;
               }
             });
  }

 private:
  // Neighbouring pixels of an output channel.
  struct Piece {
    std::int32_t co;
    std::int64_t first;  // as they are computed, with those between the rows
    std::int64_t last;   // one past
    std::int64_t index;  // in [Co, Ho, Wo]
    std::int32_t count;
    std::int32_t stage;  // where its sums begin
  };

  template <typename Channel>
  static void write(const Channel& channel, const Piece& piece, std::int32_t negative,
                    const std::int8_t* sums, const float* residual, float* y) {
    const auto sum_of = [=](std::int8_t sum) {
      return channel.sum(static_cast<float>(sum + negative));
    };
    float* out = y + piece.index;
    if (residual == nullptr) {
      for (std::int32_t i = 0; i < piece.count; ++i) out[i] = channel.activated(sum_of(sums[i]));
    } else {
      const float* in = residual + piece.index;
      for (std::int32_t i = 0; i < piece.count; ++i) {
        out[i] = channel.activated(sum_of(sums[i]) + in[i]);
      }
    }
  }

  static std::int32_t channels_of_unit(std::int64_t pixels) {
    return static_cast<std::int32_t>(std::max<std::int64_t>(1, kStageBytes / pixels));
  }

  // Puts neighbouring pixels of an image, from `pixel` on, where the layout has them.
  void place(std::int64_t pixel, std::int64_t count, const std::int8_t* signs,
             std::int8_t* plane) const {
    if (layout_.horizontal_stride == 1) return place_rows<1>(pixel, count, signs, plane);
    if (layout_.horizontal_stride == 2) return place_rows<2>(pixel, count, signs, plane);
    place_rows<0>(pixel, count, signs, plane);
  }

  // For a horizontal stride of kStride, or of any where it is 0: dividing by it takes most of the
  // time of a short row.
  template <int kStride>
  void place_rows(std::int64_t pixel, std::int64_t count, const std::int8_t* signs,
                  std::int8_t* plane) const {
    const std::int32_t stride = kStride == 0 ? layout_.horizontal_stride : kStride;
    const std::int32_t pad = shape_.horizontal.pad_begin;
    auto row = static_cast<std::int32_t>(pixel / shape_.horizontal.size);
    auto column = static_cast<std::int32_t>(pixel % shape_.horizontal.size);
    for (row += shape_.vertical.pad_begin; count > 0; ++row, column = 0) {
      const auto some =
          static_cast<std::int32_t>(std::min<std::int64_t>(count, shape_.horizontal.size - column));
      std::int8_t* out = plane + layout_.offset(row, 0);
      for (std::int32_t phase = 0; phase < std::min(stride, some); ++phase) {
        const std::int32_t first = column + phase + pad;
        copy_strided<kStride>(signs + phase, (some - phase + stride - 1) / stride, stride,
                              out + first % stride * layout_.phase + first / stride);
      }
      signs += some;
      count -= some;
    }
  }

  // Calls visit(piece, taps of weight -1, sums) for all pixels of a unit.
  template <typename Visit>
  void run_unit(std::int32_t unit, const void* workspace, Visit visit) const {
    alignas(64) std::int8_t stage[kStageBytes];
    Piece pieces[kStageBytes / kVectorBytes];
    int count = 0;
    std::int32_t used = 0;
    const auto finish = [&] {
      for (int i = 0; i < count; ++i) close_rows(pieces[i], stage + pieces[i].stage);
      for (int i = 0; i < count; ++i) {
        const std::int32_t negative = weights_->negative[static_cast<std::size_t>(pieces[i].co)];
        visit(pieces[i], negative, stage + pieces[i].stage);
      }
      count = 0;
      used = 0;
    };
    const std::int32_t width = shape_.horizontal.out_size();
    const std::int32_t height = shape_.vertical.out_size();
    const std::int64_t computed = (height - 1) * layout_.width + width;
    const std::int32_t end = std::min(shape_.out_channels, (unit + 1) * convolved_);
    for (std::int32_t co = unit * convolved_; co < end; ++co) {
      std::int64_t index = std::int64_t{co} * height * width;
      for (std::int64_t first = 0; first < computed; ++count) {
        if (used == kStageBytes) finish();
        const std::int64_t last = std::min(computed, first + kStageBytes - used);
        pieces[count] = {co, first, last, index, valid_before(last) - valid_before(first), used};
        index += pieces[count].count;
        used += add_pixels(co, first, last, workspace, stage + used);
        first = last;
      }
    }
    finish();
  }

  // Pixels of the output among the first `computed` ones of a channel.
  std::int32_t valid_before(std::int64_t computed) const {
    const std::int64_t width = shape_.horizontal.out_size();
    return static_cast<std::int32_t>(computed / layout_.width * width +
                                     std::min(width, computed % layout_.width));
  }

  // Sums of the pixels `first` to `last` - 1 as they are computed; returns how many it wrote.
  std::int32_t add_pixels(std::int32_t co, std::int64_t first, std::int64_t last,
                          const void* workspace, std::int8_t* sums) const {
    const std::int8_t* pixels = static_cast<const std::int8_t*>(workspace) +
                                co / shape_.out_channels_per_group() * layout_.plane + first;
    const std::int8_t* signs = weights_->signs.data() + std::int64_t{co} * shape_.taps();
    const auto count = static_cast<std::int32_t>(last - first);
    std::int32_t done = 0;
    for (; done + kVectorsAtOnce * kVectorBytes <= count; done += kVectorsAtOnce * kVectorBytes) {
      add_taps<kVectorsAtOnce>(pixels + done, offsets_, signs, sums + done);
    }
    for (; done < count; done += kVectorBytes) {
      add_taps<1>(pixels + done, offsets_, signs, sums + done);
    }
    return done;
  }

  // Moves the rows of a piece together, over what lies between them.
  void close_rows(const Piece& piece, std::int8_t* sums) const {
    const std::int64_t width = shape_.horizontal.out_size();
    if (layout_.width == width) return;
    std::int8_t* to = sums;
    for (std::int64_t row = piece.first / layout_.width * layout_.width; row < piece.last;
         row += layout_.width) {
      const std::int64_t begin = std::max(piece.first, row);
      const std::int64_t some = std::min(piece.last, row + width) - begin;
      if (some <= 0) continue;
      if (to != sums + (begin - piece.first)) move_row(sums + (begin - piece.first), some, to);
      to += some;
    }
  }

  ConvShape shape_;
  DepthwiseLayout layout_;
  std::shared_ptr<const DepthwiseWeights> weights_;
  std::int32_t packed_;                // channels of a unit
  std::int32_t convolved_;             // channels of a unit
  std::vector<std::int64_t> offsets_;  // of the taps, in a plane
};

class DepthwiseKernel final : public BinaryConvKernel {
 public:
  DepthwiseKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const DepthwiseWeights>(shape, weight)) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<DepthwisePlan>(shape, weights_);
  }

 private:
  std::shared_ptr<const DepthwiseWeights> weights_;
};

}  // namespace
}  // namespace cpu
}  // namespace bitexport
