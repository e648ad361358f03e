// Packs activations into codes of four channels; see plane_layout.h.
//
// To be included once in a file per instruction set, between the lines of target.h. It has a type
// with
//
//     static void encode(const float* x, std::int64_t pixels, std::int32_t channels,
//                        const float* threshold, std::uint8_t* codes)
//
// for x [channels, pixels] and threshold [channels], which sets bit j of codes[i] where channel j's
// pixel i is at or above its threshold, and
//
//     static void split(const std::uint8_t* codes, std::uint8_t* even, std::uint8_t* odd)
//
// which takes 16 codes apart.

namespace bitexport {
namespace cpu {
namespace {

// Calls some(i) for every kPixels of `pixels`, the last ones perhaps a second time, or one(i) for
// each of fewer.
template <std::int64_t kPixels, typename Some, typename One>
void for_pixels(std::int64_t pixels, Some some, One one) {
  std::int64_t i = 0;
  for (; i + kPixels <= pixels; i += kPixels) some(i);
  if (i == pixels) return;
  if (pixels >= kPixels) return some(pixels - kPixels);
  for (; i < pixels; ++i) one(i);
}

// Of one pixel.
std::uint8_t code_of(const float* x, std::int64_t pixels, std::int32_t channels,
                     const float* threshold) {
  unsigned code = 0;
  for (std::int32_t j = 0; j < channels; ++j) {
    code |= x[j * pixels] >= threshold[j] ? 1u << j : 0u;
  }
  return static_cast<std::uint8_t>(code);
}

// Sorts a row's codes by the phase of their columns.
template <typename Encoder>
void scatter(const std::uint8_t* codes, std::int32_t width, std::int32_t stride,
             std::int32_t pad_begin, const PlaneLayout& layout, std::uint8_t* row) {
  const auto target = [&](std::int32_t column) {
    return row + layout.column_offset(std::int64_t{column} + pad_begin, stride);
  };
  std::int32_t done = 0;
  if (stride == 2) {
    for (; done + 16 <= width; done += 16) {
      Encoder::split(codes + done, target(done), target(done + 1));
    }
  }
  // Column by column of one phase, so that the writes are neighbours.
  for (std::int32_t first = done; first < done + stride && first < width; ++first) {
    std::uint8_t* out = target(first);
    for (std::int32_t column = first; column < width; column += stride) *out++ = codes[column];
  }
}

// x: `channels` (at most 4) images [H, W], one after the other; threshold [channels].
// codes: scratch of H * W bytes and kPlaneSlack. plane: layout.plane.
template <typename Encoder>
void pack_codes(const ConvShape& shape, const PlaneLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* codes,
                std::uint8_t* plane) {
  const std::int32_t height = shape.vertical.size;
  const std::int32_t width = shape.horizontal.size;
  const std::int32_t stride = shape.horizontal.stride;
  Encoder::encode(x, std::int64_t{height} * width, channels, threshold, codes);
  std::memset(plane, kPaddingCode, static_cast<std::size_t>(layout.plane));
  for (std::int32_t row = 0; row < height; ++row) {
    std::uint8_t* out = plane + (row + shape.vertical.pad_begin) * layout.row;
    const std::uint8_t* in = codes + std::int64_t{row} * width;
    if (stride == 1) {
      std::memcpy(out + shape.horizontal.pad_begin, in, static_cast<std::size_t>(width));
      continue;
    }
    scatter<Encoder>(in, width, stride, shape.horizontal.pad_begin, layout, out);
  }
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
