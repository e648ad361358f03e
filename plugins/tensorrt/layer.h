// What an op does, apart from TensorRT's interfaces: unpack, validate, call a kernel.

#ifndef BITEXPORT_TENSORRT_LAYER_H_
#define BITEXPORT_TENSORRT_LAYER_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "core/op_spec.h"
#include "tensorrt/api.h"
#include "tensorrt/attributes.h"
#include "tensorrt/tensor_desc.h"

namespace bitexport {
namespace trt {

// Where a launch reads and writes.
struct Bindings {
  const void* const* inputs;  // in the order of the op's inputs
  void* output;
  void* workspace;
  cudaStream_t stream;
};

// One node of the op table with its attributes. It never changes, so all clones of a plugin share
// it. `inputs` are the descriptions of all inputs, in the order of the op table, with known sizes.
// Everything throws a Failure for what does not fit.
class Layer {
 public:
  using TensorDesc = nvinfer1::PluginTensorDesc;

  virtual ~Layer() = default;

  const Attributes& attributes() const { return attributes_; }
  const OpSpec& spec() const { return attributes_.spec(); }

  // Whether activations may lie in memory like this.
  virtual bool takes(nvinfer1::DataType type, nvinfer1::TensorFormat format) const = 0;

  // Y's shape from the inputs' shapes, whose sizes may be unknown.
  virtual void infer_output(const nvinfer1::DimsExprs* inputs, const Sizes& sizes,
                            nvinfer1::DimsExprs& output) const = 0;

  // Y's shape; checks all inputs.
  virtual nvinfer1::Dims output_dims(const TensorDesc* inputs) const = 0;

  // Kernels for these inputs on a device of this compute capability, the likely fastest first.
  virtual std::vector<int> tactics(const TensorDesc* inputs, int compute_capability) const = 0;
  virtual std::size_t workspace_bytes(const TensorDesc* inputs, int tactic) const = 0;
  virtual cudaError_t launch(const TensorDesc* inputs, int tactic, const Bindings& at) const = 0;

 protected:
  explicit Layer(const Attributes& attributes) : attributes_(attributes) {}
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

 private:
  Attributes attributes_;
};

// The layer of a node; throws a Failure where no input at all could make its attributes valid.
std::shared_ptr<const Layer> make_layer(const Attributes& attributes);

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_LAYER_H_
