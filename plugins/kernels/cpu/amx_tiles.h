// The tile registers of AMX: eight of 16 rows of 64 bytes, and products of bytes summed in 32 bits.
//
// A tile of sums [16, 16] of int32 takes
//
//     sums[m][n] += sum over k < 64 of a[m][k] * b[k / 4][4 * n + k % 4]
//
// from a [16, 64] and b [16, 64] of int8. Where BITEXPORT_EMULATED_AMX is defined, plain C++ does
// it, for tests on CPUs that lack AMX.
//
// By assembly: the intrinsics of GCC 12 do not tell the compiler that they read and write memory.
//
// To be included once in a file, between the lines of target.h.

namespace bitexport {
namespace cpu {
namespace {

constexpr int kTileRows = 16;
constexpr int kRowBytes = 64;

#if defined(BITEXPORT_EMULATED_AMX)

class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kIndex>
  void zero() {
    std::memset(tiles_[kIndex], 0, sizeof(tiles_[kIndex]));
  }
  template <int kIndex>
  void load(const void* rows, std::int64_t stride) {
    for (int row = 0; row < kTileRows; ++row) {
      std::memcpy(tiles_[kIndex][row], static_cast<const std::int8_t*>(rows) + row * stride,
                  kRowBytes);
    }
  }
  template <int kIndex>
  void store(void* rows, std::int64_t stride) const {
    for (int row = 0; row < kTileRows; ++row) {
      std::memcpy(static_cast<std::int8_t*>(rows) + row * stride, tiles_[kIndex][row], kRowBytes);
    }
  }
  // It touches nothing but the tiles, and takes minutes where every access is checked.
  template <int kSums, int kA, int kB>
  __attribute__((no_sanitize("address", "undefined"))) void add_products() {
    for (int m = 0; m < kTileRows; ++m) {
      std::int32_t sums[kTileRows];
      std::memcpy(sums, tiles_[kSums][m], sizeof(sums));
      for (int k = 0; k < kTileRows; ++k) {
        const std::int8_t* const a = tiles_[kA][m] + 4 * k;
        const std::int8_t* const b = tiles_[kB][k];
        for (int n = 0; n < kTileRows; ++n) {
          sums[n] +=
              a[0] * b[4 * n] + a[1] * b[4 * n + 1] + a[2] * b[4 * n + 2] + a[3] * b[4 * n + 3];
        }
      }
      std::memcpy(tiles_[kSums][m], sums, sizeof(sums));
    }
  }

 private:
  std::int8_t tiles_[8][kTileRows][kRowBytes];
};

#else

// The tiles of this thread, from construction to destruction: an operating system keeps nothing of
// them for a thread that does not use them.
class Tiles {
 public:
  Tiles() {
    // Palette 1; all tiles whole.
    struct alignas(64) Configuration {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Configuration kConfiguration;
    asm volatile("ldtilecfg %0" : : "m"(kConfiguration));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kIndex>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kIndex));
  }
  template <int kIndex>
  void load(const void* rows, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
                 :
                 : "r"(rows), "r"(stride), "i"(kIndex)
                 : "memory");
  }
  template <int kIndex>
  void store(void* rows, std::int64_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(rows), "r"(stride), "i"(kIndex)
                 : "memory");
  }
  template <int kSums, int kA, int kB>
  void add_products() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
  }
};

#endif

}  // namespace
}  // namespace cpu
}  // namespace bitexport
