// What a convolution kernel is told: filled in by plan.cpp on the host, passed by value.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_ARGS_H_
#define BITEXPORT_KERNELS_CUDA_CONV_ARGS_H_

#include <cstdint>

#include "core/conv_shape.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/host_device.h"

namespace bitexport {
namespace cuda {

// How the epilogue writes Y.
enum class Output { kFloatNchw, kHalfNchw, kHalfNhwc8, kAccumulators };

// What leaves the accumulators, and where to.
struct EpilogueArgs {
  const std::int32_t* corrections;  // [border classes, Co]; null for real-valued kinds
  const float* scale;
  const float* bias;
  const void* residual;  // as y, or null
  void* y;
  Output output;
  ActivationArgs activation;  // of kBinary
};

// Code words and their centroids.
struct CodebookArgs {
  const std::uint16_t* centroids;  // [K, depth], halves
  std::int64_t words_per_row;
  FastDivider depth;
  std::int32_t code_bits;
};

// An implicit GEMM: rows are output pixels, columns the output channels of a group. Along K run
// planes (terms of a float, slowest), taps, and units of one pixel (fastest).
struct ConvArgs {
  ConvShape shape;
  std::int32_t out_height;
  std::int32_t out_width;
  std::int64_t pixels;  // rows: N * Ho * Wo
  std::int32_t row_tiles;
  std::int32_t column_tiles;  // of one group

  // A, in bytes: what one group of one pixel holds, and how far apart things lie. A unit is what
  // one copy moves, kChunkBytes.
  const std::uint8_t* a;
  std::int64_t batch_stride;
  std::int64_t row_stride;
  std::int64_t pixel_stride;
  std::int64_t group_stride;
  std::int64_t plane_stride;
  std::int32_t group_bytes;
  std::int32_t units;    // of one tap and plane along K
  std::int32_t k_units;  // of all of K
  std::int32_t k_tiles;
  FastDivider units_divider;
  FastDivider taps_divider;
  FastDivider kernel_width_divider;

  // B: sign words or code words as given, or halves [Co, taps, units * 8] (WeightSource::kDense).
  const void* b;
  CodebookArgs codebook;

  EpilogueArgs epilogue;
};

// Classes of output pixels by their valid taps, for one axis: 2 * kernel - first - last.
//
// Along the axis both ends of the range of taps only ever fall, so two outputs have the same range
// exactly where the sum of the ends is the same. Numbers run from 0 to 2 * kernel; some stay
// unused. Unlike core/border_classes.h this needs no table from pixel to class.
BITEXPORT_HD std::int32_t axis_border_class(const ConvAxis& axis, TapRange taps) {
  return 2 * axis.kernel - taps.first - taps.last;
}
BITEXPORT_HD std::int32_t axis_border_classes(const ConvAxis& axis) { return 2 * axis.kernel + 1; }

// Class of output pixel (row, column).
BITEXPORT_HD std::int32_t border_class(const ConvShape& shape, std::int32_t row,
                                       std::int32_t column) {
  return axis_border_class(shape.vertical, shape.vertical.valid_taps(row)) *
             axis_border_classes(shape.horizontal) +
         axis_border_class(shape.horizontal, shape.horizontal.valid_taps(column));
}

// Channels of a pixel in NHWC8.
BITEXPORT_HD std::int64_t padded_channels(std::int32_t channels) {
  return round_up<std::int64_t>(channels, 8);
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_ARGS_H_
