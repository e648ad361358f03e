// Speed of the CPU kernels on the binary layers of ResNet-18: one thread, packing and epilogue
// included, least CPU time of many repetitions, the kernels in turn so that a slow moment of the
// machine meets all of them.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <vector>

#include "core/conv_shape.h"
#include "kernels/cpu/binary_conv.h"

namespace {

using namespace bitexport;
using namespace bitexport::cpu;

struct Layer {
  const char* name;
  std::int64_t in_channels, out_channels, size, stride;
};

constexpr Layer kLayers[] = {
    {"64 @56", 64, 64, 56, 1},    {"64->128 /2", 64, 128, 56, 2},
    {"128 @28", 128, 128, 28, 1}, {"128->256 /2", 128, 256, 28, 2},
    {"256 @14", 256, 256, 14, 1}, {"256->512 /2", 256, 512, 14, 2},
    {"512 @7", 512, 512, 7, 1},
};
constexpr int kRepetitions = 30;

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Bench {
  ConvShape shape;
  std::unique_ptr<const BinaryConvKernel> kernel;
  std::unique_ptr<const BinaryConvPlan> plan;
  double pack_seconds = 1e9;
  double seconds = 1e9;

  Bench(const ConvShape& s, const std::vector<std::uint32_t>& weight, Isa isa)
      : shape(s), kernel(make_binary_conv(s, weight.data(), isa)), plan(kernel->plan(s)) {}

  void run(const std::vector<float>& x, const std::vector<float>& channels, void* workspace,
           float* y) {
    const double start = cpu_seconds();
    for (int u = 0; u < plan->pack_units(); ++u) {
      plan->pack(u, x.data(), channels.data(), workspace);
    }
    const double packed = cpu_seconds();
    const Epilogue epilogue{channels.data(), channels.data(), nullptr};
    for (int u = 0; u < plan->conv_units(); ++u) plan->convolve(u, workspace, epilogue, y);
    const double end = cpu_seconds();
    if (packed - start < pack_seconds) pack_seconds = packed - start;
    if (end - start < seconds) seconds = end - start;
  }
};

}  // namespace

int main() {
  const std::vector<Isa> isas = usable_isas();
  std::printf("%-12s", "GMAC/s");
  for (const Isa isa : isas) std::printf(" %10s", isa_name(isa));
  std::printf(" %12s\n", "of it pack");
  for (const Layer& layer : kLayers) {
    const ConvArguments arguments = {{1, layer.in_channels, layer.size, layer.size},
                                     {layer.out_channels, layer.in_channels, 3, 3},
                                     {layer.stride, layer.stride},
                                     {1, 1, 1, 1}};
    const ConvShape shape = make_conv_shape(arguments).shape;
    std::vector<std::uint32_t> weight(static_cast<std::size_t>(shape.weight_words()));
    for (auto& word : weight) word = static_cast<std::uint32_t>(std::rand());
    std::vector<float> x(static_cast<std::size_t>(shape.input_elements()));
    for (auto& value : x) value = static_cast<float>(std::rand() % 100 - 50);
    const std::vector<float> channels(512, 0.5f);
    std::vector<float> y(static_cast<std::size_t>(shape.output_elements()));
    std::vector<Bench> benches;
    for (const Isa isa : isas) benches.emplace_back(shape, weight, isa);
    void* workspace = std::aligned_alloc(kWorkspaceAlignment, 64 << 20);
    for (int i = 0; i < kRepetitions; ++i) {
      for (Bench& bench : benches) bench.run(x, channels, workspace, y.data());
    }
    std::free(workspace);
    const double macs =
        static_cast<double>(shape.output_elements()) * static_cast<double>(layer.in_channels) * 9;
    std::printf("%-12s", layer.name);
    for (const Bench& bench : benches) std::printf(" %10.1f", macs / bench.seconds * 1e-9);
    std::printf(" %9.1f us\n", benches.back().pack_seconds * 1e6);
  }
  return 0;
}
