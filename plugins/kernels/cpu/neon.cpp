// The look-up kernel with NEON.
//
// By instruction counts, for 16 pixels, two output channels and 12 input channels, 384
// multiplications: three TBL, three ADD and one USRA, hence 55 multiplications an instruction, or
// 110 a cycle on two vector pipes. EOR, CNT and ADD on words of 128 bits come to 43 an instruction,
// carry-save adders before CNT to 33, the products of the SMMLA and SDOT extensions to 32 and 16.

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/lookup_weights.h"
#include "kernels/cpu/neon_compare.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/streamed.h"
#include "kernels/cpu/variants.h"

// After what they need.
#include "kernels/cpu/lookup_inner.h"
#include "kernels/cpu/lookup_pack.h"
#include "kernels/cpu/lookup_plan.h"

namespace bitexport {
namespace cpu {
namespace {

// 16 bytes, of as many pixels.
struct Vector {
  using Bytes = uint8x16_t;
  static constexpr std::int32_t kPixels = 16;

  static Bytes zero() { return vdupq_n_u8(0); }
  static Bytes load(const std::uint8_t* bytes) { return vld1q_u8(bytes); }
  // From and to anywhere.
  static void copy(const std::uint8_t* from, std::uint8_t* to) { vst1q_u8(to, vld1q_u8(from)); }
  static Bytes repeat(const std::uint8_t* table) { return vld1q_u8(table); }
  // 0 for an index past the table, such as the padding's.
  static Bytes look_up(Bytes table, Bytes codes) { return vqtbl1q_u8(table, codes); }
  static Bytes add(Bytes a, Bytes b) { return vaddq_u8(a, b); }
  // NEON shifts bytes: the sums of the second channel are there at once.
  static Bytes add_shifted(Bytes sums, Bytes a) { return vsraq_n_u8(sums, a, 4); }

  template <bool kFirst>
  static void add_counts(Bytes sums, Bytes second, std::uint16_t* channel0,
                         std::uint16_t* channel1) {
    add_to<kFirst>(channel0, vsubq_u8(sums, vshlq_n_u8(second, 4)));
    add_to<kFirst>(channel1, second);
  }

  // Counters are in order.
  static void interleave(std::uint16_t*) {}

  static void pack_plane(const ConvShape& shape, const LookupLayout& layout, const float* x,
                         std::int32_t channels, const float* threshold, std::uint8_t* scratch,
                         std::uint8_t* plane) {
    pack_codes<Vector>(shape, layout, x, channels, threshold, scratch, plane);
  }

  static void pack_plane_of_signs(const ConvShape& shape, const LookupLayout& layout,
                                  const std::uint32_t* words, std::int32_t nibble,
                                  std::uint8_t* scratch, std::uint8_t* plane) {
    pack_codes_of_signs<Vector>(shape, layout, words, nibble, scratch, plane);
  }

  static void extract(const std::uint32_t* words, std::int64_t pixels, std::int32_t nibble,
                      std::uint8_t* codes) {
    const int32x4_t shift = vdupq_n_s32(-kChannelsPerCode * nibble);
    const auto some = [&](std::int64_t i) {
      const auto at = [&](int j) { return vshlq_u32(vld1q_u32(words + i + 4 * j), shift); };
      const uint16x8_t low = vcombine_u16(vmovn_u32(at(0)), vmovn_u32(at(1)));
      const uint16x8_t high = vcombine_u16(vmovn_u32(at(2)), vmovn_u32(at(3)));
      const Bytes bytes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
      vst1q_u8(codes + i, vandq_u8(bytes, vdupq_n_u8(15)));
    };
    for_pixels<kPixels>(pixels, some,
                        [&](std::int64_t i) { codes[i] = code_in(words[i], nibble); });
  }

  static void encode(const float* x, std::int64_t pixels, std::int32_t channels,
                     const float* threshold, std::uint8_t* codes) {
    const auto some = [&](std::int64_t i) {
      Bytes code = zero();
      for (std::int32_t j = 0; j < channels; ++j) {
        const Bytes above = neon::at_least(x + j * pixels + i, threshold[j]);
        code = vorrq_u8(code, vandq_u8(above, vdupq_n_u8(static_cast<std::uint8_t>(1 << j))));
      }
      vst1q_u8(codes + i, code);
    };
    for_pixels<kPixels>(pixels, some, [&](std::int64_t i) {
      codes[i] = code_of(x + i, pixels, channels, threshold);
    });
  }

  static void split(const std::uint8_t* codes, std::uint8_t* even, std::uint8_t* odd) {
    const uint8x8x2_t apart = vld2_u8(codes);
    vst1_u8(even, apart.val[0]);
    vst1_u8(odd, apart.val[1]);
  }

  static void merge(const std::uint8_t* codes, const std::uint8_t* mask, std::int64_t count,
                    std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; i += kPixels) {
      vst1q_u8(out + i, vorrq_u8(vld1q_u8(codes + i), vld1q_u8(mask + i)));
    }
  }

 private:
  template <bool kFirst>
  static void add_to(std::uint16_t* counters, Bytes counts) {
    const auto add = [](std::uint16_t* to, uint8x8_t eight) {
      vst1q_u16(to, kFirst ? vmovl_u8(eight) : vaddw_u8(vld1q_u16(to), eight));
    };
    add(counters, vget_low_u8(counts));
    add(counters + 8, vget_high_u8(counts));
  }
};

}  // namespace

std::unique_ptr<const BinaryConvKernel> make_neon(const ConvShape& shape,
                                                  const std::uint32_t* weight) {
  return std::make_unique<LookupKernel<Vector>>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport
