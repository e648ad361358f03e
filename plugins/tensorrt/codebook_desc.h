// The codebook and the code words of a product-quantized weight, as TensorRT describes them.

#ifndef BITEXPORT_TENSORRT_CODEBOOK_DESC_H_
#define BITEXPORT_TENSORRT_CODEBOOK_DESC_H_

#include <cstdint>

#include "core/packing.h"
#include "tensorrt/api.h"

namespace bitexport {
namespace trt {

struct CodebookSize {
  std::int32_t entries;  // K centroids
  std::int32_t depth;    // of d weights
};

// Reads CB [K, d] and checks it and Codes [rows, words] for a weight of `rows` rows of `row_size`
// weights. Throws a Failure where they do not fit.
CodebookSize require_codebook(const nvinfer1::PluginTensorDesc& codes,
                              const nvinfer1::PluginTensorDesc& codebook, CodeBits bits,
                              std::int64_t rows, std::int64_t row_size);

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_CODEBOOK_DESC_H_
