// A linear layer with code words, for few rows of X: bound by reading codes, not by arithmetic.
//
// A block computes kOutputs outputs for up to kBatch rows of X. K is split among all its threads:
// thread t takes the code words t, t + 256, ... of each output, looks the centroids up and
// multiplies. Sums meet in the warps by shuffles, then among the warps in shared memory, always in
// the same order.

#ifndef BITEXPORT_KERNELS_CUDA_CODEBOOK_GEMM_H_
#define BITEXPORT_KERNELS_CUDA_CODEBOOK_GEMM_H_

#include <cstdint>

#include "kernels/cuda/conv_args.h"
#include "kernels/cuda/conv_weights.h"
#include "kernels/cuda/prologue.h"

namespace bitexport {
namespace cuda {

struct GemmArgs {
  std::int32_t batch;
  std::int32_t in_features;
  std::int32_t out_features;
  std::int32_t depth;
  std::int64_t words_per_row;
  const void* x;
  const std::uint32_t* codes;
  const std::uint16_t* centroids;
  const float* scale;
  const float* bias;
  void* y;
};

// T is float or a half's bits; kStep weights of a centroid are read at once (1, 4 or 8).
template <typename T, int batch, int step>
struct GemmBlock {
  using Number = T;
  static constexpr int kBatch = batch;
  static constexpr int kStep = step;
  static constexpr int kOutputs = 4;
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / kLanes;
  static constexpr std::uint32_t kSharedBytes = kWarps * kOutputs * kBatch * sizeof(float);

  struct Thread {
    float sum[kOutputs][kBatch];
  };
};

template <int kStep>
struct alignas(kStep * 2) Halves {
  std::uint16_t half[kStep];
};

// One word of codes of each output: two centroids each.
template <typename Block>
BITEXPORT_BLOCK void multiply_word(const GemmArgs& args, std::int64_t word,
                                   std::int32_t first_output, std::int32_t first_row,
                                   typename Block::Thread& thread) {
  using T = typename Block::Number;
  std::uint32_t codes[Block::kOutputs];
  BITEXPORT_UNROLL
  for (int o = 0; o < Block::kOutputs; ++o) {
    codes[o] = first_output + o < args.out_features
                   ? args.codes[(first_output + o) * args.words_per_row + word]
                   : 0u;
  }
  BITEXPORT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const std::int64_t feature = (word * 2 + half) * args.depth;
    if (feature >= args.in_features) break;  // the filling code at the end of a row
    for (std::int32_t i = 0; i < args.depth; i += Block::kStep) {
      float x[Block::kBatch][Block::kStep];
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kBatch; ++n) {
        const bool row = first_row + n < args.batch;
        const T* at = static_cast<const T*>(args.x) +
                      (row ? first_row + n : first_row) * std::int64_t{args.in_features} + feature;
        BITEXPORT_UNROLL
        for (int s = 0; s < Block::kStep; ++s) x[n][s] = element(at, i + s);
      }
      BITEXPORT_UNROLL
      for (int o = 0; o < Block::kOutputs; ++o) {
        const std::int64_t code = codes[o] >> (16 * half) & 0xFFFFu;
        const auto weights =
            *reinterpret_cast<const Halves<Block::kStep>*>(args.centroids + code * args.depth + i);
        BITEXPORT_UNROLL
        for (int s = 0; s < Block::kStep; ++s) {
          const float weight = float_of_half(weights.half[s]);
          BITEXPORT_UNROLL
          for (int n = 0; n < Block::kBatch; ++n) thread.sum[o][n] += x[n][s] * weight;
        }
      }
    }
  }
}

template <typename Block, typename Exec>
BITEXPORT_BLOCK void run_gemm(const GemmArgs& args, Exec& exec, std::int64_t block) {
  using Thread = typename Block::Thread;
  using T = typename Block::Number;
  constexpr int kSums = Block::kOutputs * Block::kBatch;
  const std::int32_t output_tiles = ceil_div(args.out_features, int{Block::kOutputs});
  const std::int64_t row_tile = block / output_tiles;
  const auto first_output =
      static_cast<std::int32_t>(block - row_tile * output_tiles) * Block::kOutputs;
  const auto first_row = static_cast<std::int32_t>(row_tile) * Block::kBatch;
  exec.each([&](int tid, Thread& thread) {
    BITEXPORT_UNROLL
    for (int o = 0; o < Block::kOutputs; ++o) {
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kBatch; ++n) thread.sum[o][n] = 0.0f;
    }
    for (std::int64_t word = tid; word < args.words_per_row; word += Block::kThreads) {
      multiply_word<Block>(args, word, first_output, first_row, thread);
    }
  });
  BITEXPORT_UNROLL
  for (int o = 0; o < Block::kOutputs; ++o) {
    BITEXPORT_UNROLL
    for (int n = 0; n < Block::kBatch; ++n) {
      exec.warp_sum([&](Thread& thread) -> float& { return thread.sum[o][n]; });
    }
  }
  exec.each([&](int tid, Thread& thread) {
    if (tid % kLanes != 0) return;
    BITEXPORT_UNROLL
    for (int o = 0; o < Block::kOutputs; ++o) {
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kBatch; ++n) {
        const int at = tid / kLanes * kSums + o * Block::kBatch + n;
        exec.store(tid, static_cast<std::uint32_t>(at * 4), thread.sum[o][n]);
      }
    }
  });
  exec.barrier();
  exec.each([&](int tid, Thread&) {
    if (tid >= kSums) return;
    const std::int32_t output = first_output + tid / Block::kBatch;
    const std::int32_t row = first_row + tid % Block::kBatch;
    if (output >= args.out_features || row >= args.batch) return;
    float sum = 0.0f;
    for (int warp = 0; warp < Block::kWarps; ++warp) {
      sum += exec.template load<float>(tid, static_cast<std::uint32_t>((warp * kSums + tid) * 4));
    }
    const float y = multiply_then_add(args.scale[output], sum, args.bias[output]);
    const std::int64_t index = std::int64_t{row} * args.out_features + output;
    if constexpr (sizeof(T) == sizeof(float)) {
      static_cast<float*>(args.y)[index] = y;
    } else {
      static_cast<std::uint16_t*>(args.y)[index] = half_of_float(y);
    }
  });
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CODEBOOK_GEMM_H_
