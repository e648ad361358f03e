// What the CUDA kernels can be asked to compute. Plain structs, so that plans and their tests build
// without the CUDA toolkit.

#ifndef BITEXPORT_KERNELS_CUDA_PROBLEM_H_
#define BITEXPORT_KERNELS_CUDA_PROBLEM_H_

#include <cstddef>
#include <cstdint>

#include "core/activation.h"
#include "core/conv_shape.h"

namespace bitexport {
namespace cuda {

enum class DataType { kFloat32, kFloat16 };

// Of X, R and Y alike. kNhwc8 is NHWC with the channels padded to a multiple of 8 (TensorRT's
// kHWC8), float16 only; what the padding of X holds does not matter, that of Y is written as 0.
enum class Layout { kNchw, kNhwc8 };

// Where the weight comes from: sign words with real or with binary activations, or code words of 8
// or 16 bits with a codebook.
enum class WeightKind { kSign, kBinary, kCodebook8, kCodebook16 };

// A convolution, as far as a kernel is chosen by it. The codebook is K = entries centroids of
// d = depth weights; both are 0 for sign words.
struct ConvProblem {
  ConvShape shape;
  WeightKind kind;
  DataType type;
  Layout layout;
  bool residual;
  std::int32_t entries;
  std::int32_t depth;
  Activation activation = Activation::kNone;  // kBinary may have one
};

// Pointers to device memory. Y = activation(scale * conv(X, W) + bias (+ residual)).
struct ConvBuffers {
  const void* x;                 // [N, Ci, H, W] of the problem's type and layout
  const std::uint32_t* weight;   // sign words [Co, kh, kw, words_per_tap] or code words [Co, n]
  const void* codebook;          // float16 [K, d]; null for sign words
  const float* threshold;        // [Ci]; null except for kBinary
  const float* scale;            // [Co]
  const float* bias;             // [Co]
  const void* residual;          // as y; null where the problem has none
  void* y;                       // [N, Co, Ho, Wo]
  void* workspace;               // conv_workspace_bytes, aligned to 256
  const float* slope = nullptr;  // [Co], of kPRelu
  const float* shift = nullptr;  // [Co], of kPRelu
  const float* low = nullptr;    // one number, of kClip
  const float* high = nullptr;   // one number, of kClip
};

// A tactic is a kernel with its tile sizes; its number is stable between releases and greater than
// 0. kReferenceTactic is a plain loop for any problem, there to test the others against.
inline constexpr int kReferenceTactic = 1 << 20;

// Y [N, Co] = scale * (X [N, Ci] @ W^T) + bias with W [Co, Ci] from 16-bit codes.
struct GemmProblem {
  std::int32_t batch;
  std::int32_t in_features;
  std::int32_t out_features;
  std::int32_t entries;
  std::int32_t depth;
  DataType type;
};

struct GemmBuffers {
  const void* x;               // [N, Ci]
  const std::uint32_t* codes;  // [Co, n]
  const void* codebook;        // float16 [K, d]
  const float* scale;          // [Co]
  const float* bias;           // [Co]
  void* y;                     // [N, Co]
  void* workspace;             // gemm_workspace_bytes, aligned to 256
};

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_PROBLEM_H_
