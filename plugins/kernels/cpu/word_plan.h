// The word kernel: 64 channels a word, xor and popcount over the taps that do not fall on padding.
//
//     accumulator = C * n_valid - 2 * sum over valid taps of popcount(a_t ^ w_t)
//
// Activations lie as [H, W, group, words] of 64 bits. A unit is one row: of the image to pack, of
// the output to convolve.
//
// To be included once, in a file per instruction set, after the headers of the standard library.

#include "kernels/cpu/channel_epilogue.h"

namespace bitexport {
namespace cpu {
namespace {

constexpr std::int32_t kWordBits = 64;
constexpr std::int32_t kSigns = 32;  // in a word that is handed on

std::int32_t wide_words(std::int32_t channels) { return (channels + kWordBits - 1) / kWordBits; }

std::int32_t popcount64(std::uint64_t word) {
  return static_cast<std::int32_t>(__builtin_popcountll(word));
}

using Weights = std::vector<std::uint64_t>;  // [Co, kh, kw, words]

Weights widen(const ConvShape& shape, const std::uint32_t* weight) {
  const std::int32_t narrow = shape.words_per_tap();
  const std::int32_t wide = wide_words(shape.in_channels_per_group());
  const std::int64_t taps = std::int64_t{shape.out_channels} * shape.taps();
  Weights words(static_cast<std::size_t>(taps * wide));
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    for (std::int32_t i = 0; i < narrow; ++i) {
      const std::uint64_t word = weight[tap * narrow + i];
      words[static_cast<std::size_t>(tap * wide + i / 2)] |= word << (i % 2 * 32);
    }
  }
  return words;
}

class WordPlan final : public BinaryConvPlan {
 public:
  WordPlan(const ConvShape& shape, std::shared_ptr<const Weights> weights)
      : shape_(shape),
        words_(wide_words(shape.in_channels_per_group())),
        weights_(std::move(weights)) {}

  std::size_t workspace_bytes() const override {
    return static_cast<std::size_t>(pixel_words() * shape_.vertical.size * shape_.horizontal.size) *
           sizeof(std::uint64_t);
  }
  std::int32_t pack_units() const override { return shape_.vertical.size; }
  std::int32_t conv_units() const override { return shape_.vertical.out_size(); }

  void pack(std::int32_t row, const float* x, const float* threshold,
            void* workspace) const override {
    const std::int32_t width = shape_.horizontal.size;
    const std::int64_t plane = std::int64_t{shape_.vertical.size} * width;
    auto* out = static_cast<std::uint64_t*>(workspace) + pixel_words() * row * width;
    for (std::int64_t i = 0; i < pixel_words() * width; ++i) out[i] = 0;
    for (std::int32_t channel = 0; channel < shape_.in_channels; ++channel) {
      const std::int32_t group = channel / shape_.in_channels_per_group();
      const std::int32_t bit = channel % shape_.in_channels_per_group();
      const float* in = x + channel * plane + std::int64_t{row} * width;
      std::uint64_t* word = out + group * words_ + bit / kWordBits;
      for (std::int32_t column = 0; column < width; ++column) {
        const std::uint64_t one = in[column] >= threshold[channel] ? 1 : 0;
        word[column * pixel_words()] |= one << (bit % kWordBits);
      }
    }
  }

  void pack_signs(std::int32_t row, const std::uint32_t* words, void* workspace) const override {
    const std::int32_t width = shape_.horizontal.size;
    const std::int64_t plane = std::int64_t{shape_.vertical.size} * width;
    auto* out = static_cast<std::uint64_t*>(workspace) + pixel_words() * row * width;
    const std::uint32_t* in = words + std::int64_t{row} * width;
    for (std::int32_t column = 0; column < width; ++column) {
      for (std::int32_t i = 0; i < shape_.words_per_tap(); ++i) {
        const std::uint64_t word = in[i * plane + column];
        if (i % 2 == 0) *out = word;
        if (i % 2 == 1) *out |= word << 32;
        if (i % 2 == 1 || i + 1 == shape_.words_per_tap()) ++out;
      }
    }
  }

  void convolve(std::int32_t row, const void* workspace, const Epilogue& epilogue,
                float* y) const override {
    with_activation(epilogue, [&](auto activation) {
      for_row(row, workspace, [&](std::int32_t co, std::int64_t index, std::int32_t accumulator) {
        const ChannelEpilogue<decltype(activation)::value> channel(epilogue, co);
        const float value = channel.sum(static_cast<float>(accumulator));
        y[index] = channel.activated(
            epilogue.residual == nullptr ? value : value + epilogue.residual[index]);
      });
    });
  }

  std::int32_t sign_units() const override { return conv_units(); }

  void convolve_to_signs(std::int32_t row, const void* workspace, const SignBounds& bounds,
                         std::uint32_t* words) const override {
    const auto* activations = static_cast<const std::uint64_t*>(workspace);
    const std::int32_t width = shape_.horizontal.out_size();
    const std::int64_t pixels = std::int64_t{shape_.vertical.out_size()} * width;
    for (std::int32_t first = 0; first < shape_.out_channels; first += kSigns) {
      std::uint32_t* out = words + first / kSigns * pixels + std::int64_t{row} * width;
      const std::int32_t channels = std::min(kSigns, shape_.out_channels - first);
      for (std::int32_t column = 0; column < width; ++column) {
        std::uint32_t word = bounds.flips(first / kSigns);
        for (std::int32_t i = 0; i < channels; ++i) {
          const std::int32_t accumulator = accumulator_at(activations, first + i, row, column);
          word ^= accumulator >= bounds.bound(first + i) ? 1u << i : 0u;
        }
        out[column] = word;
      }
    }
  }

  void accumulate(std::int32_t row, const void* workspace,
                  std::int32_t* accumulators) const override {
    for_row(row, workspace, [&](std::int32_t, std::int64_t index, std::int32_t accumulator) {
      accumulators[index] = accumulator;
    });
  }

 private:
  std::int64_t pixel_words() const { return std::int64_t{shape_.group} * words_; }

  // Calls store(co, index in [Co, Ho, Wo], accumulator) for an output row of every channel.
  template <typename Store>
  void for_row(std::int32_t row, const void* workspace, Store store) const {
    const auto* activations = static_cast<const std::uint64_t*>(workspace);
    const std::int32_t out_height = shape_.vertical.out_size();
    const std::int32_t out_width = shape_.horizontal.out_size();
    for (std::int32_t co = 0; co < shape_.out_channels; ++co) {
      const std::int64_t start = (std::int64_t{co} * out_height + row) * out_width;
      for (std::int32_t column = 0; column < out_width; ++column) {
        store(co, start + column, accumulator_at(activations, co, row, column));
      }
    }
  }

  std::int32_t accumulator_at(const std::uint64_t* activations, std::int32_t co, std::int32_t row,
                              std::int32_t column) const {
    const TapRange rows = shape_.vertical.valid_taps(row);
    const TapRange columns = shape_.horizontal.valid_taps(column);
    const std::int32_t group = co / shape_.out_channels_per_group();
    std::int32_t mismatches = 0;
    for (std::int32_t kh = rows.first; kh < rows.last; ++kh) {
      const std::int64_t h = shape_.vertical.input_at(row, kh);
      for (std::int32_t kw = columns.first; kw < columns.last; ++kw) {
        const std::int64_t w = shape_.horizontal.input_at(column, kw);
        const std::uint64_t* a = activations + (h * shape_.horizontal.size + w) * pixel_words() +
                                 std::int64_t{group} * words_;
        const std::int64_t tap =
            (std::int64_t{co} * shape_.vertical.kernel + kh) * shape_.horizontal.kernel + kw;
        const std::uint64_t* weight = weights_->data() + tap * words_;
        for (std::int32_t i = 0; i < words_; ++i) mismatches += popcount64(a[i] ^ weight[i]);
      }
    }
    return shape_.in_channels_per_group() * rows.count() * columns.count() - 2 * mismatches;
  }

  ConvShape shape_;
  std::int32_t words_;  // of one tap of one group
  std::shared_ptr<const Weights> weights_;
};

class WordKernel final : public BinaryConvKernel {
 public:
  WordKernel(const ConvShape& shape, const std::uint32_t* weight)
      : weights_(std::make_shared<const Weights>(widen(shape, weight))) {}

  std::unique_ptr<const BinaryConvPlan> plan(const ConvShape& shape) const override {
    return std::make_unique<WordPlan>(shape, weights_);
  }

 private:
  std::shared_ptr<const Weights> weights_;
};

}  // namespace

}  // namespace cpu
}  // namespace bitexport
