// A convolution of the op table, as adapters hand it to the CUDA kernels.

#ifndef BITEXPORT_KERNELS_CUDA_CONV_OP_H_
#define BITEXPORT_KERNELS_CUDA_CONV_OP_H_

#include <algorithm>
#include <string_view>

#include "core/op_spec.h"
#include "kernels/cuda/problem.h"

namespace bitexport {
namespace cuda {

// Places among the op's inputs; -1 where it has none of that name.
struct ConvPlaces {
  explicit ConvPlaces(const OpSpec& spec)
      : x(input_index(spec, "X")),
        weight(std::max(input_index(spec, "W"), input_index(spec, "Codes"))),
        codebook(input_index(spec, "CB")),
        threshold(input_index(spec, "Th")),
        scale(input_index(spec, "S")),
        bias(input_index(spec, "B")),
        residual(input_index(spec, "R")),
        slope(input_index(spec, "Slope")),
        shift(input_index(spec, "Shift")),
        low(input_index(spec, "Lo")),
        high(input_index(spec, "Hi")) {}

  int x, weight, codebook, threshold, scale, bias, residual, slope, shift, low, high;
};

// Inputs tell the kinds apart, but not the width of the codes.
inline WeightKind weight_kind(const OpSpec& spec) {
  if (has_binary_activations(spec)) return WeightKind::kBinary;
  if (input_index(spec, "W") >= 0) return WeightKind::kSign;
  return std::string_view(spec.name) == "CodebookConv16" ? WeightKind::kCodebook16
                                                         : WeightKind::kCodebook8;
}

}  // namespace cuda
}  // namespace bitexport

#endif  // BITEXPORT_KERNELS_CUDA_CONV_OP_H_
