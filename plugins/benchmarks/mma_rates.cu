// Rates of this GPU's matrix instructions on operands that are already there:
// registers for mma.sync, shared memory for wgmma. What a kernel built on an
// instruction cannot pass.
//
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a mma_rates.cu -o
//   mma_rates && ./mma_rates
//
// Prints JSON: for each instruction operations (2 M N K) a second,
// multiply-adds per clock and multiprocessor, and whether its sums are right.
// Operands are random while the clock runs: zeros draw less power, and a GPU's
// clock knows it.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

// ---- Operands
// ----------------------------------------------------------------------------------

// Bits as a number format sees them. `random` turns any word into finite
// numbers of that format.
struct Bits {
  static constexpr std::uint32_t kOnes = 0xFFFFFFFFu;
  static __device__ std::uint32_t random(std::uint32_t word) { return word; }
};
struct Int8 {
  static constexpr std::uint32_t kOnes = 0x01010101u;
  static __device__ std::uint32_t random(std::uint32_t word) { return word; }
};
struct Half {
  static constexpr std::uint32_t kOnes = 0x3C003C00u;
  // Signs and mantissas as they come, magnitudes from 0.5 to 1.
  static __device__ std::uint32_t random(std::uint32_t word) {
    return (word & 0x83FF83FFu) | 0x38003800u;
  }
};
struct Float8 {  // e4m3
  static constexpr std::uint32_t kOnes = 0x38383838u;
  static __device__ std::uint32_t random(std::uint32_t word) {
    return (word & 0x87878787u) | 0x30303030u;
  }
};

// A finalizer of MurmurHash3: every bit of the result depends on every bit of
// x.
__host__ __device__ std::uint32_t mixed(std::uint32_t x) {
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

template <typename Format>
__device__ std::uint32_t operand(std::uint32_t seed, std::uint32_t index) {
  return seed == 0 ? Format::kOnes : Format::random(mixed(seed * 0x9E3779B9u + index));
}

// ---- mma.sync
// ----------------------------------------------------------------------------------

// Each warp keeps so many sums, so that none waits for the one before it.
constexpr int kChains = 8;

#define MMA_SYNC(NAME, FORMAT, SUM, CONSTRAINT, DEPTH, FIRST_ARCH, TEXT)                \
  struct NAME {                                                                         \
    using Format = FORMAT;                                                              \
    using Sum = SUM;                                                                    \
    static constexpr const char* kText = "mma.sync " TEXT;                              \
    static constexpr int kM = 16, kN = 8, kK = DEPTH, kFirst = FIRST_ARCH;              \
    static __device__ void run(Sum (&c)[4], const std::uint32_t (&a)[4],                \
                               const std::uint32_t (&b)[2]) {                           \
      asm volatile("mma.sync.aligned." TEXT                                             \
                   " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"   \
                   : "+" CONSTRAINT(c[0]), "+" CONSTRAINT(c[1]), "+" CONSTRAINT(c[2]),  \
                     "+" CONSTRAINT(c[3])                                               \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }                                                                                   \
  };

MMA_SYNC(SyncAnd, Bits, int, "r", 256, 80, "m16n8k256.row.col.s32.b1.b1.s32.and.popc")
MMA_SYNC(SyncXor, Bits, int, "r", 256, 80, "m16n8k256.row.col.s32.b1.b1.s32.xor.popc")
MMA_SYNC(SyncInt8, Int8, int, "r", 32, 80, "m16n8k32.row.col.s32.s8.s8.s32")
MMA_SYNC(SyncHalf, Half, float, "f", 16, 80, "m16n8k16.row.col.f32.f16.f16.f32")
MMA_SYNC(SyncFloat8, Float8, float, "f", 32, 89, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
#undef MMA_SYNC

// XOR of equal operands counts nothing: B is zeros where A is ones.
template <typename Instruction>
constexpr bool kCountsDifferences = false;
template <>
constexpr bool kCountsDifferences<SyncXor> = true;

struct Outcome {
  long long* clocks;  // of each block
  int* wrong;         // sums that differ from `expected`
  double expected;    // checked where it is not negative
};

template <typename Instruction>
__global__ void __launch_bounds__(256) run_sync(int rounds, std::uint32_t seed, Outcome outcome) {
#if __CUDA_ARCH__ >= 800
  if constexpr (__CUDA_ARCH__ >= 10 * Instruction::kFirst) {
    using Format = typename Instruction::Format;
    const std::uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    std::uint32_t a[4];
    std::uint32_t b[kChains][2];
    typename Instruction::Sum c[kChains][4] = {};
    for (int i = 0; i < 4; ++i) a[i] = operand<Format>(seed, thread * 64 + i);
    for (int chain = 0; chain < kChains; ++chain) {
      for (int i = 0; i < 2; ++i) {
        b[chain][i] = seed == 0 && kCountsDifferences<Instruction>
                          ? 0u
                          : operand<Format>(seed, thread * 64 + 8 + chain * 2 + i);
      }
    }
    const long long start = clock64();
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
      for (int chain = 0; chain < kChains; ++chain) Instruction::run(c[chain], a, b[chain]);
    }
    const long long stop = clock64();
    int wrong = 0;
    for (auto& chain : c) {
      for (auto sum : chain) wrong += outcome.expected >= 0 && double(sum) != outcome.expected;
      // Without a use of the sums there would be no loop.
      if (double(chain[0]) == -12345.5) wrong += 1;
    }
    if (wrong > 0) atomicAdd(outcome.wrong, wrong);
    if (threadIdx.x == 0) outcome.clocks[blockIdx.x] = stop - start;
  }
#endif
}

// ---- wgmma
// -------------------------------------------------------------------------------------

// 64 x 256 sums in 128 registers of a warpgroup's threads. Tiles lie in shared
// memory without a swizzle: core matrices of 8 rows by 16 bytes, two along K,
// then the next 8 rows. A row has 32 bytes along K in every format.
constexpr int kGroupRows = 64;
constexpr int kGroupColumns = 256;
constexpr int kSums = 128;
constexpr int kRowBytes = 32;
constexpr int kCoreBytes = 128;
constexpr int kGroupThreads = 128;
constexpr int kInFlight = 4;

#define TEN_NAMES(TENS)                                                                   \
  "%" #TENS "0, %" #TENS "1, %" #TENS "2, %" #TENS "3, %" #TENS "4, %" #TENS "5, %" #TENS \
  "6, %" #TENS "7, %" #TENS "8, %" #TENS "9, "
#define ALL_NAMES                                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " TEN_NAMES(1) TEN_NAMES(2) TEN_NAMES(3) TEN_NAMES(4) \
      TEN_NAMES(5) TEN_NAMES(6) TEN_NAMES(7) TEN_NAMES(8) TEN_NAMES(9) TEN_NAMES(10)             \
          TEN_NAMES(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define EIGHT(C, I) \
  C(c[I]), C(c[I + 1]), C(c[I + 2]), C(c[I + 3]), C(c[I + 4]), C(c[I + 5]), C(c[I + 6]), C(c[I + 7])
#define SIXTY_FOUR(C, I)                                                              \
  EIGHT(C, I), EIGHT(C, I + 8), EIGHT(C, I + 16), EIGHT(C, I + 24), EIGHT(C, I + 32), \
      EIGHT(C, I + 40), EIGHT(C, I + 48), EIGHT(C, I + 56)
#define INTEGER_SUM(X) "+r"(X)
#define FLOAT_SUM(X) "+f"(X)

#define WGMMA(NAME, FORMAT, SUM, CONSTRAINT, DEPTH, TEXT, TAIL)                              \
  struct NAME {                                                                              \
    using Format = FORMAT;                                                                   \
    using Sum = SUM;                                                                         \
    static constexpr const char* kText = "wgmma " TEXT;                                      \
    static constexpr int kM = kGroupRows, kN = kGroupColumns, kK = DEPTH;                    \
    static __device__ void run(Sum (&c)[kSums], std::uint64_t a, std::uint64_t b) {          \
      asm volatile(                                                                          \
          "{.reg .pred keep;\nsetp.ne.b32 keep, 1, "                                         \
          "0;\nwgmma.mma_async.sync.aligned." TEXT " {" ALL_NAMES "}, %128, %129, keep" TAIL \
          ";}\n"                                                                             \
          : SIXTY_FOUR(CONSTRAINT, 0), SIXTY_FOUR(CONSTRAINT, 64)                            \
          : "l"(a), "l"(b));                                                                 \
    }                                                                                        \
  };

WGMMA(GroupAnd, Bits, int, INTEGER_SUM, 256, "m64n256k256.s32.b1.b1.and.popc", "")
WGMMA(GroupInt8, Int8, int, INTEGER_SUM, 32, "m64n256k32.s32.s8.s8", "")
WGMMA(GroupHalf, Half, float, FLOAT_SUM, 16, "m64n256k16.f32.f16.f16", ", 1, 1, 0, 0")
WGMMA(GroupFloat8, Float8, float, FLOAT_SUM, 32, "m64n256k32.f32.e4m3.e4m3", ", 1, 1")
#undef WGMMA

// Byte `byte` of row `row` of a tile.
__host__ __device__ constexpr std::uint32_t tile_offset(std::uint32_t row, std::uint32_t byte) {
  return row / 8 * (2 * kCoreBytes) + byte / 16 * kCoreBytes + row % 8 * 16 + byte % 16;
}

// Address, stride between the two core matrices along K, stride between rows of
// core matrices; all in units of 16 bytes (PTX ISA, "Matrix descriptor").
__device__ std::uint64_t descriptor(const void* tile) {
  const auto address = static_cast<std::uint64_t>(__cvta_generic_to_shared(tile));
  return (address & 0x3FFFF) >> 4 | std::uint64_t{kCoreBytes >> 4} << 16 |
         std::uint64_t{(2 * kCoreBytes) >> 4} << 32;
}

template <typename Instruction>
__global__ void __launch_bounds__(kGroupThreads)
    run_group(int rounds, std::uint32_t seed, Outcome outcome, int* sums) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Format = typename Instruction::Format;
  __shared__ __align__(128) std::uint8_t a[kGroupRows * kRowBytes];
  __shared__ __align__(128) std::uint8_t b[kGroupColumns * kRowBytes];
  const auto fill = [&](std::uint8_t* tile, int rows, std::uint32_t first) {
    for (int at = threadIdx.x; at < rows * kRowBytes / 4; at += kGroupThreads) {
      *reinterpret_cast<std::uint32_t*>(tile + tile_offset(at / 8, at % 8 * 4)) =
          operand<Format>(seed, first + at);
    }
  };
  fill(a, kGroupRows, 0);
  fill(b, kGroupColumns, kGroupRows * kRowBytes / 4);
  // The tensor cores read shared memory by another way than the stores went.
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  typename Instruction::Sum c[kSums] = {};
  const std::uint64_t at_a = descriptor(a);
  const std::uint64_t at_b = descriptor(b);
  const long long start = clock64();
#pragma unroll 1
  for (int round = 0; round < rounds; round += kInFlight) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) Instruction::run(c, at_a, at_b);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }
  const long long stop = clock64();
  int wrong = 0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    wrong += outcome.expected >= 0 && double(c[i]) != outcome.expected;
    if (double(c[i]) == -12345.5) wrong += 1;
    if (sums != nullptr) {
      // Sum i of a thread: 8 columns, then the rows 8 further down, then the
      // next 8 columns.
      const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
      const int column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
      sums[row * kGroupColumns + column] = static_cast<int>(c[i]);
    }
  }
  if (wrong > 0) atomicAdd(outcome.wrong, wrong);
  if (threadIdx.x == 0) outcome.clocks[blockIdx.x] = stop - start;
#endif
}

// ---- Measuring
// ---------------------------------------------------------------------------------

bool failed(cudaError_t error) {
  if (error != cudaSuccess) std::fprintf(stderr, "error: CUDA: %s\n", cudaGetErrorString(error));
  return error != cudaSuccess;
}

class Bench {
 public:
  // False where there is no GPU or no memory on it.
  bool open() {
    if (failed(cudaGetDeviceProperties(&device_, 0))) return false;
    blocks_ = 2 * device_.multiProcessorCount;
    return !failed(cudaMallocManaged(&clocks_, sizeof(*clocks_) * blocks_)) &&
           !failed(cudaMallocManaged(&wrong_, sizeof(*wrong_))) &&
           !failed(cudaMallocManaged(&sums_, sizeof(*sums_) * kGroupRows * kGroupColumns));
  }

  int arch() const { return device_.major * 10 + device_.minor; }
  const char* name() const { return device_.name; }

  template <typename Instruction>
  bool sync() {
    if (arch() < Instruction::kFirst) return true;
    constexpr int kWarps = 8;
    const auto launch = [&](int rounds, std::uint32_t seed, double expected) {
      run_sync<Instruction>
          <<<blocks_, kWarps * 32>>>(rounds, seed, Outcome{clocks_, wrong_, expected});
    };
    return rate<Instruction>(launch, double{kWarps} * kChains);
  }

  template <typename Instruction>
  bool group() {
    if (arch() != 90) return true;
    const auto launch = [&](int rounds, std::uint32_t seed, double expected) {
      run_group<Instruction>
          <<<blocks_, kGroupThreads>>>(rounds, seed, Outcome{clocks_, wrong_, expected}, nullptr);
    };
    return rate<Instruction>(launch, 1.0);
  }

  // One wgmma on random bits, against popcounts on the host: the layout of its
  // tiles and sums.
  bool group_layout(bool* right) {
    constexpr std::uint32_t kSeed = 7;
    run_group<GroupAnd>
        <<<1, kGroupThreads>>>(kInFlight, kSeed, Outcome{clocks_, wrong_, -1}, sums_);
    if (failed(cudaGetLastError()) || failed(cudaDeviceSynchronize())) return false;
    const auto word = [&](int index) {
      return mixed(kSeed * 0x9E3779B9u + static_cast<std::uint32_t>(index));
    };
    *right = true;
    for (int row = 0; row < kGroupRows; ++row) {
      for (int column = 0; column < kGroupColumns; ++column) {
        int count = 0;
        for (int i = 0; i < 8; ++i) {
          count += __builtin_popcount(word(row * 8 + i) & word((kGroupRows + column) * 8 + i));
        }
        *right = *right && sums_[row * kGroupColumns + column] == kInFlight * count;
      }
    }
    return true;
  }

 private:
  template <typename Instruction, typename Launch>
  bool rate(const Launch& launch, double instructions_per_round) {
    constexpr int kCheckedRounds = 16;
    constexpr double kOperations = 2.0 * Instruction::kM * Instruction::kN * Instruction::kK;
    *wrong_ = 0;
    launch(kCheckedRounds, 0, double{kCheckedRounds} * Instruction::kK);
    if (failed(cudaGetLastError()) || failed(cudaDeviceSynchronize())) return false;
    const bool right = *wrong_ == 0;
    double best = 1e30;
    double clocks = 0;
    int rounds = 1 << 12;
    for (int trial = 0; trial < 12; ++trial) {
      const float milliseconds = timed([&] { launch(rounds, 1, -1); });
      if (milliseconds < 0) return false;
      if (trial < 2) {  // long enough for the clock to settle
        rounds =
            std::max(rounds, std::min(1 << 22, int(rounds * 20 / std::max(milliseconds, 0.1f))));
        rounds &= ~(kInFlight - 1);
        continue;
      }
      if (milliseconds * 1e-3 < best) {
        best = milliseconds * 1e-3;
        clocks = *std::max_element(clocks_, clocks_ + blocks_);
      }
    }
    const double per_block = instructions_per_round * rounds * kOperations;
    const double per_clock =
        2 * per_block / 2 / clocks;  // two blocks on each, two operations a sum
    std::printf(
        "%s\n  {\"instruction\": \"%s\", \"operations_per_second\": %.4g, "
        "\"macs_per_clock_and_sm\": %.1f, \"right\": %s}",
        printed_++ > 0 ? "," : "", Instruction::kText, per_block * blocks_ / best, per_clock,
        right ? "true" : "false");
    return true;
  }

  template <typename Work>
  float timed(const Work& work) {
    cudaEvent_t start = nullptr;
    cudaEvent_t stop = nullptr;
    float milliseconds = -1;
    if (failed(cudaEventCreate(&start)) || failed(cudaEventCreate(&stop))) return -1;
    cudaEventRecord(start);
    work();
    cudaEventRecord(stop);
    if (failed(cudaEventSynchronize(stop)) || failed(cudaGetLastError()) ||
        failed(cudaEventElapsedTime(&milliseconds, start, stop))) {
      milliseconds = -1;
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    return milliseconds;
  }

  cudaDeviceProp device_ = {};
  int blocks_ = 0;
  int printed_ = 0;
  long long* clocks_ = nullptr;
  int* wrong_ = nullptr;
  int* sums_ = nullptr;
};

}  // namespace

int main() {
  Bench bench;
  if (!bench.open()) return 1;
  if (bench.arch() < 80) {
    std::fprintf(stderr,
                 "error: too old a GPU (got compute capability %d.%d, expected "
                 "8.0 or newer). "
                 "Use another one.\n",
                 bench.arch() / 10, bench.arch() % 10);
    return 1;
  }
  std::printf("{\"gpu\": \"%s\", \"instructions\": [", bench.name());
  const bool measured = bench.sync<SyncAnd>() && bench.sync<SyncXor>() && bench.sync<SyncInt8>() &&
                        bench.sync<SyncHalf>() && bench.sync<SyncFloat8>() &&
                        bench.group<GroupAnd>() && bench.group<GroupInt8>() &&
                        bench.group<GroupHalf>() && bench.group<GroupFloat8>();
  bool right = true;
  if (!measured || (bench.arch() == 90 && !bench.group_layout(&right))) return 1;
  std::printf("\n], \"wgmma_layout_right\": %s}\n",
              bench.arch() == 90 ? (right ? "true" : "false") : "null");
  return 0;
}
