#include "tensorrt/layer.h"

#include "tensorrt/conv_layer.h"
#include "tensorrt/gemm_layer.h"

namespace bitexport {
namespace trt {

std::shared_ptr<const Layer> make_layer(const Attributes& attributes) {
  if (attributes.spec().kind == OpKind::kGemm) return std::make_shared<GemmLayer>(attributes);
  return std::make_shared<ConvLayer>(attributes);
}

}  // namespace trt
}  // namespace bitexport
