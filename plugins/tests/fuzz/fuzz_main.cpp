// Runs a fuzz target without libFuzzer: seeded random inputs, or the files that are named.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kLongest = 400;

// What a crash leaves behind, so that it can be run again.
void keep(const std::vector<std::uint8_t>& input) {
  std::ofstream file("fuzz-input.bin", std::ios::binary | std::ios::trunc);
  for (const std::uint8_t byte : input) file.put(static_cast<char>(byte));
}

void run_random(long count, unsigned seed) {
  std::cout << "seed " << seed << ", " << count << " inputs\n";
  std::mt19937 random(seed);
  for (long i = 0; i < count; ++i) {
    std::vector<std::uint8_t> input(random() % kLongest);
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    keep(input);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::cout << count << " checks, 0 failures\n";
}

}  // namespace

// fuzz_NAME -runs=COUNT -seed=SEED, as libFuzzer takes them, or fuzz_NAME FILE...
int main(int argc, char** argv) {
  long runs = 2000;
  unsigned seed = 1;
  bool by_name = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("-runs=", 0) == 0) {
      runs = std::strtol(argument.c_str() + 6, nullptr, 10);
    } else if (argument.rfind("-seed=", 0) == 0) {
      seed = static_cast<unsigned>(std::strtol(argument.c_str() + 6, nullptr, 10));
    } else if (argument[0] != '-') {
      by_name = true;
      std::ifstream file(argument, std::ios::binary);
      const std::vector<char> text((std::istreambuf_iterator<char>(file)), {});
      const std::vector<std::uint8_t> input(text.begin(), text.end());
      LLVMFuzzerTestOneInput(input.data(), input.size());
    }
  }
  if (!by_name) run_random(runs, seed);
  return 0;
}
