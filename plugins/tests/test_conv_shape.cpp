#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <type_traits>

#include "core/border_classes.h"
#include "core/conv_shape.h"
#include "tests/check.h"
#include "tests/conv_cases.h"

namespace {

using bitexport::BorderClasses;
using bitexport::ConvArguments;
using bitexport::ConvAxis;
using bitexport::ConvShape;
using bitexport::ConvShapeError;
using bitexport::make_conv_shape;
using bitexport_test::state;

// Kernels take a shape by value, on a GPU too.
static_assert(std::is_trivially_copyable_v<ConvShape> && std::is_standard_layout_v<ConvShape>);
static_assert(noexcept(make_conv_shape(ConvArguments{})));

ConvArguments resnet_block() {
  return {{8, 64, 56, 56}, {128, 64, 3, 3}, {2, 2}, {1, 1, 1, 1}, {1, 1}, 1};
}

bool is_valid(const ConvAxis& axis, std::int32_t out, std::int32_t tap) {
  const std::int32_t position = axis.input_at(out, tap);
  return position >= 0 && position < axis.size;
}

void test_known_sizes() {
  const auto result = make_conv_shape(resnet_block());
  CHECK(result.ok());
  CHECK_EQUAL(result.shape.vertical.out_size(), 28);
  CHECK_EQUAL(result.shape.horizontal.out_size(), 28);
  CHECK_EQUAL(result.shape.words_per_tap(), 2);
  CHECK_EQUAL(result.shape.taps(), 9);
  CHECK_EQUAL(result.shape.valid_taps(0, 0), 4);
  CHECK_EQUAL(result.shape.valid_taps(0, 5), 6);
  CHECK_EQUAL(result.shape.valid_taps(5, 27), 9);
  CHECK_EQUAL(result.shape.input_elements(), 8 * 64 * 56 * 56);
  CHECK_EQUAL(result.shape.output_elements(), 8 * 128 * 28 * 28);
  CHECK_EQUAL(result.shape.weight_elements(), 128 * 64 * 9);
  CHECK_EQUAL(result.shape.weight_words(), 128 * 9 * 2);
  CHECK_EQUAL(result.shape.activation_words(), 8 * 56 * 56 * 2);
}

void test_smallest_input() {
  ConvArguments arguments = resnet_block();
  arguments.input[1] = arguments.input[2] = -7;  // not read
  arguments.dilations[1] = 3;
  const auto result = bitexport::smallest_conv_shape(arguments);
  CHECK(result.ok());
  CHECK_EQUAL(result.shape.batch, 1);
  CHECK_EQUAL(result.shape.in_channels, 64);
  CHECK_EQUAL(result.shape.vertical.size, 3);
  CHECK_EQUAL(result.shape.horizontal.size, 7);
  arguments.group = std::int64_t{1} << 62;
  CHECK(bitexport::smallest_conv_shape(arguments).error == ConvShapeError::kGroup);
  arguments.weight[1] = -1;
  CHECK(bitexport::smallest_conv_shape(arguments).error == ConvShapeError::kWeightShape);
}

// Each group starts at a word of its own, so 2 groups of 33 channels need 4 words, not 3.
void test_grouped_words() {
  const auto result =
      make_conv_shape({{1, 66, 2, 2}, {4, 33, 1, 1}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 2});
  CHECK(result.ok());
  CHECK_EQUAL(result.shape.words_per_tap(), 2);
  CHECK_EQUAL(result.shape.activation_words(), 4 * 4);
  CHECK_EQUAL(result.shape.out_channels_per_group(), 2);
}

template <typename Change>
void check_refused(ConvShapeError expected, std::int64_t got, Change change) {
  ConvArguments arguments = resnet_block();
  change(arguments);
  state().where = bitexport_test::to_string(arguments);
  const auto result = make_conv_shape(arguments);
  CHECK_EQUAL(static_cast<int>(result.error), static_cast<int>(expected));
  CHECK_EQUAL(result.got, got);
  CHECK(std::string(bitexport::describe(result.error)) != "unknown error");
  state().where.clear();
}

void test_refusals() {
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  using A = ConvArguments;
  using E = ConvShapeError;
  check_refused(E::kBatch, -1, [](A& a) { a.input[0] = -1; });
  check_refused(E::kBatch, kHuge, [](A& a) { a.input[0] = kHuge; });
  check_refused(E::kWeightShape, 0, [](A& a) { a.weight[2] = 0; });
  check_refused(E::kWeightShape, kHuge, [](A& a) { a.weight[3] = kHuge; });
  check_refused(E::kWeightShape, -64, [](A& a) { a.weight[1] = -64; });
  check_refused(E::kGroup, 0, [](A& a) { a.group = 0; });
  check_refused(E::kGroup, -2, [](A& a) { a.group = -2; });
  check_refused(E::kGroup, 3, [](A& a) { a.group = 3; });
  check_refused(E::kInputChannels, 64, [](A& a) { a.group = 2; });
  check_refused(E::kInputChannels, 63, [](A& a) { a.input[1] = 63; });
  check_refused(E::kInputSize, 0, [](A& a) { a.input[2] = 0; });
  check_refused(E::kInputSize, -1, [](A& a) { a.input[3] = -1; });
  check_refused(E::kPads, -1, [](A& a) { a.pads[0] = -1; });
  check_refused(E::kPads, kHuge, [](A& a) { a.pads[3] = kHuge; });
  check_refused(E::kInputSize, 57 + bitexport::conv_shape_detail::kMaxInt32,
                [](A& a) { a.pads[2] = bitexport::conv_shape_detail::kMaxInt32; });
  check_refused(E::kStrides, 0, [](A& a) { a.strides[1] = 0; });
  check_refused(E::kDilations, 0, [](A& a) { a.dilations[0] = 0; });
  check_refused(E::kKernelPastInput, 59, [](A& a) { a.dilations[1] = 29; });
  check_refused(E::kAccumulator, 1 << 27, [](A& a) { a.input[1] = a.weight[1] = 1 << 27; });
  check_refused(E::kTensorSize, 1 << 30, [](A& a) {
    a.input[0] = 1 << 30;
    a.input[2] = a.input[3] = 1 << 20;
  });
}

void test_limits_that_are_valid() {
  ConvArguments arguments = resnet_block();
  arguments.input[0] = 0;
  CHECK(make_conv_shape(arguments).ok());
  CHECK_EQUAL(make_conv_shape(arguments).shape.output_elements(), 0);
  arguments.dilations[1] = 28;
  CHECK(make_conv_shape(arguments).ok());
  CHECK_EQUAL(make_conv_shape(arguments).shape.horizontal.out_size(), 1);
  arguments.strides[0] = bitexport::conv_shape_detail::kMaxInt32;
  CHECK_EQUAL(make_conv_shape(arguments).shape.vertical.out_size(), 1);
}

// out_size counts the places where the dilated kernel lies within the padded input.
void check_out_size(const ConvAxis& axis) {
  const std::int32_t padded = axis.size + axis.pad_begin + axis.pad_end;
  std::int32_t places = 0;
  for (std::int32_t start = 0; start + axis.dilation * (axis.kernel - 1) < padded;
       start += axis.stride) {
    ++places;
  }
  CHECK_EQUAL(axis.out_size(), places);
}

void check_valid_taps(const ConvAxis& axis) {
  for (std::int32_t out = 0; out < axis.out_size(); ++out) {
    const bitexport::TapRange taps = axis.valid_taps(out);
    CHECK(0 <= taps.first && taps.first <= taps.last && taps.last <= axis.kernel);
    for (std::int32_t tap = 0; tap < axis.kernel; ++tap) {
      CHECK_EQUAL(taps.contains(tap), is_valid(axis, out, tap));
    }
  }
}

// A pixel's class has exactly the pixel's valid taps, and no two classes have the same taps.
void check_classes(const ConvShape& shape) {
  const BorderClasses classes(shape);
  std::set<std::array<std::int32_t, 4>> seen;
  for (std::int32_t i = 0; i < classes.count(); ++i) {
    seen.insert({classes.rows(i).first, classes.rows(i).last, classes.columns(i).first,
                 classes.columns(i).last});
  }
  CHECK_EQUAL(seen.size(), static_cast<std::size_t>(classes.count()));

  std::set<std::int32_t> used;
  for (std::int32_t row = 0; row < shape.vertical.out_size(); ++row) {
    for (std::int32_t column = 0; column < shape.horizontal.out_size(); ++column) {
      const std::int32_t border_class = classes.class_of(row, column);
      used.insert(border_class);
      std::int32_t valid = 0;
      for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
        for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
          const bool inside =
              is_valid(shape.vertical, row, kh) && is_valid(shape.horizontal, column, kw);
          valid += inside ? 1 : 0;
          CHECK_EQUAL(
              classes.rows(border_class).contains(kh) && classes.columns(border_class).contains(kw),
              inside);
        }
      }
      CHECK_EQUAL(shape.valid_taps(row, column), valid);
    }
  }
  CHECK_EQUAL(used.size(), static_cast<std::size_t>(classes.count()));
}

void test_matrix() {
  int cases = 0;
  bitexport_test::for_each_conv_case(
      std::array<std::int64_t, 1>{1},
      [&cases](const ConvArguments& arguments, const ConvShape& shape) {
        state().where = bitexport_test::to_string(arguments);
        check_out_size(shape.vertical);
        check_out_size(shape.horizontal);
        check_valid_taps(shape.vertical);
        check_valid_taps(shape.horizontal);
        check_classes(shape);
        ++cases;
      });
  state().where.clear();
  CHECK(cases > 1000);
}

std::int32_t square_classes(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                            std::int64_t pad, std::int64_t dilation) {
  const auto result = make_conv_shape({{1, 1, size, size},
                                       {1, 1, kernel, kernel},
                                       {stride, stride},
                                       {pad, pad, pad, pad},
                                       {dilation, dilation},
                                       1});
  CHECK(result.ok());
  return BorderClasses(result.shape).count();
}

void test_known_class_counts() {
  CHECK_EQUAL(square_classes(56, 3, 1, 1, 1), 9);
  CHECK_EQUAL(square_classes(3, 3, 1, 1, 1), 9);
  CHECK_EQUAL(square_classes(2, 3, 1, 1, 1), 4);
  CHECK_EQUAL(square_classes(1, 3, 1, 1, 1), 1);
  CHECK_EQUAL(square_classes(56, 3, 2, 1, 1), 4);
  CHECK_EQUAL(square_classes(55, 3, 2, 1, 1), 9);
  CHECK_EQUAL(square_classes(56, 7, 2, 3, 1), 16);
  CHECK_EQUAL(square_classes(56, 3, 1, 2, 2), 9);
  CHECK_EQUAL(square_classes(56, 3, 1, 0, 1), 1);
  CHECK_EQUAL(square_classes(56, 1, 2, 0, 1), 1);
}

}  // namespace

int main() {
  test_known_sizes();
  test_smallest_input();
  test_grouped_words();
  test_refusals();
  test_limits_that_are_valid();
  test_matrix();
  test_known_class_counts();
  return bitexport_test::finish();
}
