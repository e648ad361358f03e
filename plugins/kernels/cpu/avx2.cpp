// The look-up kernel with AVX2.

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/avx2_pack.h"
#include "kernels/cpu/lookup_layout.h"
#include "kernels/cpu/lookup_tables.h"
#include "kernels/cpu/lookup_weights.h"
#include "kernels/cpu/output_tiles.h"
#include "kernels/cpu/plane_layout.h"
#include "kernels/cpu/streamed.h"
#include "kernels/cpu/target.h"
#include "kernels/cpu/variants.h"

BITEXPORT_TARGET_BEGIN("avx2,prfchw")

#include "kernels/cpu/avx2_vector.h"
#include "kernels/cpu/lookup_inner.h"
// After them.
#include "kernels/cpu/avx2_inner.h"
#include "kernels/cpu/lookup_plan.h"

namespace bitexport {
namespace cpu {

std::unique_ptr<const BinaryConvKernel> make_avx2(const ConvShape& shape,
                                                  const std::uint32_t* weight) {
  return std::make_unique<LookupKernel<Vector>>(shape, weight);
}

}  // namespace cpu
}  // namespace bitexport

BITEXPORT_TARGET_END
