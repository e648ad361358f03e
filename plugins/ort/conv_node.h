// What the convolution ops share: their attributes, the shape of a Run, shape inference.

#ifndef BITEXPORT_ORT_CONV_NODE_H_
#define BITEXPORT_ORT_CONV_NODE_H_

#include "core/conv_shape.h"
#include "ort/binding.h"
#include "ort/ort_api.h"

namespace bitexport {
namespace ort {

// The attributes of a node, of a KernelInfo or another reader like it. `input` stays 0: it is
// known at a Run only.
template <typename Attributes>
ConvArguments read_conv_attributes(const Attributes& attributes) {
  ConvArguments arguments{};
  attributes.integers("wshape", arguments.weight, 4);
  attributes.integers("strides", arguments.strides, 2);
  attributes.integers("pads", arguments.pads, 4);
  attributes.integers("dilations", arguments.dilations, 2);
  arguments.group = attributes.integer("group");
  return arguments;
}

// The shape on the smallest input that needs no pads; throws a Failure where no input at all could
// make the attributes valid.
ConvShape smallest_shape(const ConvArguments& attributes);

// The shape of a Run on X; throws a Failure where X does not fit the attributes.
ConvShape conv_shape(const ConvArguments& attributes, const Shape& x);

// The shape of Y, [N, Co, Ho, Wo].
Shape output_shape(const ConvShape& shape);

// Tells the runtime Y's shape where X's and the attributes settle it, and else nothing: a node
// that is wrong is refused when its kernel is made, by name.
void infer_conv_shape(const Api& api, OrtShapeInferContext* context);

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CONV_NODE_H_
