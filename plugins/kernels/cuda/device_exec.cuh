// Runs the phases of a block on a GPU: a thread its own part, and the instructions behind the
// calls.

#ifndef BITEXPORT_KERNELS_CUDA_DEVICE_EXEC_CUH_
#define BITEXPORT_KERNELS_CUDA_DEVICE_EXEC_CUH_

#include <cstdint>

#include "kernels/cuda/conv_block.h"

namespace bitexport {
namespace cuda {

// ---- MMA --------------------------------------------------------------------------------

// sm_75 has smaller shapes. Fragments are the same in bytes (fragments.h), so that the larger MMA
// is made of two or four smaller ones on the same registers.

#define BITEXPORT_MMA_16(TYPES, CONSTRAINT, OPERANDS)                                            \
  asm volatile("mma.sync.aligned." TYPES                                                         \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                \
               : "+" CONSTRAINT(OPERANDS.c[0]), "+" CONSTRAINT(OPERANDS.c[1]),                   \
                 "+" CONSTRAINT(OPERANDS.c[2]), "+" CONSTRAINT(OPERANDS.c[3])                    \
               : "r"(OPERANDS.a[0]), "r"(OPERANDS.a[1]), "r"(OPERANDS.a[2]), "r"(OPERANDS.a[3]), \
                 "r"(OPERANDS.b[0]), "r"(OPERANDS.b[1]))

#define BITEXPORT_MMA_8(TYPES, C0, C1, A, B)                                \
  asm volatile("mma.sync.aligned." TYPES " {%0, %1}, {%2}, {%3}, {%0, %1};" \
               : "+r"(C0), "+r"(C1)                                         \
               : "r"(A), "r"(B))

#define BITEXPORT_MMA_8_FOUR_TIMES(TYPES, OPERANDS)                                   \
  BITEXPORT_MMA_8(TYPES, OPERANDS.c[0], OPERANDS.c[1], OPERANDS.a[0], OPERANDS.b[0]); \
  BITEXPORT_MMA_8(TYPES, OPERANDS.c[2], OPERANDS.c[3], OPERANDS.a[1], OPERANDS.b[0]); \
  BITEXPORT_MMA_8(TYPES, OPERANDS.c[0], OPERANDS.c[1], OPERANDS.a[2], OPERANDS.b[1]); \
  BITEXPORT_MMA_8(TYPES, OPERANDS.c[2], OPERANDS.c[3], OPERANDS.a[3], OPERANDS.b[1])

template <MmaOp op, typename Accumulator>
__device__ __forceinline__ void mma(MmaOperands<Accumulator> o) {
#if __CUDA_ARCH__ >= 800
  if constexpr (op == MmaOp::kXorPopc) {
    BITEXPORT_MMA_16("m16n8k256.row.col.s32.b1.b1.s32.xor.popc", "r", o);
  } else if constexpr (op == MmaOp::kAndPopc) {
    BITEXPORT_MMA_16("m16n8k256.row.col.s32.b1.b1.s32.and.popc", "r", o);
  } else if constexpr (op == MmaOp::kBytes) {
    BITEXPORT_MMA_16("m16n8k32.row.col.s32.u8.s8.s32", "r", o);
  } else if constexpr (op == MmaOp::kHalf) {
    BITEXPORT_MMA_16("m16n8k16.row.col.f32.f16.f16.f32", "f", o);
  } else {
    BITEXPORT_MMA_16("m16n8k16.row.col.f32.bf16.bf16.f32", "f", o);
  }
#else
  if constexpr (op == MmaOp::kXorPopc) {
    BITEXPORT_MMA_8_FOUR_TIMES("m8n8k128.row.col.s32.b1.b1.s32.xor.popc", o);
  } else if constexpr (op == MmaOp::kBytes) {
    BITEXPORT_MMA_8_FOUR_TIMES("m8n8k16.row.col.s32.u8.s8.s32", o);
  } else if constexpr (op == MmaOp::kHalf) {
    for (int half = 0; half < 2; ++half) {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
          "{%0, %1, %2, %3};"
          : "+f"(o.c[0]), "+f"(o.c[1]), "+f"(o.c[2]), "+f"(o.c[3])
          : "r"(o.a[2 * half]), "r"(o.a[2 * half + 1]), "r"(o.b[half]));
    }
  } else {
    __trap();  // no such instruction; supported_op (plan.h) keeps it from being launched
  }
#endif
}

#undef BITEXPORT_MMA_8_FOUR_TIMES
#undef BITEXPORT_MMA_8
#undef BITEXPORT_MMA_16

// ---- Copies into shared memory -----------------------------------------------------------------

// Copies `bytes` (0 to kBytes) and fills the rest of kBytes with zeros.
template <int kBytes>
__device__ __forceinline__ void copy_to_shared(std::uint32_t to, const void* from, int bytes) {
#if __CUDA_ARCH__ >= 800
  // 16 bytes pass by the L1 cache (.cg), less cannot.
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "r"(bytes));
  }
#else
  // Only whole vectors of 4 bytes and the tail of a pixel's halves occur.
  std::uint32_t words[kBytes / 4] = {};
  if (bytes == kBytes) {
    if constexpr (kBytes == 16) {
      const uint4 vector = *static_cast<const uint4*>(from);
      words[0] = vector.x;
      words[1] = vector.y;
      words[2] = vector.z;
      words[3] = vector.w;
    } else if constexpr (kBytes == 8) {
      const uint2 vector = *static_cast<const uint2*>(from);
      words[0] = vector.x;
      words[1] = vector.y;
    } else {
      words[0] = *static_cast<const std::uint32_t*>(from);
    }
  } else if (bytes > 0) {
#pragma unroll
    for (int i = 0; i < kBytes / 2; ++i) {
      if (2 * i < bytes) {
        words[i / 2] |= static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(from)[i])
                        << (i % 2 * 16);
      }
    }
  }
  if constexpr (kBytes == 16) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]),
                 "r"(words[2]), "r"(words[3])
                 : "memory");
  } else if constexpr (kBytes == 8) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(words[0]), "r"(words[1])
                 : "memory");
  } else {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(words[0]) : "memory");
  }
#endif
}

// ---- The block ---------------------------------------------------------------------------------

template <typename Thread>
class DeviceExec {
 public:
  __device__ __forceinline__ explicit DeviceExec(std::uint8_t* shared)
      : shared_(shared), address_(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))) {}

  template <typename Phase>
  __device__ __forceinline__ void each(Phase phase) {
    phase(static_cast<int>(threadIdx.x), thread_);
  }
  __device__ __forceinline__ void barrier() { __syncthreads(); }
  __device__ __forceinline__ void warp_barrier() { __syncwarp(); }

  template <typename T>
  __device__ __forceinline__ void store(int, std::uint32_t offset, const T& value) {
    *reinterpret_cast<T*>(shared_ + offset) = value;
  }
  template <typename T>
  __device__ __forceinline__ T load(int, std::uint32_t offset) const {
    return *reinterpret_cast<const T*>(shared_ + offset);
  }

  template <int kBytes>
  __device__ __forceinline__ void copy(int, std::uint32_t offset, const void* from, int bytes) {
    copy_to_shared<kBytes>(address_ + offset, from, bytes);
  }
  __device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
  }
  template <int kPending>
  __device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
  }

  // ldmatrix.x4: offset_of(thread number) is the row that a lane gives.
  template <typename OffsetOf, typename Target>
  __device__ __forceinline__ void load_matrices(OffsetOf offset_of, Target target) {
    std::uint32_t (&to)[4] = target(thread_);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address_ + offset_of(static_cast<int>(threadIdx.x)))
                 : "memory");
  }

  template <MmaOp op, typename Operands>
  __device__ __forceinline__ void mma(Operands operands) {
    cuda::mma<op>(operands(thread_));
  }

  // Sums a number over the warp's lanes, pairwise; every lane gets the sum.
  template <typename Target>
  __device__ __forceinline__ void warp_sum(Target target) {
    auto& value = target(thread_);
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    }
  }

 private:
  Thread thread_;
  std::uint8_t* shared_;
  std::uint32_t address_;
};

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_DEVICE_EXEC_CUH_
