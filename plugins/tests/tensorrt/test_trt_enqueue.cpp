// Every plugin, type, format and tactic over the matrix of shapes, against the plain loops.
//
// Linked with the CUDA kernels it runs on a GPU, linked with the host's double on any machine.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/conv_cases.h"
#include "tests/tensorrt/device_memory.h"
#include "tests/tensorrt/fake_tensorrt.h"
#include "tests/tensorrt/layer_data.h"
#include "tests/tensorrt/layer_run.h"
#include "tests/tensorrt/node.h"

namespace {

using bitexport::ConvArguments;
using bitexport::ConvShape;
using bitexport::kDeviceOps;
using bitexport::OpSpec;
using bitexport_test::LayerData;
using bitexport_test::LayerRun;
using bitexport_test::Node;
using bitexport_test::PluginLibrary;
using bitexport_test::Random;
using nvinfer1::DataType;
using nvinfer1::TensorFormat;

struct Options {
  int stride = 1;        // take every so many of the small geometries
  bool networks = true;  // layers of real networks
};

struct Memory {
  DataType type;
  TensorFormat format;
};

constexpr Memory kMemories[] = {{DataType::kFLOAT, TensorFormat::kLINEAR},
                                {DataType::kHALF, TensorFormat::kLINEAR},
                                {DataType::kHALF, TensorFormat::kHWC8}};

// Layers of the networks that are exported, with few images: many channels, odd sizes, strides,
// channels that fill no word and no tile.
constexpr ConvArguments kNetworkLayers[] = {
    {{1, 64, 56, 56}, {64, 64, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
    {{2, 64, 28, 28}, {128, 64, 3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}, 1},
    {{3, 256, 7, 7}, {256, 256, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
    {{1, 512, 7, 7}, {512, 512, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
    {{2, 160, 16, 16}, {160, 160, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
    {{1, 3, 33, 31}, {20, 3, 7, 7}, {2, 2}, {3, 3, 3, 3}, {1, 1}, 1},
    {{2, 96, 13, 11}, {130, 48, 5, 5}, {1, 1}, {2, 2, 2, 2}, {1, 1}, 2},
    {{1, 200, 9, 17}, {72, 200, 1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
    {{2, 36, 14, 14}, {36, 1, 3, 3}, {1, 1}, {1, 1, 1, 1}, {1, 1}, 36},
};

void check_node(Random& random, const PluginLibrary& library, const Node& node) {
  bitexport_test::state().where = node.title();
  LayerRun run(library, node);
  const LayerData data = bitexport_test::make_layer_data(random, node);
  for (const std::int32_t tactic : run.tactics()) run.check(node, data, tactic);
  if (node.is_binary()) bitexport_test::check_accumulators(node, data);
  if (node.shape.batch == 1) return;
  // A smaller batch of the same profile.
  Node smaller = node;
  smaller.shape.batch = 1;
  const LayerData smaller_data = bitexport_test::make_layer_data(random, smaller);
  for (const std::int32_t tactic : run.tactics()) run.check(smaller, smaller_data, tactic);
}

// A block size that divides the weights of an output channel: along the kernel, along the channels,
// one weight, all of them. Codebooks stay small; the largest is among the linear layers.
void pick_codebook(Random& random, Node& node) {
  const ConvShape& s = node.shape;
  const std::int32_t row = s.in_channels_per_group() * s.taps();
  std::vector<std::int32_t> depths;
  for (const std::int32_t depth : {s.taps(), 4, 8, 1, row}) {
    if (row % depth == 0) depths.push_back(depth);
  }
  node.depth = depths[random.below(static_cast<std::uint32_t>(depths.size()))];
  if (node.depth > 16) node.entries = 5;
}

void check_conv(Random& random, const PluginLibrary& library, const ConvArguments& arguments,
                const Memory& memory) {
  for (const OpSpec& spec : kDeviceOps) {
    if (spec.kind != bitexport::OpKind::kConv) continue;
    // Ops with an activation take turns: they differ behind the sums alone.
    if (bitexport::activation_of(spec) != bitexport::Activation::kNone && random.below(4) > 0) {
      continue;
    }
    Node node = bitexport_test::make_node(spec.name, arguments);
    node.type = memory.type;
    node.format = memory.format;
    if (node.has_codebook()) pick_codebook(random, node);
    check_node(random, library, node);
  }
}

void check_small_geometries(Random& random, const PluginLibrary& library, int stride) {
  const std::array<std::int64_t, 6> channels = {1, 8, 32, 33, 40, 64};
  int index = 0;
  bitexport_test::for_each_conv_case(
      channels, [&](const ConvArguments& arguments, const ConvShape&) {
        // The memories take turns, out of step with the cycles of the shapes.
        const int turn = index++;
        if (turn % stride != 0) return;
        const auto memory = static_cast<std::size_t>(turn / stride + turn / 54) % 3;
        check_conv(random, library, arguments, kMemories[memory]);
      });
}

void check_linear_layers(Random& random, const PluginLibrary& library, bool large) {
  struct Sizes {
    std::int64_t batch, in, out;
    std::int32_t entries, depth;
  };
  constexpr Sizes kSizes[] = {{1, 8, 1, 2, 4},         {1, 64, 10, 16, 4},      {3, 40, 33, 300, 8},
                              {16, 96, 48, 256, 1},    {65, 130, 17, 31, 2},    {2, 72, 5, 1, 72},
                              {1, 512, 1000, 1024, 4}, {8, 2048, 1000, 1024, 4}};
  for (const Sizes& sizes : kSizes) {
    if (!large && sizes.in > 256) continue;
    for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
      Node node = bitexport_test::make_node(
          "CodebookGemm", {{sizes.batch, sizes.in, 1, 1}, {sizes.out, sizes.in, 1, 1}});
      node.entries = sizes.entries;
      node.depth = sizes.depth;
      node.type = type;
      check_node(random, library, node);
    }
  }
}

Options read_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--stride" && i + 1 < argc) {
      options.stride = std::max(1, std::atoi(argv[++i]));
    } else if (argument == "--small") {
      options.networks = false;
    } else if (argument == "--no-guards") {
      bitexport_test::DeviceBuffer::guard_bytes = 0;
    } else {
      throw std::invalid_argument("expected [--stride N] [--small] [--no-guards], got " + argument);
    }
  }
  return options;
}

int run(const Options& options) {
  Random random(20240607);
  bitexport_test::RecordingLogger logger;
  const PluginLibrary library(nullptr);
  library.set_logger_finder(&logger);
  std::cout << "compute capability " << bitexport_test::device_compute_capability() << "\n";
  check_small_geometries(random, library, options.stride);
  check_linear_layers(random, library, options.networks);
  if (options.networks) {
    for (const Memory& memory : kMemories) {
      for (const ConvArguments& layer : kNetworkLayers) check_conv(random, library, layer, memory);
    }
  }
  for (const std::string& error : logger.errors) std::cerr << error << "\n";
  CHECK_EQUAL(logger.errors.size(), 0u);
  return bitexport_test::finish();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(read_options(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
