// Runs the code of CUDA thread blocks on the host: every phase for all threads in turn.
//
// Warp-wide instructions do what the PTX ISA says of them, on the registers of 32 threads.
// Asynchronous copies arrive only when they are waited for. Shared memory is watched: an access
// that no barrier orders after another thread's write, or a write after another thread's read, is a
// race and fails the test, and so does reading what was never written.

#ifndef BITEXPORT_TESTS_CUDA_EMULATOR_H_
#define BITEXPORT_TESTS_CUDA_EMULATOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "core/half.h"
#include "core/packing.h"
#include "kernels/cuda/conv_block.h"

namespace bitexport_test {

// ---- Shared memory -----------------------------------------------------------------------------

inline constexpr int kWarp = 32;

// Who touched four bytes last. Times count barriers: of the block, and of the thread's warp.
class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, int threads)
      : bytes_((bytes + 3) / 4 * 4, 0xA5),
        cells_(bytes_.size() / 4),
        warp_time_(static_cast<std::size_t>((threads + kWarp - 1) / kWarp), 0) {}

  std::uint8_t* data() { return bytes_.data(); }

  void block_barrier() { ++block_time_; }
  void warp_barrier() {
    for (int& time : warp_time_) ++time;
  }

  void read(int tid, std::size_t offset, std::size_t size) {
    for_cells(offset, size, [&](Cell& cell) {
      if (cell.writer == kNobody || cell.pending || !ordered(cell.written, cell.writer, tid)) {
        complain("read", tid, offset);
      }
      const bool same_warp = cell.reader == kNobody || cell.reader / kWarp == tid / kWarp;
      cell.reader = cell.reader == kNobody || cell.reader == tid ? tid
                    : same_warp                                  ? cell.reader / kWarp * kWarp
                                                                 : kMany;
      if (cell.reader != tid) cell.many = true;
      cell.read = now(tid);
    });
  }
  void write(int tid, std::size_t offset, std::size_t size, bool pending) {
    for_cells(offset, size, [&](Cell& cell) {
      if (cell.pending) complain("write under a copy", tid, offset);
      if (cell.writer != kNobody && !ordered(cell.written, cell.writer, tid)) {
        complain("write after write", tid, offset);
      }
      if (cell.reader != kNobody && !read_before(cell, tid)) {
        complain("write after read", tid, offset);
      }
      cell = Cell{};
      cell.writer = tid;
      cell.written = now(tid);
      cell.pending = pending;
    });
  }
  void arrive(int tid, std::size_t offset, std::size_t size) {
    for_cells(offset, size, [&](Cell& cell) {
      cell.pending = false;
      cell.written = now(tid);
    });
  }

 private:
  static constexpr int kNobody = -1;
  static constexpr int kMany = -2;
  struct Time {
    int block = 0;
    int warp = 0;
  };
  struct Cell {
    int writer = kNobody;
    int reader = kNobody;
    bool many = false;
    bool pending = false;
    Time written;
    Time read;
  };

  Time now(int tid) const {
    return {block_time_, warp_time_[static_cast<std::size_t>(tid / kWarp)]};
  }
  // Whether what thread `by` did at `then` comes before what thread `tid` does now.
  bool ordered(const Time& then, int by, int tid) const {
    if (by == tid || then.block < block_time_) return true;
    return by / kWarp == tid / kWarp && then.warp < now(tid).warp;
  }
  bool read_before(const Cell& cell, int tid) const {
    if (cell.reader == tid && !cell.many) return true;
    if (cell.read.block < block_time_) return true;
    return cell.reader != kMany && cell.reader / kWarp == tid / kWarp &&
           cell.read.warp < now(tid).warp;
  }
  template <typename Use>
  void for_cells(std::size_t offset, std::size_t size, Use use) {
    if (offset + size > bytes_.size() || offset % 4 != 0) {
      CHECK_EQUAL(offset + size, bytes_.size());  // out of bounds or misaligned
      return;
    }
    for (std::size_t cell = offset / 4; cell < (offset + size + 3) / 4; ++cell) use(cells_[cell]);
  }
  void complain(const char* what, int tid, std::size_t offset) {
    const std::string where = state().where;
    state().where += std::string(", race: ") + what + " by thread " + std::to_string(tid) +
                     " at byte " + std::to_string(offset);
    CHECK(false);
    state().where = where;
  }

  std::vector<std::uint8_t> bytes_;
  std::vector<Cell> cells_;
  std::vector<int> warp_time_;
  int block_time_ = 0;
};

// ---- MMA, as the PTX ISA describes its fragments -----------------------------------------------

// The 16 x 32 bytes of A, 8 x 32 bytes of B (a row for each column) of a warp.
struct MmaMatrices {
  std::uint8_t a[16][32];
  std::uint8_t b[8][32];
};

inline void put_word(std::uint8_t* to, std::uint32_t word) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

inline float number16(const std::uint8_t* at, bool bfloat) {
  const auto bits = static_cast<std::uint16_t>(at[0] | at[1] << 8);
  return bfloat ? bitexport::half_detail::from_bits(static_cast<std::uint32_t>(bits) << 16)
                : bitexport::half_to_float(bits);
}

// What is added to C [16][8].
template <bitexport::cuda::MmaOp op, typename Accumulator>
void multiply(const MmaMatrices& m, Accumulator (&sum)[16][8]) {
  using bitexport::cuda::MmaOp;
  constexpr bool kNumbers = op == MmaOp::kHalf || op == MmaOp::kBfloat;
  float a[16][16];
  float b[8][16];
  if constexpr (kNumbers) {
    for (int k = 0; k < 16; ++k) {
      for (int r = 0; r < 16; ++r) a[r][k] = number16(&m.a[r][2 * k], op == MmaOp::kBfloat);
      for (int c = 0; c < 8; ++c) b[c][k] = number16(&m.b[c][2 * k], op == MmaOp::kBfloat);
    }
  }
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 8; ++c) {
      Accumulator total{};
      if constexpr (kNumbers) {
        for (int k = 0; k < 16; ++k) total += a[r][k] * b[c][k];
      } else {
        for (int k = 0; k < 32; ++k) {
          const std::uint8_t x = m.a[r][k];
          const std::uint8_t w = m.b[c][k];
          if constexpr (op == MmaOp::kBytes) {
            total += x * static_cast<std::int8_t>(w);
          } else {
            total += bitexport::popcount(op == MmaOp::kXorPopc ? x ^ w : x & w);
          }
        }
      }
      sum[r][c] = total;
    }
  }
}

// ---- The block ---------------------------------------------------------------------------------

// The same interface as DeviceExec, for all threads of one block.
template <typename Block>
class HostExec {
 public:
  using Thread = typename Block::Thread;

  HostExec()
      : shared_(Block::kSharedBytes, Block::kThreads),
        threads_(static_cast<std::size_t>(Block::kThreads)) {}

  template <typename Phase>
  void each(Phase phase) {
    for (int tid = 0; tid < Block::kThreads; ++tid) phase(tid, thread(tid));
  }
  void barrier() { shared_.block_barrier(); }
  void warp_barrier() { shared_.warp_barrier(); }

  template <typename T>
  void store(int tid, std::uint32_t offset, const T& value) {
    shared_.write(tid, offset, sizeof(T), false);
    std::memcpy(shared_.data() + offset, &value, sizeof(T));
  }
  template <typename T>
  T load(int tid, std::uint32_t offset) {
    CHECK_EQUAL(offset % alignof(T), 0u);
    shared_.read(tid, offset, sizeof(T));
    T value;
    std::memcpy(&value, shared_.data() + offset, sizeof(T));
    return value;
  }

  template <int kBytes>
  void copy(int tid, std::uint32_t offset, const void* from, int bytes) {
    // cp.async wants both addresses aligned to its size.
    CHECK_EQUAL(offset % kBytes, 0u);
    if (bytes > 0) CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(from) % kBytes, 0u);
    shared_.write(tid, offset, kBytes, true);
    open_.push_back({tid, offset, kBytes, from, bytes});
  }
  void commit() {
    groups_.push_back(open_);
    open_.clear();
  }
  template <int kPending>
  void wait() {
    while (groups_.size() > kPending) {
      for (const Copy& copy : groups_.front()) arrive(copy);
      groups_.erase(groups_.begin());
    }
  }

  template <typename OffsetOf, typename Target>
  void load_matrices(OffsetOf offset_of, Target target) {
    for (int warp = 0; warp < Block::kThreads / kWarp; ++warp) {
      std::uint8_t rows[kWarp][16];
      for (int lane = 0; lane < kWarp; ++lane) {
        const int tid = warp * kWarp + lane;
        const std::uint32_t offset = offset_of(tid);
        CHECK_EQUAL(offset % 16, 0u);
        shared_.read(tid, offset, 16);
        std::memcpy(rows[lane], shared_.data() + offset, 16);
      }
      for (int lane = 0; lane < kWarp; ++lane) {
        auto& registers = target(thread(warp * kWarp + lane));
        for (int i = 0; i < 4; ++i) {
          std::memcpy(&registers[i], &rows[8 * i + lane / 4][lane % 4 * 4], 4);
        }
      }
    }
  }

  template <bitexport::cuda::MmaOp op, typename Operands>
  void mma(Operands operands) {
    for (int warp = 0; warp < Block::kThreads / kWarp; ++warp) {
      MmaMatrices matrices;
      for (int lane = 0; lane < kWarp; ++lane) {
        const auto own = operands(thread(warp * kWarp + lane));
        const int group = lane / 4;
        const int pair = lane % 4;
        put_word(&matrices.a[group][4 * pair], own.a[0]);
        put_word(&matrices.a[group + 8][4 * pair], own.a[1]);
        put_word(&matrices.a[group][16 + 4 * pair], own.a[2]);
        put_word(&matrices.a[group + 8][16 + 4 * pair], own.a[3]);
        put_word(&matrices.b[group][4 * pair], own.b[0]);
        put_word(&matrices.b[group][16 + 4 * pair], own.b[1]);
      }
      typename Block::Accumulator sum[16][8];
      multiply<op>(matrices, sum);
      for (int lane = 0; lane < kWarp; ++lane) {
        const auto own = operands(thread(warp * kWarp + lane));
        for (int i = 0; i < 4; ++i) own.c[i] += sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
      }
    }
  }

  template <typename Target>
  void warp_sum(Target target) {
    for (int first = 0; first < Block::kThreads; first += kWarp) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        std::vector<std::decay_t<decltype(target(thread(0)))>> other;
        for (int lane = 0; lane < kWarp; ++lane) {
          other.push_back(target(thread(first + (lane ^ distance))));
        }
        for (int lane = 0; lane < kWarp; ++lane) {
          target(thread(first + lane)) += other[static_cast<std::size_t>(lane)];
        }
      }
    }
  }

 private:
  struct Copy {
    int tid;
    std::uint32_t offset;
    int size;
    const void* from;
    int bytes;
  };

  Thread& thread(int tid) { return threads_[static_cast<std::size_t>(tid)]; }

  void arrive(const Copy& copy) {
    std::uint8_t* to = shared_.data() + copy.offset;
    std::memset(to, 0, static_cast<std::size_t>(copy.size));
    if (copy.bytes > 0) std::memcpy(to, copy.from, static_cast<std::size_t>(copy.bytes));
    shared_.arrive(copy.tid, copy.offset, static_cast<std::size_t>(copy.size));
  }

  SharedMemory shared_;
  std::vector<Thread> threads_;
  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> groups_;
};

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_CUDA_EMULATOR_H_
