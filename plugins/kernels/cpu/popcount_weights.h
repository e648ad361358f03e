// The weights of the popcount kernel: as many channels a word as the word has bits.

#ifndef BITEXPORT_KERNELS_CPU_POPCOUNT_WEIGHTS_H_
#define BITEXPORT_KERNELS_CPU_POPCOUNT_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/border_classes.h"
#include "core/conv_shape.h"
#include "core/packing.h"
#include "kernels/cpu/plane_layout.h"

namespace bitexport {
namespace cpu {

// Output channels whose words lie beside each other.
inline constexpr std::int32_t kWeightBlock = 8;

template <typename Word>
inline constexpr std::int32_t kWordChannels = 8 * static_cast<std::int32_t>(sizeof(Word));

// Words of the op, or of signs, in one of the kernel.
template <typename Word>
inline constexpr std::int32_t kSourceWords = kWordChannels<Word> / kWordChannels<std::uint32_t>;

// Words [group, blocks, planes * kh * kw, kWeightBlock].
template <typename Word>
struct PopcountWeights {
  std::int32_t blocks;  // of output channels in a group, the last one filled up with zeros
  std::int32_t rows;    // planes * kh * kw
  std::vector<Word> words;
  std::vector<std::uint32_t> source;  // as the op has them, for the border

  PopcountWeights(const ConvShape& shape, const std::uint32_t* weight)
      : blocks(divided_up(shape.out_channels_per_group(), kWeightBlock)),
        rows(divided_up(shape.in_channels_per_group(), kWordChannels<Word>) * shape.taps()),
        words(static_cast<std::size_t>(std::int64_t{shape.group} * blocks * rows * kWeightBlock)),
        source(weight, weight + shape.weight_words()) {
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      const std::int32_t within = co % shape.out_channels_per_group();
      Word* column = words.data() + within % kWeightBlock +
                     block_offset(co / shape.out_channels_per_group(), within / kWeightBlock);
      for (std::int32_t tap = 0; tap < shape.taps(); ++tap) {
        for (std::int32_t i = 0; i < shape.words_per_tap(); ++i) {
          const Word word =
              weight[(std::int64_t{co} * shape.taps() + tap) * shape.words_per_tap() + i];
          const std::int64_t row = std::int64_t{i / kSourceWords<Word>} * shape.taps() + tap;
          column[row * kWeightBlock] |= word
                                        << (i % kSourceWords<Word> * kWordChannels<std::uint32_t>);
        }
      }
    }
  }

  const Word* block(std::int32_t group, std::int32_t index) const {
    return words.data() + block_offset(group, index);
  }

 private:
  std::int64_t block_offset(std::int32_t group, std::int32_t index) const {
    return (std::int64_t{group} * blocks + index) * rows * kWeightBlock;
  }
};

// What stands for the padding, for images of one size; see core/border_classes.h.
struct BorderCorrections {
  // Entries that one permutation of a vector chooses from.
  static constexpr std::int32_t kVector = 16;

  std::int32_t pitch;                     // of a channel's corrections, a multiple of kVector
  std::vector<std::int32_t> class_of;     // [output pixels, and `slack` more]
  std::vector<std::int32_t> corrections;  // [Co, pitch]

  BorderCorrections(const ConvShape& shape, const std::uint32_t* weight, std::int32_t slack) {
    const BorderClasses classes(shape);
    for (std::int32_t row = 0; row < shape.vertical.out_size(); ++row) {
      for (std::int32_t column = 0; column < shape.horizontal.out_size(); ++column) {
        class_of.push_back(classes.class_of(row, column));
      }
    }
    class_of.resize(class_of.size() + static_cast<std::size_t>(slack));
    pitch = divided_up(classes.count(), kVector) * kVector;
    corrections.resize(static_cast<std::size_t>(std::int64_t{shape.out_channels} * pitch));
    const std::vector<std::int32_t> by_class = xor_corrections(shape, classes, weight);
    const auto channels = static_cast<std::size_t>(shape.out_channels);
    for (std::size_t i = 0; i < by_class.size(); ++i) {
      corrections[i % channels * static_cast<std::size_t>(pitch) + i / channels] = by_class[i];
    }
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_POPCOUNT_WEIGHTS_H_
