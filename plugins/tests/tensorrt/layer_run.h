// Runs a plugin as an engine would: configured, serialized, created again, attached, enqueued.

#ifndef BITEXPORT_TESTS_TENSORRT_LAYER_RUN_H_
#define BITEXPORT_TESTS_TENSORRT_LAYER_RUN_H_

#include <cstdint>
#include <vector>

#include "tests/tensorrt/device_memory.h"
#include "tests/tensorrt/layer_data.h"
#include "tests/tensorrt/node.h"

namespace bitexport_test {

class LayerRun {
 public:
  // The profile goes from a batch of one to the node's; the node's is the optimum.
  LayerRun(const PluginLibrary& library, const Node& node);

  // What TensorRT would time; the default, 0, is first.
  const std::vector<std::int32_t>& tactics() const { return tactics_; }
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  PluginHandle& engine_plugin() { return engine_; }

  // Sets a tactic, changes to a node of the profile, which may have a smaller batch, and enqueues.
  std::int32_t run(const Node& node, const LayerData& data, std::int32_t tactic,
                   cudaStream_t stream = nullptr);
  void set_tactic(std::int32_t tactic);
  void change_shape(const Node& node);
  // Returns enqueue's result; checks guard bytes and that no input has changed. Y's bytes are in
  // `output`.
  std::int32_t enqueue(const Node& node, const LayerData& data, cudaStream_t stream = nullptr);
  // The same as run, and compares Y.
  void check(const Node& node, const LayerData& data, std::int32_t tactic);

  std::vector<std::uint8_t> output;

 private:
  PluginHandle engine_;
  std::vector<std::int32_t> tactics_ = {0};
  std::size_t workspace_bytes_ = 0;
};

// Every tactic of a binary node, and the reference kernel: accumulators equal the plain loops'.
void check_accumulators(const Node& node, const LayerData& data);

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_LAYER_RUN_H_
