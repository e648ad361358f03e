// An op of the op table as ONNX Runtime takes it: the edge between its C API and our kernels.

#ifndef BITEXPORT_ORT_CUSTOM_OP_H_
#define BITEXPORT_ORT_CUSTOM_OP_H_

#include <cstddef>
#include <memory>
#include <string>

#include "core/op_spec.h"
#include "ort/binding.h"
#include "ort/ort_api.h"

namespace bitexport {
namespace ort {

// ONNX Runtime hands it back to every callback as the CustomOp that it starts with.
struct OpDefinition : CustomOp {
  const Api* api;
  const OpSpec* spec;
  TensorType activations;  // the type that T stands for: float or float16
  const char* provider;    // the execution provider that runs it

  static const OpDefinition& of(const CustomOp* op) {
    return *static_cast<const OpDefinition*>(op);
  }
};

namespace custom_op_detail {

constexpr TensorType tensor_type(ElementType type, TensorType activations) {
  switch (type) {
    case ElementType::kActivation:
      return activations;
    case ElementType::kFloat:
      return TensorType::kFloat;
    case ElementType::kFloat16:
      return TensorType::kFloat16;
    case ElementType::kInt32:
      return TensorType::kInt32;
  }
  return TensorType::kUndefined;
}

inline std::string layer_name(const OpSpec& spec, const std::string& node_name) {
  return std::string(spec.name) + " node '" + node_name + "'";
}

// What a session holds for one node.
template <typename Kernel>
struct Node {
  const Api& api;
  std::string layer;
  Kernel kernel;

  Node(const Api& api_table, const std::string& layer_title, const OpSpec& spec,
       const KernelInfo& info)
      : api(api_table), layer(layer_title), kernel(spec, info) {}
};

template <typename Kernel>
OrtStatus* create_kernel(const CustomOp* op, const Api*, const OrtKernelInfo* info, void** kernel) {
  const OpDefinition& definition = OpDefinition::of(op);
  const Api& api = *definition.api;  // as new as was asked for when the op was registered
  std::string layer = definition.spec->name;
  return status_of(api, layer, [&] {
    const KernelInfo kernel_info(api, info);
    layer = layer_name(*definition.spec, kernel_info.node_name());
    *kernel = new Node<Kernel>(api, layer, *definition.spec, kernel_info);
  });
}

template <typename Kernel>
OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& node = *static_cast<const Node<Kernel>*>(kernel);
  return status_of(node.api, node.layer, [&] {
    KernelContext kernel_context(node.api, context);
    node.kernel.compute(kernel_context);
  });
}

template <typename Kernel>
OrtStatus* infer_output_shape(const CustomOp* op, OrtShapeInferContext* context) {
  const OpDefinition& definition = OpDefinition::of(op);
  return status_of(*definition.api, definition.spec->name,
                   [&] { Kernel::infer_output_shape(*definition.api, context); });
}

}  // namespace custom_op_detail

// Makes an op of the table, for one type of activations, from a class with
//
//     Kernel(const OpSpec&, const KernelInfo&)           reads attributes and constants
//     void compute(KernelContext&) const                 one Run; Runs overlap
//     static void infer_output_shape(const Api&, OrtShapeInferContext*)
//
// all of which report errors as exceptions.
template <typename Kernel>
OpDefinition define_op(const Api& api, const OpSpec& spec, TensorType activations,
                       const char* provider = "CPUExecutionProvider") {
  using namespace custom_op_detail;
  OpDefinition op{};
  op.version = kApiVersion;
  op.api = &api;
  op.spec = &spec;
  op.activations = activations;
  op.provider = provider;
  op.GetName = [](const CustomOp* self) { return OpDefinition::of(self).spec->name; };
  op.GetExecutionProviderType = [](const CustomOp* self) {
    return OpDefinition::of(self).provider;
  };
  op.GetInputTypeCount = [](const CustomOp* self) {
    return static_cast<std::size_t>(OpDefinition::of(self).spec->inputs.count);
  };
  op.GetInputType = [](const CustomOp* self, std::size_t index) {
    const OpDefinition& definition = OpDefinition::of(self);
    return tensor_type(definition.spec->inputs[static_cast<int>(index)].type,
                       definition.activations);
  };
  op.GetOutputTypeCount = [](const CustomOp*) { return std::size_t{1}; };
  op.GetOutputType = [](const CustomOp* self, std::size_t) {
    return OpDefinition::of(self).activations;
  };
  op.GetInputCharacteristic = [](const CustomOp*, std::size_t) {
    return Characteristic::kRequired;
  };
  op.GetOutputCharacteristic = op.GetInputCharacteristic;
  op.GetInputMemoryType = [](const CustomOp*, std::size_t) { return MemoryType::kDefault; };
  op.CreateKernelV2 = create_kernel<Kernel>;
  op.KernelComputeV2 = compute<Kernel>;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Node<Kernel>*>(kernel); };
  op.InferOutputShapeFn = infer_output_shape<Kernel>;
  op.GetStartVersion = [](const CustomOp*) { return kOpVersion; };
  op.GetEndVersion = op.GetStartVersion;
  return op;
}

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CUSTOM_OP_H_
