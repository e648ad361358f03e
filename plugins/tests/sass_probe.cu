// A kernel of every family, for tests/test_cuda_sass.py to look at as machine code of every GPU.

#include "kernels/cuda/conv_global.cuh"

namespace bitexport {
namespace cuda {

#define BITEXPORT_PROBE(...)                                                       \
  template __global__ void run_block<RunConv<__VA_ARGS__>, __VA_ARGS__, ConvArgs>( \
      const __grid_constant__ ConvArgs)

using Xor = ConvBlock<MmaOp::kXorPopc, WeightSource::kBits, 128, 128, 64, 16>;
using And = ConvBlock<MmaOp::kAndPopc, WeightSource::kBits, 128, 128, 64, 16>;
using Bytes = ConvBlock<MmaOp::kBytes, WeightSource::kBits, 128, 128, 64, 16>;
using Signs = ConvBlock<MmaOp::kHalf, WeightSource::kSigns, 128, 128, 64, 16>;
using WideSigns = ConvBlock<MmaOp::kBfloat, WeightSource::kSigns, 128, 64, 64, 16>;
using Codes = ConvBlock<MmaOp::kHalf, WeightSource::kCodes, 128, 64, 64, 16>;
using WideCodes = ConvBlock<MmaOp::kBfloat, WeightSource::kCodes, 32, 64, 32, 16>;
using Dense = ConvBlock<MmaOp::kHalf, WeightSource::kDense, 128, 128, 64, 16>;

BITEXPORT_PROBE(Xor);
BITEXPORT_PROBE(And);
BITEXPORT_PROBE(Bytes);
BITEXPORT_PROBE(Signs);
BITEXPORT_PROBE(WideSigns);
BITEXPORT_PROBE(Codes);
BITEXPORT_PROBE(WideCodes);
BITEXPORT_PROBE(Dense);

}  // namespace cuda
}  // namespace bitexport
