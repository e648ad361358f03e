// Border classes: the few ways in which zero padding can cut a kernel, so that inner loops need no
// branch.
//
// The exact-padding identity. Activations a and weights w are sign words, C the channels of a
// group, and a padded tap reads the word 0. Summed over all taps t of the kernel,
//
//     dot = sum over valid t of (C - 2 * popcount(a_t ^ w_t))
//         = C * n_valid - 2 * (sum over all t of popcount(a_t ^ w_t)
//                              - sum over invalid t of popcount(w_t)),
//
// because 0 ^ w_t = w_t at an invalid tap. What does not depend on a,
//
//     correction = C * n_valid + 2 * sum over invalid t of popcount(w_t),
//
// is the same for all output pixels with the same valid taps: a table of [classes, Co] holds it
// (9 classes for 3x3 with pads of 1 on an input of at least 3x3).

#ifndef BITEXPORT_CORE_BORDER_CLASSES_H_
#define BITEXPORT_CORE_BORDER_CLASSES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "core/packing.h"

namespace bitexport {

// The classes of one axis.
struct AxisClasses {
  std::vector<std::int32_t> class_of;  // [out_size]
  std::vector<TapRange> taps;          // [classes]

  std::int32_t count() const { return static_cast<std::int32_t>(taps.size()); }
};

// Sorts the output pixels of an axis by their valid taps. Both ends of the range move one way only
// as `out` grows, so that equal ranges are neighbours and comparing with the last class is enough.
inline AxisClasses axis_classes(const ConvAxis& axis) {
  AxisClasses classes;
  const std::int32_t out_size = axis.out_size();
  classes.class_of.reserve(static_cast<std::size_t>(out_size));
  for (std::int32_t out = 0; out < out_size; ++out) {
    const TapRange taps = axis.valid_taps(out);
    if (classes.taps.empty() || classes.taps.back().first != taps.first ||
        classes.taps.back().last != taps.last) {
      classes.taps.push_back(taps);
    }
    classes.class_of.push_back(classes.count() - 1);
  }
  return classes;
}

// The classes of both axes; a class of output pixels is a pair of one of each.
struct BorderClasses {
  AxisClasses vertical;
  AxisClasses horizontal;

  explicit BorderClasses(const ConvShape& shape)
      : vertical(axis_classes(shape.vertical)), horizontal(axis_classes(shape.horizontal)) {}

  std::int32_t count() const { return vertical.count() * horizontal.count(); }

  // Class of output pixel (row, column), from 0 to count() - 1.
  std::int32_t class_of(std::int32_t row, std::int32_t column) const {
    return vertical.class_of[static_cast<std::size_t>(row)] * horizontal.count() +
           horizontal.class_of[static_cast<std::size_t>(column)];
  }
  const TapRange& rows(std::int32_t border_class) const {
    return vertical.taps[static_cast<std::size_t>(border_class / horizontal.count())];
  }
  const TapRange& columns(std::int32_t border_class) const {
    return horizontal.taps[static_cast<std::size_t>(border_class % horizontal.count())];
  }
};

// The corrections of the xor form: dot = correction - 2 * popcount over all taps.
//
// weight: sign words [Co, kh, kw, words_per_tap]. Returns [classes, Co].
inline std::vector<std::int32_t> xor_corrections(const ConvShape& shape,
                                                 const BorderClasses& classes,
                                                 const std::uint32_t* weight) {
  std::vector<std::int32_t> corrections;
  corrections.reserve(static_cast<std::size_t>(classes.count()) *
                      static_cast<std::size_t>(shape.out_channels));
  for (std::int32_t border_class = 0; border_class < classes.count(); ++border_class) {
    const TapRange rows = classes.rows(border_class);
    const TapRange columns = classes.columns(border_class);
    const std::uint32_t* word = weight;
    for (std::int32_t co = 0; co < shape.out_channels; ++co) {
      std::int32_t correction = shape.in_channels_per_group() * rows.count() * columns.count();
      for (std::int32_t kh = 0; kh < shape.vertical.kernel; ++kh) {
        for (std::int32_t kw = 0; kw < shape.horizontal.kernel; ++kw) {
          const bool valid = rows.contains(kh) && columns.contains(kw);
          for (std::int32_t i = 0; i < shape.words_per_tap(); ++i, ++word) {
            if (!valid) correction += 2 * popcount(*word);
          }
        }
      }
      corrections.push_back(correction);
    }
  }
  return corrections;
}

}  // namespace bitexport

#endif  // BITEXPORT_CORE_BORDER_CLASSES_H_
