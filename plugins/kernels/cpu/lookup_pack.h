// Packs activations into codes of four channels; see lookup_layout.h.
//
// To be included once in a file per instruction set, between the lines of target.h. It has a type
// with
//
//     static void encode(const float* x, std::int64_t pixels, std::int32_t channels,
//                        const float* threshold, std::uint8_t* codes)
//
// for x [channels, pixels] and threshold [channels], which sets bit j of codes[i] where channel j's
// pixel i is at or above its threshold,
//
//     static void split(const std::uint8_t* codes, std::uint8_t* even, std::uint8_t* odd)
//
// which takes 16 codes apart, and
//
//     static void merge(const std::uint8_t* codes, const std::uint8_t* mask, std::int64_t count,
//                       std::uint8_t* out)
//
// which writes codes | mask, in whole vectors of at most kCodeSlack bytes, and
//
//     static void extract(const std::uint32_t* words, std::int64_t pixels, std::int32_t nibble,
//                         std::uint8_t* codes)
//
// which writes bits 4 * nibble to 4 * nibble + 3 of every word.

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

// Sorts the codes of an image [H, W] by the remainder of their columns: [stride, H, in_width].
template <typename Encoder>
void sort_columns(const ConvShape& shape, const LookupLayout& layout, const std::uint8_t* codes,
                  std::uint8_t* sorted) {
  const std::int32_t width = shape.horizontal.size;
  const std::int32_t stride = shape.horizontal.stride;
  for (std::int32_t row = 0; row < shape.vertical.size; ++row) {
    const std::uint8_t* in = codes + std::int64_t{row} * width;
    std::uint8_t* out = sorted + row * layout.in_width();
    if (stride == 2) {
      // What is written past a row is written again by the next one.
      for (std::int32_t i = 0; i < width; i += 16) {
        Encoder::split(in + i, out + i / 2, out + layout.sorted_phase() + i / 2);
      }
      continue;
    }
    for (std::int32_t first = 0; first < stride; ++first) {
      std::uint8_t* to = out + first * layout.sorted_phase();
      for (std::int32_t column = first; column < width; column += stride) *to++ = in[column];
    }
  }
}

// The code of one pixel in a word of signs.
std::uint8_t code_in(std::uint32_t word, std::int32_t nibble) {
  return static_cast<std::uint8_t>(word >> (kChannelsPerCode * nibble) & 15u);
}

// Lays the codes of an image out, which lie at layout.image_offset() of the scratch.
// scratch: layout.scratch_bytes(). plane: layout.plane_bytes().
template <typename Encoder>
void lay_out(const ConvShape& shape, const LookupLayout& layout, std::uint8_t* scratch,
             std::uint8_t* plane) {
  const ConvAxis& vertical = shape.vertical;
  const std::uint8_t* image = scratch + layout.image_offset();
  if (shape.horizontal.stride > 1) {
    sort_columns<Encoder>(shape, layout, image, scratch + layout.sorted_offset());
  }
  const std::int64_t width = layout.width();
  const std::int64_t step = layout.rows_at_once();
  for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
    const std::uint8_t* source = scratch + layout.source_offset(kw);
    const std::uint8_t* mask = layout.mask(kw);
    // In the order of the memory: each copy may write past its end.
    for (std::int32_t phase = 0; phase < layout.phases(); ++phase) {
      std::uint8_t* out = plane + kw * layout.copy_bytes() + phase * layout.rows() * width;
      const std::int64_t begin = layout.row_at(phase, 0);
      const std::int64_t end = layout.row_at(phase, vertical.size);
      std::memset(out, kPaddingCode, static_cast<std::size_t>(begin * width));
      for (std::int64_t row = begin; row < end; row += step) {
        const std::int64_t y = layout.origin(phase) + row * vertical.stride;
        Encoder::merge(source + y * layout.in_width(), mask, std::min(step, end - row) * width,
                       out + row * width);
      }
      std::memset(out + end * width, kPaddingCode,
                  static_cast<std::size_t>((layout.rows() - end) * width));
    }
  }
}

// x: `channels` (at most 4) images [H, W], one after the other; threshold [channels].
template <typename Encoder>
void pack_codes(const ConvShape& shape, const LookupLayout& layout, const float* x,
                std::int32_t channels, const float* threshold, std::uint8_t* scratch,
                std::uint8_t* plane) {
  Encoder::encode(x, std::int64_t{shape.vertical.size} * shape.horizontal.size, channels, threshold,
                  scratch + layout.image_offset());
  lay_out<Encoder>(shape, layout, scratch, plane);
}

// words: of signs, [H, W].
template <typename Encoder>
void pack_codes_of_signs(const ConvShape& shape, const LookupLayout& layout,
                         const std::uint32_t* words, std::int32_t nibble, std::uint8_t* scratch,
                         std::uint8_t* plane) {
  Encoder::extract(words, std::int64_t{shape.vertical.size} * shape.horizontal.size, nibble,
                   scratch + layout.image_offset());
  lay_out<Encoder>(shape, layout, scratch, plane);
}

}  // namespace
}  // namespace cpu
}  // namespace bitexport
