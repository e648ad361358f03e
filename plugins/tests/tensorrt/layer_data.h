// Numbers for a node: inputs as bytes in memory, and what must come out.

#ifndef BITEXPORT_TESTS_TENSORRT_LAYER_DATA_H_
#define BITEXPORT_TESTS_TENSORRT_LAYER_DATA_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/tensorrt/activations.h"
#include "tests/tensorrt/node.h"

namespace bitexport_test {

struct LayerData {
  std::vector<std::vector<std::uint8_t>> inputs;  // in the order of the op's inputs
  Activations output;
  std::vector<float> threshold;
  // Y [N, Co, Ho, Wo] of the plain loops, and how far from it each element may lie.
  std::vector<double> expected;
  std::vector<double> tolerance;
  std::vector<std::int32_t> accumulators;  // of binary activations
};

LayerData make_layer_data(Random& random, const Node& node);

// Compares Y in memory; counts one check, and says which element is worst.
void check_output(const LayerData& data, const void* y);

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_LAYER_DATA_H_
