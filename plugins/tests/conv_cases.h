// The matrix of convolution shapes that the tests of geometry and kernels share.

#ifndef BITEXPORT_TESTS_CONV_CASES_H_
#define BITEXPORT_TESTS_CONV_CASES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "core/conv_shape.h"

namespace bitexport_test {

inline std::string to_string(const bitexport::ConvArguments& a) {
  std::ostringstream text;
  const auto list = [&text](const char* name, const std::int64_t* values, int count) {
    text << name << " [";
    for (int i = 0; i < count; ++i) text << (i ? "," : "") << values[i];
    text << "] ";
  };
  list("X", a.input, 4);
  list("W", a.weight, 4);
  list("strides", a.strides, 2);
  list("pads", a.pads, 4);
  list("dilations", a.dilations, 2);
  text << "group " << a.group;
  return text.str();
}

// Calls visit(arguments, shape) for every valid case: kernels x strides x pads x dilations x groups
// x input sizes, down to inputs smaller than the kernel. `channels` cycle through the cases as the
// number of channels in a group.
template <std::size_t kChannels, typename Visit>
void for_each_conv_case(const std::array<std::int64_t, kChannels>& channels, Visit visit) {
  constexpr std::int64_t kernels[][2] = {{1, 1}, {2, 2}, {3, 3}, {1, 3}, {5, 3}};
  constexpr std::int64_t strides[][2] = {{1, 1}, {2, 2}, {1, 3}};
  constexpr std::int64_t pads[][4] = {
      {0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {0, 1, 2, 0}, {4, 0, 1, 5}};
  constexpr std::int64_t dilations[][2] = {{1, 1}, {2, 2}, {3, 1}};
  constexpr std::int64_t sizes[][2] = {{1, 1}, {2, 1}, {1, 4}, {2, 3}, {3, 3}, {6, 5}};
  std::size_t cycle = 0;
  for (const auto& kernel : kernels) {
    for (const auto& stride : strides) {
      for (const auto& pad : pads) {
        for (const auto& dilation : dilations) {
          for (const auto& size : sizes) {
            for (const std::int64_t group : {1, 2, 3}) {
              const std::int64_t per_group = channels[cycle++ % kChannels];
              const bitexport::ConvArguments arguments = {
                  {1 + static_cast<std::int64_t>(cycle % 2), per_group * group, size[0], size[1]},
                  {2 * group, per_group, kernel[0], kernel[1]},
                  {stride[0], stride[1]},
                  {pad[0], pad[1], pad[2], pad[3]},
                  {dilation[0], dilation[1]},
                  group};
              const bitexport::ConvShapeResult result = bitexport::make_conv_shape(arguments);
              if (result.ok()) visit(arguments, result.shape);
            }
          }
        }
      }
    }
  }
}

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_CONV_CASES_H_
