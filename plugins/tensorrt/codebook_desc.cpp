#include "tensorrt/codebook_desc.h"

#include <string>

#include "tensorrt/log.h"
#include "tensorrt/tensor_desc.h"

namespace bitexport {
namespace trt {

CodebookSize require_codebook(const nvinfer1::PluginTensorDesc& codes,
                              const nvinfer1::PluginTensorDesc& codebook, CodeBits bits,
                              std::int64_t rows, std::int64_t row_size) {
  const std::int64_t most = std::int64_t{1} << static_cast<int>(bits);
  const nvinfer1::Dims& dims = codebook.dims;
  if (dims.nbDims != 2 || dims.d[0] < 1 || dims.d[0] > most || dims.d[1] < 1) {
    throw Failure("expected CB of shape [K, d] with K from 1 to " + std::to_string(most) +
                  ", got " + to_string(dims));
  }
  const std::int64_t depth = dims.d[1];
  if (row_size % depth != 0) {
    throw Failure("expected a CB [K, d] whose d divides the " + std::to_string(row_size) +
                  " weights of an output channel, got " + to_string(dims));
  }
  require_dims("Codes", codes, {rows, code_words(row_size / depth, bits)});
  return {static_cast<std::int32_t>(dims.d[0]), static_cast<std::int32_t>(depth)};
}

}  // namespace trt
}  // namespace bitexport
