// How kernels lay activations out: the bits of some channels as a code per pixel, pixels beside
// each other.
//
// A plane holds some channels of one group, with the padding around the image. Its columns are
// sorted by their remainder modulo the stride ("phases"),
//
//     column x of the padded image lies at (x % stride) * phase_width + x / stride,
//
// so that under every tap the pixels of an output row are neighbours, whatever stride and dilation:
//
//     tap kw of output column c reads column c * stride + kw * dilation.

#ifndef BITEXPORT_KERNELS_CPU_PLANE_LAYOUT_H_
#define BITEXPORT_KERNELS_CPU_PLANE_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "core/conv_shape.h"

namespace bitexport {
namespace cpu {

// Copies move whole vectors and may read this many codes past the last pixel.
inline constexpr std::int64_t kPlaneSlack = 64;

constexpr std::int32_t divided_up(std::int32_t a, std::int32_t b) { return (a + b - 1) / b; }

// All sizes count codes.
struct PlaneLayout {
  std::int32_t planes_per_group;
  std::int64_t phase_width;
  std::int64_t row;   // phases after each other
  std::int64_t rows;  // with those of the padding
  std::int64_t plane;

  PlaneLayout(const ConvShape& shape, std::int32_t channels_per_code)
      : planes_per_group(divided_up(shape.in_channels_per_group(), channels_per_code)),
        phase_width((padded(shape.horizontal) + shape.horizontal.stride - 1) /
                    shape.horizontal.stride),
        row(phase_width * shape.horizontal.stride),
        rows(padded(shape.vertical)),
        plane((row * rows + kPlaneSlack + 63) / 64 * 64) {}

  // Where a column of the padded image lies in its row.
  std::int64_t column_offset(std::int64_t column, std::int32_t stride) const {
    return column % stride * phase_width + column / stride;
  }

  // Where the code under a tap lies, from that under the first tap.
  std::int64_t tap_offset(const ConvShape& shape, std::int32_t tap) const {
    const std::int32_t kh = tap / shape.horizontal.kernel;
    const std::int32_t kw = tap % shape.horizontal.kernel;
    return std::int64_t{kh} * shape.vertical.dilation * row +
           column_offset(std::int64_t{kw} * shape.horizontal.dilation, shape.horizontal.stride);
  }

 private:
  static std::int64_t padded(const ConvAxis& axis) {
    return std::int64_t{axis.size} + axis.pad_begin + axis.pad_end;
  }
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_PLANE_LAYOUT_H_
