// How the look-up kernels lay activations out: a byte per pixel with the bits of four channels,
// so that a tap's codes for neighbouring output pixels are neighbours, across rows too.
//
// A plane holds four channels of one group, once for each column of the kernel:
//
//     [kw, phases, rows, Wo]:  row r of phase p is row r * stride + p of the padded image, and its
//                              column c the one that output column c meets under tap column kw
//
// where phases is the vertical stride. So the codes of output pixel i, counted over all rows, lie
// at tap_offset(kh, kw) + i. Padding is part of the copies.

#ifndef BITEXPORT_KERNELS_CPU_LOOKUP_LAYOUT_H_
#define BITEXPORT_KERNELS_CPU_LOOKUP_LAYOUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"

namespace bitexport {
namespace cpu {

// The codes of the look-up kernels: four channels, and 0x80 on the padding around the image.
inline constexpr std::int32_t kChannelsPerCode = 4;
inline constexpr std::int32_t kCodesPerWord = 8;  // of signs, see core/sign_planes.h
inline constexpr std::uint8_t kPaddingCode = 0x80;

// Copies move whole vectors: so many codes may be read or written past the last one.
inline constexpr std::int64_t kCodeSlack = 64;
inline constexpr std::int64_t kSortSlack = 16;

class LookupLayout {
 public:
  explicit LookupLayout(const ConvShape& shape)
      : shape_(shape),
        planes_((shape.in_channels_per_group() + kChannelsPerCode - 1) / kChannelsPerCode),
        width_(shape.horizontal.out_size()),
        phases_(shape.vertical.kernel > 1 ? shape.vertical.stride : 1),
        rows_(shape.vertical.out_size() +
              (shape.vertical.kernel - 1) * shape.vertical.dilation / shape.vertical.stride),
        in_width_((shape.horizontal.size + shape.horizontal.stride - 1) / shape.horizontal.stride) {
    const std::int64_t first = column_shift(0);
    const std::int64_t last = column_shift(shape.horizontal.kernel - 1);
    before_ = std::max<std::int64_t>(0, -first);
    after_ = std::max<std::int64_t>(0, last + width_ - in_width_) + kCodeSlack;
    make_masks();
  }

  std::int32_t planes_per_group() const { return planes_; }
  std::int32_t phases() const { return phases_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t width() const { return width_; }
  std::int64_t in_width() const { return in_width_; }

  std::int64_t plane_bytes() const {
    return aligned(shape_.horizontal.kernel * copy_bytes() + kCodeSlack);
  }
  // Of one tap column.
  std::int64_t copy_bytes() const { return phases_ * rows_ * width_; }

  // The image's row that row 0 of a phase would be.
  std::int64_t origin(std::int32_t phase) const {
    return std::int64_t{phase} - shape_.vertical.pad_begin;
  }
  // The first row of a phase that is row y of the image or one after it.
  std::int64_t row_at(std::int32_t phase, std::int32_t y) const {
    const std::int64_t ahead = std::max<std::int64_t>(0, y - origin(phase));
    const std::int64_t stride = shape_.vertical.stride;
    return std::min(rows_, (ahead + stride - 1) / stride);
  }

  std::int64_t tap_offset(std::int32_t tap) const {
    const std::int32_t kh = tap / shape_.horizontal.kernel;
    const std::int32_t kw = tap % shape_.horizontal.kernel;
    const std::int64_t row = std::int64_t{kh} * shape_.vertical.dilation;
    const std::int64_t stride = shape_.vertical.stride;
    return kw * copy_bytes() + (row % stride * rows_ + row / stride) * width_;
  }

  // ---- A plane's scratch while it is packed: the image's columns sorted by their remainder modulo
  // the stride, [stride, H, in_width], with room around them; and where there is a stride, the
  // image [H, W] before that.

  std::int64_t sorted_offset() const { return before_; }
  // Of one remainder; sorting may write past the last code.
  std::int64_t sorted_phase() const {
    return shape_.vertical.size * in_width_ + (shape_.horizontal.stride > 1 ? kSortSlack : 0);
  }
  std::int64_t image_offset() const {
    return shape_.horizontal.stride == 1 ? before_ : before_ + sorted_bytes() + after_;
  }
  std::int64_t scratch_bytes() const {
    const std::int64_t image = std::int64_t{shape_.vertical.size} * shape_.horizontal.size;
    return aligned(image_offset() + image + std::max(after_, kCodeSlack));
  }

  // Where the sorted code lies that the first output column meets under tap column kw in row 0.
  // It may lie before the row's begin, where the mask hides it.
  std::int64_t source_offset(std::int32_t kw) const {
    return sorted_offset() + column_phase(kw) * sorted_phase() + column_shift(kw);
  }

  // Whether the image's rows follow each other without gaps in the sorted codes and in a copy.
  bool gapless() const {
    return phases_ == 1 && shape_.vertical.stride == 1 && width_ == in_width_;
  }

  // Rows that are copied at once, and the padding code for each of their pixels that is none of the
  // image's, else 0.
  std::int64_t rows_at_once() const { return gapless() ? shape_.vertical.size : 1; }
  const std::uint8_t* mask(std::int32_t kw) const { return masks_.data() + kw * mask_bytes(); }

 private:
  static std::int64_t aligned(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }

  std::int64_t mask_bytes() const { return aligned(rows_at_once() * width_ + kCodeSlack); }
  std::int64_t sorted_bytes() const { return shape_.horizontal.stride * sorted_phase(); }

  // The column of the image under tap kw of the first output column is stride * shift + phase.
  std::int64_t column_phase(std::int32_t kw) const {
    const ConvAxis& axis = shape_.horizontal;
    return (axis.input_at(0, kw) % axis.stride + axis.stride) % axis.stride;
  }
  std::int64_t column_shift(std::int32_t kw) const {
    return (shape_.horizontal.input_at(0, kw) - column_phase(kw)) / shape_.horizontal.stride;
  }

  void make_masks() {
    masks_.assign(static_cast<std::size_t>(shape_.horizontal.kernel * mask_bytes()), 0);
    for (std::int32_t kw = 0; kw < shape_.horizontal.kernel; ++kw) {
      std::uint8_t* out = masks_.data() + kw * mask_bytes();
      for (std::int64_t row = 0; row < rows_at_once(); ++row) {
        for (std::int32_t column = 0; column < width_; ++column) {
          const std::int32_t x = shape_.horizontal.input_at(column, kw);
          *out++ = x < 0 || x >= shape_.horizontal.size ? kPaddingCode : 0;
        }
      }
    }
  }

  ConvShape shape_;
  std::int32_t planes_;  // per group
  std::int32_t width_;
  std::int32_t phases_;
  std::int64_t rows_;  // of a phase
  std::int32_t in_width_;
  std::int64_t before_;
  std::int64_t after_;
  std::vector<std::uint8_t> masks_;  // [kw, rows_at_once, Wo] and slack
};

}  // namespace cpu
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CPU_LOOKUP_LAYOUT_H_
