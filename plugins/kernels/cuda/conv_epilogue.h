// From the accumulators of a block to Y: exact correction, scale, bias, residual, activation,
// rounding.
//
// With valid taps t, C channels of a group, sign words a (0 at padding) and w,
//
//   dot = correction + 4 * sum popc(a_t & w_t) - 2 * sum popc(a_t)              kAndPopc
//       = correction + 2 * sum over bits of a_t * (+-w_t), a in {0, 1}          kBytes
//       = correction + 2 * sum over all t of popc(w_t) - 2 * sum popc(a_t ^ w_t)   kXorPopc
//   correction = sum over valid t of (C - 2 * popc(w_t)).
//
// The prologue (binarize.h) writes a table of what does not depend on a. Sums wrap at 2^32 on the
// way; the result fits.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_EPILOGUE_H_
#define BITEXPORT_KERNELS_CUDA_CONV_EPILOGUE_H_

#include <cstdint>

#include "kernels/cuda/conv_block.h"
#include "kernels/cuda/conv_weights.h"

namespace bitexport {
namespace cuda {

// ---- One element -------------------------------------------------------------------------------

// Accumulator `i` of a fragment as it goes through the staging tile, without its correction.
template <typename Block>
BITEXPORT_BLOCK std::uint32_t staged_value(const typename Block::Thread& thread, int m, int n,
                                           int i) {
  const auto c = thread.c[m][n][i];
  if constexpr (Block::kOp == MmaOp::kXorPopc) {
    return 0u - 2u * static_cast<std::uint32_t>(c);
  } else if constexpr (Block::kOp == MmaOp::kAndPopc) {
    return 4u * static_cast<std::uint32_t>(c) - 2u * static_cast<std::uint32_t>(thread.ones[m][i]);
  } else if constexpr (Block::kOp == MmaOp::kBytes) {
    return 2u * static_cast<std::uint32_t>(c);
  } else {
    return bits_of_float(c);
  }
}

BITEXPORT_BLOCK std::int32_t corrected(std::uint32_t value, std::int32_t correction) {
  return static_cast<std::int32_t>(value + static_cast<std::uint32_t>(correction));
}

template <typename Block>
BITEXPORT_BLOCK float sum_of(std::uint32_t value, std::int32_t correction) {
  if constexpr (Block::kBinary) {
    return static_cast<float>(corrected(value, correction));
  } else {
    return float_of_bits(value);
  }
}

BITEXPORT_BLOCK std::uint16_t half_at(const void* halves, std::int64_t index) {
  return static_cast<const std::uint16_t*>(halves)[index];
}

// What one element is made of.
struct Element {
  std::int64_t index;  // in Y and the residual
  std::int32_t channel;
  std::uint32_t value;
  std::int32_t correction;
  float scale;
  float bias;
  float residual;
};

// Reads what belongs to a channel and to an element of an NCHW tensor.
template <typename Block>
BITEXPORT_BLOCK void read_element(const EpilogueArgs& args, const std::int32_t* corrections,
                                  std::int32_t channel, Element* element) {
  element->correction = Block::kBinary ? corrections[channel] : 0;
  element->channel = channel;
  element->residual = 0.0f;
  if (Block::kBinary && args.output == Output::kAccumulators) return;
  element->scale = args.scale[channel];
  element->bias = args.bias[channel];
  if (args.residual == nullptr) return;
  element->residual = args.output == Output::kFloatNchw
                          ? static_cast<const float*>(args.residual)[element->index]
                          : float_of_half(half_at(args.residual, element->index));
}

template <typename Block>
BITEXPORT_BLOCK void write_element(const EpilogueArgs& args, const Element& element) {
  if (Block::kBinary && args.output == Output::kAccumulators) {
    static_cast<std::int32_t*>(args.y)[element.index] =
        corrected(element.value, element.correction);
    return;
  }
  float y = multiply_then_add(element.scale, sum_of<Block>(element.value, element.correction),
                              element.bias);
  if (args.residual != nullptr) y += element.residual;
  if (Block::kBinary) y = activated(args.activation, element.channel, y);
  if (args.output == Output::kFloatNchw) {
    static_cast<float*>(args.y)[element.index] = y;
  } else {
    static_cast<std::uint16_t*>(args.y)[element.index] = half_of_float(y);
  }
}

// ---- A warp's 32 x 32 slice --------------------------------------------------------------------

template <typename Block, typename Exec>
BITEXPORT_BLOCK void stage_slice(Exec& exec, std::uint32_t staging_at, int slice, int tid,
                                 const typename Block::Thread& thread) {
  const int group = tid % kLanes / 4;
  BITEXPORT_UNROLL
  for (int tile = 0; tile < kLanes / kMmaRows; ++tile) {
    BITEXPORT_UNROLL
    for (int n = 0; n < Block::kColumnTiles; ++n) {
      BITEXPORT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = tile * kMmaRows + i / 2 * 8 + group;
        const int column = n * kMmaColumns + tid % 4 * 2 + i % 2;
        exec.store(tid, staging_at + staged(row, column),
                   staged_value<Block>(thread, slice * (kLanes / kMmaRows) + tile, n, i));
      }
    }
  }
}

// What a slice is: its first row in the block, its first output channel, and how many of its 32
// channels there are (perhaps 0 or less).
struct Slice {
  std::uint32_t staging_at;
  int first_row;
  std::int32_t first_channel;  // over all groups
  std::int32_t channels;
};

template <typename Block, typename Exec>
BITEXPORT_BLOCK RowTarget target_of(Exec& exec, int tid, int row) {
  return exec.template load<RowTarget>(
      tid, Block::kTargetsAt + static_cast<std::uint32_t>(row * int{sizeof(RowTarget)}));
}

// A lane is a pixel; 32 neighbouring pixels of one channel are written at once. Four channels are
// read before the first is written: a compiler does not move reads past writes that may touch them.
template <typename Block, typename Exec>
BITEXPORT_BLOCK void store_slice_nchw(const ConvArgs& args, Exec& exec, const Slice& slice,
                                      int tid) {
  constexpr int kAtOnce = 4;
  const int lane = tid % kLanes;
  const RowTarget target = target_of<Block>(exec, tid, slice.first_row + lane);
  if (target.offset < 0) return;
  const std::int64_t plane = std::int64_t{1} * args.out_height * args.out_width;
  const std::int32_t* corrections =
      args.epilogue.corrections + std::int64_t{target.border_class} * args.shape.out_channels;
  const int count = slice.channels < kLanes ? slice.channels : kLanes;
  BITEXPORT_NO_UNROLL
  for (int first = 0; first < count; first += kAtOnce) {
    Element elements[kAtOnce] = {};
    BITEXPORT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= count) continue;
      const std::int32_t channel = slice.first_channel + first + i;
      elements[i].index = target.offset + channel * plane;
      elements[i].value =
          exec.template load<std::uint32_t>(tid, slice.staging_at + staged(lane, first + i));
      read_element<Block>(args.epilogue, corrections, channel, &elements[i]);
    }
    BITEXPORT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) write_element<Block>(args.epilogue, elements[i]);
    }
  }
}

// Four lanes are a pixel, with eight channels each: 64 bytes of a pixel are written at once.
template <typename Block, typename Exec>
BITEXPORT_BLOCK void store_slice_nhwc8(const ConvArgs& args, Exec& exec, const Slice& slice,
                                       int tid) {
  const int lane = tid % kLanes;
  const int first = lane % 4 * 8;
  if (first >= slice.channels) return;
  const std::int32_t channel = slice.first_channel + first;
  const int count = slice.channels - first < 8 ? slice.channels - first : 8;
  float scale[8] = {};
  float bias[8] = {};
  BITEXPORT_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (i >= count) continue;
    scale[i] = args.epilogue.scale[channel + i];
    bias[i] = args.epilogue.bias[channel + i];
  }
  BITEXPORT_NO_UNROLL
  for (int step = 0; step < 4; ++step) {
    const int row = staging_row(lane / 4, step);
    const RowTarget target = target_of<Block>(exec, tid, slice.first_row + row);
    if (target.offset < 0) continue;
    const std::int32_t* corrections =
        args.epilogue.corrections + std::int64_t{target.border_class} * args.shape.out_channels;
    const std::int64_t index = target.offset + channel;
    Vector16 residual = {};
    if (args.epilogue.residual != nullptr) {
      residual = *reinterpret_cast<const Vector16*>(
          static_cast<const std::uint16_t*>(args.epilogue.residual) + index);
    }
    Vector16 out = {};
    BITEXPORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (i >= count) continue;
      const auto value =
          exec.template load<std::uint32_t>(tid, slice.staging_at + staged(row, first + i));
      float y = multiply_then_add(
          scale[i], sum_of<Block>(value, Block::kBinary ? corrections[channel + i] : 0), bias[i]);
      if (args.epilogue.residual != nullptr) {
        y += float_of_half(static_cast<std::uint16_t>(residual.word[i / 2] >> (i % 2 * 16)));
      }
      if (Block::kBinary) y = activated(args.epilogue.activation, channel + i, y);
      out.word[i / 2] |= static_cast<std::uint32_t>(half_of_float(y)) << (i % 2 * 16);
    }
    *reinterpret_cast<Vector16*>(static_cast<std::uint16_t*>(args.epilogue.y) + index) = out;
  }
}

// ---- The block ---------------------------------------------------------------------------------

template <typename Block, typename Exec>
BITEXPORT_BLOCK void store_output(const ConvArgs& args, Exec& exec,
                                  const typename Block::Place& place) {
  using Thread = typename Block::Thread;
  const std::int32_t columns = args.shape.out_channels_per_group();
  const auto slice_of = [&](int tid, int index) {
    const int warp = tid / kLanes;
    const std::int32_t column = place.first_column + warp / Block::kRowWarps * Block::kWarpColumns;
    return Slice{Block::kRingAt + static_cast<std::uint32_t>(warp) * Block::kStagingBytes,
                 warp % Block::kRowWarps * Block::kWarpRows + index * kLanes,
                 place.group * columns + column, columns - column};
  };
  BITEXPORT_UNROLL
  for (int index = 0; index < Block::kWarpRows / kLanes; ++index) {
    if (index > 0) exec.warp_barrier();
    exec.each([&](int tid, Thread& thread) {
      stage_slice<Block>(exec, slice_of(tid, index).staging_at, index, tid, thread);
    });
    exec.warp_barrier();
    exec.each([&](int tid, Thread&) {
      const Slice slice = slice_of(tid, index);
      if (args.epilogue.output == Output::kHalfNhwc8) {
        store_slice_nhwc8<Block>(args, exec, slice, tid);
      } else {
        store_slice_nchw<Block>(args, exec, slice, tid);
      }
    });
  }
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_EPILOGUE_H_
