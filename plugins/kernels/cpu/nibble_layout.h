// How the AVX2 kernel lays out activations and weights: four channels a byte, pixels beside
// each other.
//
// A plane holds four channels of one group as a 4-bit code per pixel, 0x80 on the padding around
// the image. Its columns are sorted by their remainder modulo the stride ("phases"),
//
//     column x of the padded image lies at (x % stride) * phase_width + x / stride,
//
// so that under every tap the pixels of an output row are neighbours, whatever stride and dilation:
//
//     tap kw of output column c reads column c * stride + kw * dilation.

#ifndef BITEXPORT_KERNELS_CPU_NIBBLE_LAYOUT_H_
#define BITEXPORT_KERNELS_CPU_NIBBLE_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "core/conv_shape.h"

namespace bitexport {
namespace cpu {

inline constexpr std::int32_t kChannelsPerCode = 4;
inline constexpr std::uint8_t kPaddingCode = 0x80;
// Copies move whole vectors and may read this far past the last pixel.
inline constexpr std::int64_t kPlaneSlack = 64;

struct NibbleLayout {
  std::int32_t planes_per_group;
  std::int64_t phase_width;
  std::int64_t row_bytes;
  std::int64_t rows;
  std::int64_t plane_bytes;

  explicit NibbleLayout(const ConvShape& shape)
      : planes_per_group((shape.in_channels_per_group() + kChannelsPerCode - 1) / kChannelsPerCode),
        phase_width((padded(shape.horizontal) + shape.horizontal.stride - 1) /
                    shape.horizontal.stride),
        row_bytes(phase_width * shape.horizontal.stride),
        rows(padded(shape.vertical)),
        plane_bytes(rounded(row_bytes * rows + kPlaneSlack)) {}

  // Where a column of the padded image lies in its row.
  std::int64_t column_offset(std::int64_t column, std::int32_t stride) const {
    return column % stride * phase_width + column / stride;
  }

 private:
  static std::int64_t padded(const ConvAxis& axis) {
    return std::int64_t{axis.size} + axis.pad_begin + axis.pad_end;
  }
  static std::int64_t rounded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_NIBBLE_LAYOUT_H_
