// The TensorRT plugins for a program in another language: layers that are made by sizes and
// enqueued on that program's own buffers and stream. benchmarks/gpu is that program.

#ifndef BITEXPORT_BENCHMARKS_TRT_LAYERS_H_
#define BITEXPORT_BENCHMARKS_TRT_LAYERS_H_

#include <cstddef>
#include <cstdint>

#define BITEXPORT_BENCH_API __attribute__((visibility("default")))

extern "C" {

// A linear layer is the 1x1 convolution of 1x1 images that computes the same.
struct LayerSizes {
  std::int32_t input[4];   // N, Ci, H, W
  std::int32_t weight[4];  // Co, Ci/group, kh, kw
  std::int32_t strides[2];
  std::int32_t pads[4];
  std::int32_t dilations[2];
  std::int32_t group;
  std::int32_t entries;  // of the codebook; 0 without one
  std::int32_t depth;
  std::int32_t is_half;
  std::int32_t is_nhwc8;
};

struct Layer;

// Null where it cannot be; layer_error then says why. The plugin goes through the same steps as in
// an engine: configured, serialized, created again.
BITEXPORT_BENCH_API Layer* layer_create(const char* op, const LayerSizes* sizes);
BITEXPORT_BENCH_API void layer_destroy(Layer* layer);

// Writes up to `capacity` tactics; returns how many there are.
BITEXPORT_BENCH_API std::int32_t layer_tactics(const Layer* layer, std::int32_t* tactics,
                                               std::int32_t capacity);
BITEXPORT_BENCH_API std::size_t layer_workspace_bytes(const Layer* layer);

// 0, or else layer_error says why. `inputs` are in the order of the op table.
BITEXPORT_BENCH_API std::int32_t layer_enqueue(Layer* layer, std::int32_t tactic,
                                               const void* const* inputs, void* output,
                                               void* workspace, void* stream);

// Of the last call of this thread that failed.
BITEXPORT_BENCH_API const char* layer_error();
}

#endif  // BITEXPORT_BENCHMARKS_TRT_LAYERS_H_
