// Depthwise convolution: each output channel sees one input channel, so that there is one bit a tap
// and nothing to count in a word. depthwise_steps.h has the arithmetic, and says what a file must
// have before it includes this one, once, between the lines of target.h.

#include "kernels/cpu/depthwise_steps.h"

namespace bitexport {
namespace cpu {
namespace {

// Sums that are computed before they are read: reading across what two instructions have just
// written stalls.
constexpr std::int32_t kStageBytes = 4096;
static_assert(kStageBytes % kVectorBytes == 0);

// How many accumulators of a narrow image are scaled at once.
constexpr std::int32_t kFewFloats = kFloats > 8 ? 8 : 4;

class DepthwisePlan final : public BinaryConvPlan {
 public:
  DepthwisePlan(const ConvShape& shape, std::shared_ptr<const DepthwiseWeights> weights)
      : shape_(shape),
        weights_(std::move(weights)),
        taps_(shape.taps()),
        width_(shape.horizontal.out_size()),
        pixels_(output_pixels(shape)),
        packed_(channels_within(std::int64_t{shape.vertical.size} * shape.horizontal.size)),
        layout_(shape, packed_, kVectorBytes) {
    for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
      for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
        offsets_.push_back(
            layout_.offset(kh * shape.vertical.dilation, kw * shape.horizontal.dilation));
      }
    }
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      planes_.push_back(layout_.begin(co / shape.out_channels_per_group()));
    }
    divide_output();
    divide_input();
  }

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(pack_units() * layout_.run);
  }
  std::int32_t pack_units() const override { return divided_up(shape_.in_channels, packed_); }
  std::int32_t conv_units() const override { return divided_up(shape_.out_channels, convolved_); }

  void pack(std::int32_t unit, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    const std::int32_t first = unit * packed_;
    const std::int32_t channels = std::min(packed_, shape_.in_channels - first);
    std::int8_t* planes = static_cast<std::int8_t*>(workspace) + unit * layout_.run;
    std::memset(planes, 0, static_cast<std::size_t>(layout_.run));
    for (const Source& source : sources_) {
      place(source, channels, x + first * image + source.first, threshold + first, planes);
    }
  }

  // One group of channels is one channel here.
  void pack_signs(std::int32_t, const std::uint32_t*, void*) const override {
    throw std::logic_error("a depthwise convolution takes no signs");
  }

  void convolve(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    with_activation(epilogue, [&](auto activation) {
      constexpr Activation kActivation = decltype(activation)::value;
      if (epilogue.residual == nullptr) {
        return convolve_and_add<kActivation, false>(unit, workspace, epilogue, y);
      }
      convolve_and_add<kActivation, true>(unit, workspace, epilogue, y);
    });
  }

  // All at once: networks begin no chain with one channel.
  std::int32_t sign_units() const override { return 1; }

  void convolve_to_signs(std::int32_t, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    for (std::int32_t unit = 0; unit < conv_units(); ++unit) {
      run_unit(unit, workspace, [&](std::int32_t co, const Piece& piece, const std::int8_t* sums) {
        const std::int32_t bound = bounds.bound(co);
        std::uint32_t* out = words + std::int64_t{co / 32} * pixels_ + piece.first;
        for (std::int32_t row = 0; row < piece.rows; ++row, sums += layout_.pitch) {
          for (std::int32_t i = 0; i < piece.columns; ++i, ++out) {
            if (co % 32 == 0) *out = bounds.flips(co / 32);
            *out ^= sums[i] >= bound ? 1u << (co % 32) : 0u;
          }
        }
      });
    }
  }

  void accumulate(std::int32_t unit, const void* workspace,
                  std::int32_t* accumulators) const override {
    run_unit(unit, workspace, [&](std::int32_t co, const Piece& piece, const std::int8_t* sums) {
      std::int32_t* out = accumulators + std::int64_t{co} * pixels_ + piece.first;
      for (std::int32_t row = 0; row < piece.rows; ++row, sums += layout_.pitch) {
        // NOLINTNEXTLINE(bugprone-signed-char-misuse): a number, not a character
        for (std::int32_t i = 0; i < piece.columns; ++i) *out++ = sums[i];
      }
    });
  }

 private:
  // Whole rows of an output channel, or a part of a row.
  struct Piece {
    std::int32_t first;  // pixel
    std::int32_t rows;
    std::int32_t columns;
    std::int32_t vectors;    // of sums
    std::int32_t in_blocks;  // rows, whose last block does not run over the channel's end
    std::int64_t source;     // under the first tap, in a plane
  };

  // Rows of every input channel that lie in the same phase.
  struct Source {
    std::int32_t row;
    std::int32_t rows;
    std::int64_t first;  // pixel
  };

  static std::int32_t channels_within(std::int64_t pixels) {
    return static_cast<std::int32_t>(std::max<std::int64_t>(1, kStageBytes / pixels));
  }

  std::int32_t last_channel(std::int32_t unit) const {
    return std::min(shape_.out_channels, (unit + 1) * convolved_) - 1;
  }

  // Pixels that are written at once.
  std::int32_t block() const { return width_ <= kFewFloats ? kFewFloats : kFloats; }

  // A stage holds some channels, or a part of one: whole rows, if it can.
  void divide_output() {
    const std::int32_t height = shape_.vertical.out_size();
    const auto rows = static_cast<std::int32_t>(std::min<std::int64_t>(
        height, std::max<std::int64_t>(1, (kStageBytes - width_) / layout_.pitch + 1)));
    const std::int32_t columns = std::min(width_, kStageBytes);
    for (std::int32_t row = 0; row < height; row += rows) {
      for (std::int32_t column = 0; column < width_; column += columns) {
        Piece piece = {row * width_ + column,
                       std::min(rows, height - row),
                       std::min(columns, width_ - column),
                       0,
                       0,
                       row * layout_.pitch + column};
        piece.vectors = static_cast<std::int32_t>(
            (layout_.pitch * (piece.rows - 1) + piece.columns + kVectorBytes - 1) / kVectorBytes);
        const std::int32_t room =
            pixels_ - piece.first - divided_up(piece.columns, block()) * block();
        piece.in_blocks = room < 0 ? 0 : std::min(piece.rows, room / width_ + 1);
        pieces_.push_back(piece);
      }
    }
    staged_ = pieces_.size() > 1 ? 1 : kStageBytes / (pieces_[0].vectors * kVectorBytes);
    convolved_ = std::max(staged_, channels_within(pixels_));
  }

  void divide_input() {
    const ConvAxis& vertical = shape_.vertical;
    for (std::int32_t row = 0; row < std::min(vertical.stride, vertical.size); ++row) {
      sources_.push_back({row, divided_up(vertical.size - row, vertical.stride),
                          std::int64_t{row} * shape_.horizontal.size});
    }
  }

  // Puts signs of some channels where the layout has them. What is written past a row is a later
  // row's, or the slack.
  void place(const Source& source, std::int32_t channels, const float* x, const float* threshold,
             std::int8_t* planes) const {
    const ConvAxis& vertical = shape_.vertical;
    const ConvAxis& horizontal = shape_.horizontal;
    const PixelRows rows = {channels,
                            source.rows,
                            horizontal.size,
                            std::int64_t{vertical.size} * horizontal.size,
                            std::int64_t{vertical.stride} * horizontal.size,
                            layout_.plane,
                            layout_.pitch};
    const auto signs = [&](std::int32_t column) {
      return planes +
             layout_.offset(source.row + vertical.pad_begin, column + horizontal.pad_begin);
    };
    if (horizontal.stride == 1) return encode_rows(rows, x, threshold, signs(0));
    if (horizontal.stride == 2) return encode_rows_by_twos(rows, x, threshold, signs(0), signs(1));
    PixelRows others = rows;
    for (std::int32_t column = 0; column < std::min(horizontal.stride, rows.width); ++column) {
      others.width = rows.width - column;
      encode_strided(others, x + column, threshold, horizontal.stride, signs(column));
    }
  }

  template <Activation kActivation, bool kResidual>
  void convolve_and_add(std::int32_t unit, const void* workspace, const Epilogue& epilogue,
                        float* y) const {
    const std::int32_t end = last_channel(unit);
    const bool narrow = block() < kFloats;
    run_unit(unit, workspace, [&](std::int32_t co, const Piece& piece, const std::int8_t* sums) {
      const bool last = co == end;
      const ChannelEpilogue<kActivation> channel(epilogue, co);
      const float* residual = epilogue.residual;
      if (narrow) {
        return write<kFewFloats, kResidual>(co, last, piece, sums, channel, residual, y);
      }
      write<kFloats, kResidual>(co, last, piece, sums, channel, residual, y);
    });
  }

  // Calls visit(channel, piece, sums), the sums `pitch` apart from row to row, for all pixels of a
  // unit.
  template <typename Visit>
  void run_unit(std::int32_t unit, const void* workspace, Visit visit) const {
    if (taps_ == 9) return run_taps<9>(unit, workspace, visit);
    run_taps<0>(unit, workspace, visit);
  }

  template <int kTaps, typename Visit>
  void run_taps(std::int32_t unit, const void* workspace, Visit visit) const {
    // What is read past the last row of a piece is of no pixel.
    alignas(64) std::int8_t stage[kStageBytes + kFloats];
    const auto* planes = static_cast<const std::int8_t*>(workspace);
    const std::int32_t end = last_channel(unit) + 1;
    for (std::int32_t first = unit * convolved_; first < end; first += staged_) {
      const std::int32_t last = std::min(end, first + staged_);
      for (const Piece& piece : pieces_) {
        add_piece<kTaps>(first, last, piece, planes, stage);
        const std::int8_t* sums = stage;
        for (std::int32_t co = first; co < last; ++co, sums += piece.vectors * kVectorBytes) {
          visit(co, piece, sums);
        }
      }
    }
  }

  // Sums of a piece of some channels as they are computed, those between the rows too.
  template <int kTaps>
  void add_piece(std::int32_t first, std::int32_t last, const Piece& piece,
                 const std::int8_t* planes, std::int8_t* sums) const {
    switch (piece.vectors) {
      case 1:
        return add_vectors<1, kTaps>(first, last, piece, planes, sums);
      case 2:
        return add_vectors<2, kTaps>(first, last, piece, planes, sums);
      case 3:
        return add_vectors<3, kTaps>(first, last, piece, planes, sums);
      default:
        return add_vectors<4, kTaps>(first, last, piece, planes, sums);
    }
  }

  // The same, kVectors at once, of which there are no fewer.
  template <int kVectors, int kTaps>
  void add_vectors(std::int32_t first, std::int32_t last, const Piece& piece,
                   const std::int8_t* planes, std::int8_t* sums) const {
    const TapOffsets<kTaps> offsets(offsets_);
    const std::int32_t* signs = weights_->signs.data() + std::int64_t{first} * taps_;
    const std::int32_t vectors = piece.vectors;
    for (std::int32_t co = first; co < last; ++co, signs += offsets.taps()) {
      const std::int8_t* pixels = planes + planes_[static_cast<std::size_t>(co)] + piece.source;
      const std::int32_t negative = weights_->negative[static_cast<std::size_t>(co)];
      std::int32_t done = 0;
      for (; done + kVectors <= vectors; done += kVectors) {
        add_taps<kVectors>(pixels + done * kVectorBytes, offsets, signs, negative,
                           sums + done * kVectorBytes);
      }
      // Some of them a second time.
      if (done < vectors) {
        done = vectors - kVectors;
        add_taps<kVectors>(pixels + done * kVectorBytes, offsets, signs, negative,
                           sums + done * kVectorBytes);
      }
      sums += vectors * kVectorBytes;
    }
  }

  // Y of a piece, kBlock pixels at once: a block may run over the end of its row, into pixels that
  // are yet to be written, but not over the end of the last channel of a unit.
  template <int kBlock, bool kResidual, Activation kActivation>
  void write(std::int32_t co, bool last, const Piece& piece, const std::int8_t* sums,
             const ChannelEpilogue<kActivation>& channel, const float* residuals, float* y) const {
    const std::int32_t in_blocks = last || pixels_ < kBlock ? piece.in_blocks : piece.rows;
    const std::int64_t start = std::int64_t{co} * pixels_ + piece.first;
    float* out = y + start;
    const float* residual = kResidual ? residuals + start : nullptr;
    const auto some = [&](auto count, std::int32_t i) {
      write_pixels<decltype(count)::value, kResidual>(sums + i, channel, residual + i, out + i);
    };
    const std::int64_t pitch = layout_.pitch;
    const std::int64_t width = width_;
    const auto next_row = [&] {
      sums += pitch;
      out += width;
      residual += kResidual ? width : 0;
    };
    const std::int32_t columns = piece.columns;
    if (columns <= kBlock) {
      for (std::int32_t row = 0; row < in_blocks; ++row, next_row()) {
        some(std::integral_constant<int, kBlock>{}, 0);
      }
    }
    for (std::int32_t row = 0; columns > kBlock && row < in_blocks; ++row, next_row()) {
      std::int32_t i = 0;
      do {
        some(std::integral_constant<int, kBlock>{}, i);
        i += kBlock;
      } while (i < columns);
    }
    for (std::int32_t row = in_blocks; row < piece.rows; ++row, next_row()) {
      if (columns >= 4) {
        for (std::int32_t i = 0; i + 4 < columns; i += 4) {
          some(std::integral_constant<int, 4>{}, i);
        }
        some(std::integral_constant<int, 4>{}, columns - 4);
      } else {
        for (std::int32_t i = 0; i < columns; ++i) some(std::integral_constant<int, 1>{}, i);
      }
    }
  }

  ConvShape shape_;
  std::shared_ptr<const DepthwiseWeights> weights_;
  std::int32_t taps_;
  std::int32_t width_;   // of the output
  std::int32_t pixels_;  // of an output channel
  std::int32_t packed_;  // channels of a unit
  DepthwiseLayout layout_;
  std::int32_t staged_ = 1;            // output channels in a stage
  std::int32_t convolved_ = 1;         // output channels of a unit
  std::vector<std::int64_t> offsets_;  // of the taps, in a plane
  std::vector<std::int64_t> planes_;   // of every output channel
  std::vector<Piece> pieces_;          // of an output channel
  std::vector<Source> sources_;        // of an input channel
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
