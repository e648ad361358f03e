// The main loop of the implicit GEMM: a ring of tiles in shared memory, MMAs on them, one barrier a
// tile.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_MAIN_LOOP_H_
#define BITEXPORT_KERNELS_CUDA_CONV_MAIN_LOOP_H_

#include <cstdint>

#include "kernels/cuda/conv_block.h"
#include "kernels/cuda/conv_epilogue.h"
#include "kernels/cuda/conv_rows.h"
#include "kernels/cuda/conv_weights.h"

namespace bitexport {
namespace cuda {

template <typename Block, typename Exec>
class ConvMainLoop {
 public:
  using Thread = typename Block::Thread;

  BITEXPORT_BLOCK ConvMainLoop(const ConvArgs& args, Exec& exec, std::int64_t block)
      : args_(args), exec_(exec), place_(Block::place_of(args, block)) {}

  BITEXPORT_BLOCK void run() {
    exec_.each([&](int tid, Thread& thread) {
      write_rows<Block>(args_, exec_, place_, tid);
      clear(thread);
      if constexpr (Block::kSource == WeightSource::kSigns) {
        read_sign_words<Block>(args_, place_, 0, tid, thread);
      }
    });
    exec_.barrier();
    BITEXPORT_UNROLL
    for (int tile = 0; tile < Block::kStages - 1; ++tile) load_tile(tile, tile);
    int stage = 0;
    int free_stage = Block::kStages - 1;
    BITEXPORT_NO_UNROLL
    for (std::int32_t tile = 0; tile < args_.k_tiles; ++tile) {
      exec_.template wait<Block::kStages - 2>();
      // Tile `tile` is there for all, and all are done with the tile before it, whose place is
      // free.
      exec_.barrier();
      load_tile(tile + Block::kStages - 1, free_stage);
      multiply(stage);
      stage = stage + 1 < Block::kStages ? stage + 1 : 0;
      free_stage = free_stage + 1 < Block::kStages ? free_stage + 1 : 0;
    }
    exec_.template wait<0>();
    exec_.barrier();
    store_output<Block>(args_, exec_, place_);
  }

 private:
  static BITEXPORT_BLOCK void clear(Thread& thread) {
    BITEXPORT_UNROLL
    for (int m = 0; m < Block::kRowTiles; ++m) {
      BITEXPORT_UNROLL
      for (int i = 0; i < 4; ++i) {
        thread.ones[m][i] = 0;
        BITEXPORT_UNROLL
        for (int n = 0; n < Block::kColumnTiles; ++n) thread.c[m][n][i] = 0;
      }
    }
  }

  BITEXPORT_BLOCK static std::uint32_t a_at(int stage) {
    return Block::kRingAt + static_cast<std::uint32_t>(stage) * Block::kStageBytes;
  }
  BITEXPORT_BLOCK static std::uint32_t b_at(int stage) { return a_at(stage) + Block::kATileBytes; }

  // Starts loading a tile; past the last one there is an empty group of copies, to keep the count.
  BITEXPORT_BLOCK void load_tile(std::int32_t tile, int stage) {
    if (tile < args_.k_tiles) {
      exec_.each([&](int tid, Thread& thread) {
        copy_activations<Block>(args_, exec_, a_at(stage), tile, tid);
        produce_weights<Block>(args_, exec_, place_, b_at(stage), tile, tid, thread);
      });
    }
    exec_.commit();
  }

  BITEXPORT_BLOCK void multiply(int stage) {
    // Loading a tile may have parted a warp's lanes; ldmatrix and MMA want them together.
    exec_.warp_barrier();
    if constexpr (Block::kSource == WeightSource::kSigns) load_sign_words(stage);
    BITEXPORT_UNROLL
    for (int step = 0; step < Block::kSteps; ++step) {
      load_a(stage, step);
      if constexpr (Block::kSource == WeightSource::kSigns) {
        expand_signs(step);
      } else {
        load_b(stage, step);
      }
      if constexpr (Block::kOp == MmaOp::kBytes) {
        multiply_bytes();
      } else {
        multiply_step();
      }
    }
  }

  BITEXPORT_BLOCK void load_a(int stage, int step) {
    BITEXPORT_UNROLL
    for (int m = 0; m < Block::kRowTiles; ++m) {
      exec_.load_matrices(
          [&](int tid) {
            const int lane = tid % kLanes;
            const int row = tid / kLanes % Block::kRowWarps * Block::kWarpRows + m * kMmaRows;
            return a_at(stage) + static_cast<std::uint32_t>(row * Block::kTileBytes) +
                   swizzled<Block::kTileBytes>(a_row_of_lane(lane),
                                               2 * step + a_half_of_lane(lane));
          },
          [&](Thread& thread) -> std::uint32_t (&)[4] { return thread.a[m]; });
    }
  }

  BITEXPORT_BLOCK static int first_column(int tid) {
    return tid / kLanes / Block::kRowWarps * Block::kWarpColumns;
  }

  BITEXPORT_BLOCK void load_b(int stage, int step) {
    BITEXPORT_UNROLL
    for (int pair = 0; pair < Block::kColumnTiles / 2; ++pair) {
      exec_.load_matrices(
          [&](int tid) {
            const int lane = tid % kLanes;
            const int column = first_column(tid) + pair * 2 * kMmaColumns;
            return b_at(stage) + static_cast<std::uint32_t>(column * Block::kTileBytes) +
                   swizzled<Block::kTileBytes>(b_column_of_lane(lane),
                                               2 * step + b_half_of_lane(lane));
          },
          [&](Thread& thread) -> std::uint32_t (&)[4] { return thread.b[pair]; });
    }
  }

  // The words of a lane's columns: four lanes read the same address, eight read 64 bytes.
  BITEXPORT_BLOCK void load_sign_words(int stage) {
    exec_.each([&](int tid, Thread& thread) {
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kColumnTiles; ++n) {
        const int column = first_column(tid) + n * kMmaColumns + tid % kLanes / 4;
        const auto words = exec_.template load<Vector8>(
            tid, b_at(stage) + static_cast<std::uint32_t>(column * Block::kBRowBytes));
        thread.tile_words[n][0] = words.word[0];
        thread.tile_words[n][1] = words.word[1];
      }
    });
  }

  BITEXPORT_BLOCK void expand_signs(int step) {
    constexpr std::uint32_t kMinusOne = Block::kWide ? kMinusOneBfloats : kMinusOneHalves;
    exec_.each([&](int tid, Thread& thread) {
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kColumnTiles; ++n) {
        BITEXPORT_UNROLL
        for (int part = 0; part < 2; ++part) {
          thread.b[n / 2][n % 2 * 2 + part] =
              signs_to_numbers(thread.tile_words[n][step / 2], tid % 4, part, step % 2, kMinusOne);
        }
      }
    });
  }

  BITEXPORT_BLOCK void multiply_step() {
    BITEXPORT_UNROLL
    for (int m = 0; m < Block::kRowTiles; ++m) {
      BITEXPORT_UNROLL
      for (int n = 0; n < Block::kColumnTiles; ++n) {
        exec_.template mma<Block::kOp>([&](Thread& thread) {
          return MmaOperands<typename Block::Accumulator>{
              thread.c[m][n],
              thread.a[m],
              {thread.b[n / 2][n % 2 * 2], thread.b[n / 2][n % 2 * 2 + 1]}};
        });
      }
      if constexpr (Block::kOp == MmaOp::kAndPopc) {
        exec_.template mma<Block::kOp>([&](Thread& thread) {
          return MmaOperands<typename Block::Accumulator>{
              thread.ones[m], thread.a[m], {0xFFFFFFFFu, 0xFFFFFFFFu}};
        });
      }
    }
  }

  // 256 bits as eight times 32 bytes: activations 0 or 1, weights -1 or +1.
  BITEXPORT_BLOCK void multiply_bytes() {
    BITEXPORT_UNROLL
    for (int bit = 0; bit < 8; ++bit) {
      exec_.each([&](int, Thread& thread) {
        BITEXPORT_UNROLL
        for (int i = 0; i < 4; ++i) {
          BITEXPORT_UNROLL
          for (int m = 0; m < Block::kRowTiles; ++m) {
            thread.wide_a[m][i] = bits_to_bytes(thread.a[m][i], bit);
          }
          BITEXPORT_UNROLL
          for (int pair = 0; pair < Block::kColumnTiles / 2; ++pair) {
            thread.wide_b[pair][i] = bits_to_signed_bytes(thread.b[pair][i], bit);
          }
        }
      });
      BITEXPORT_UNROLL
      for (int m = 0; m < Block::kRowTiles; ++m) {
        BITEXPORT_UNROLL
        for (int n = 0; n < Block::kColumnTiles; ++n) {
          exec_.template mma<Block::kOp>([&](Thread& thread) {
            return MmaOperands<typename Block::Accumulator>{
                thread.c[m][n],
                thread.wide_a[m],
                {thread.wide_b[n / 2][n % 2 * 2], thread.wide_b[n / 2][n % 2 * 2 + 1]}};
          });
        }
      }
    }
  }

  const ConvArgs& args_;
  Exec& exec_;
  const typename Block::Place place_;
};

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_MAIN_LOOP_H_
