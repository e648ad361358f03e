// The op table: names, inputs and attributes of the custom ops, as every adapter registers them.
//
// bitexport/ops/table.py is the Python side; tests/test_packing_cpp.py holds the two equal.

#ifndef BITEXPORT_CORE_OP_SPEC_H_
#define BITEXPORT_CORE_OP_SPEC_H_

#include <string_view>

#include "core/activation.h"

namespace bitexport {

inline constexpr const char* kDomain = "bitexport";
inline constexpr int kOpVersion = 1;

// Names are C strings, because both runtimes take them so.
struct StringAttribute {
  const char* name;
  const char* value;
};

// TensorRT (10.15 and later) prefers a plugin to a function body of the same name only where the
// node says which plugin it means.
inline constexpr StringAttribute kPluginAttributes[] = {
    {"plugin_namespace", kDomain},
    {"plugin_version", "1"},
};

// kActivation is the type parameter T of the op: float or float16.
enum class ElementType { kActivation, kFloat, kFloat16, kInt32 };

enum class OpKind { kConv, kGemm };

struct InputSpec {
  const char* name;
  ElementType type;
};

// An integer attribute that every node carries; count 0 is one integer that is not a list.
struct AttributeSpec {
  const char* name;
  int count;
};

// A view of a constexpr array (C++17 has no std::span).
template <typename T>
struct Rows {
  const T* first;
  int count;

  template <int kCount>
  constexpr Rows(const T (&rows)[kCount]) : first(rows), count(kCount) {}
  constexpr Rows(const T* rows, int size) : first(rows), count(size) {}

  constexpr const T* begin() const { return first; }
  constexpr const T* end() const { return first + count; }
  constexpr const T& operator[](int index) const { return first[index]; }
};

struct OpSpec {
  const char* name;
  OpKind kind;
  Rows<InputSpec> inputs;
  Rows<AttributeSpec> attributes;
};

// ---- Input indices ------------------------------------------------------------------------------

struct SignConvInput {
  enum : int { kX, kW, kS, kB, kCount };
};

struct BinaryConvInput {
  enum : int { kX, kW, kTh, kS, kB, kCount };
};

struct BinaryConvAddInput {
  enum : int { kX, kW, kTh, kS, kB, kR, kCount };
};

// The ops with an activation after it continue BinaryConv's or BinaryConvAdd's inputs, by name.

// CodebookConv, CodebookConv16 and CodebookGemm.
struct CodebookInput {
  enum : int { kX, kCodes, kCB, kS, kB, kCount };
};

// ---- The table ----------------------------------------------------------------------------------

namespace op_spec_detail {

inline constexpr InputSpec kSignConvInputs[] = {
    {"X", ElementType::kActivation},
    {"W", ElementType::kInt32},
    {"S", ElementType::kFloat},
    {"B", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32}, {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvAddInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32}, {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat}, {"R", ElementType::kActivation},
};

inline constexpr InputSpec kBinaryConvPReluInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32}, {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat}, {"Slope", ElementType::kFloat},
    {"Shift", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvAddPReluInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32},
    {"Th", ElementType::kFloat},     {"S", ElementType::kFloat},
    {"B", ElementType::kFloat},      {"R", ElementType::kActivation},
    {"Slope", ElementType::kFloat},  {"Shift", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvClipInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32}, {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat}, {"Lo", ElementType::kFloat},
    {"Hi", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvAddClipInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32},  {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat},  {"R", ElementType::kActivation},
    {"Lo", ElementType::kFloat},     {"Hi", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvSignInputs[] = {
    {"X", ElementType::kActivation}, {"W", ElementType::kInt32}, {"Th", ElementType::kFloat},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat}, {"Next", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvOfSignsInputs[] = {
    {"Signs", ElementType::kActivation},
    {"W", ElementType::kInt32},
    {"S", ElementType::kFloat},
    {"B", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvOfSignsClipInputs[] = {
    {"Signs", ElementType::kActivation}, {"W", ElementType::kInt32},  {"S", ElementType::kFloat},
    {"B", ElementType::kFloat},          {"Lo", ElementType::kFloat}, {"Hi", ElementType::kFloat},
};

inline constexpr InputSpec kBinaryConvOfSignsSignInputs[] = {
    {"Signs", ElementType::kActivation}, {"W", ElementType::kInt32},    {"S", ElementType::kFloat},
    {"B", ElementType::kFloat},          {"Next", ElementType::kFloat},
};

inline constexpr InputSpec kCodebookInputs[] = {
    {"X", ElementType::kActivation}, {"Codes", ElementType::kInt32}, {"CB", ElementType::kFloat16},
    {"S", ElementType::kFloat},      {"B", ElementType::kFloat},
};

inline constexpr AttributeSpec kConvAttributes[] = {
    {"strides", 2}, {"pads", 4}, {"dilations", 2}, {"group", 0}, {"wshape", 4},
};

inline constexpr AttributeSpec kGemmAttributes[] = {{"wshape", 2}};

}  // namespace op_spec_detail

inline constexpr OpSpec kOps[] = {
    {"SignConv", OpKind::kConv, op_spec_detail::kSignConvInputs, op_spec_detail::kConvAttributes},
    {"BinaryConv", OpKind::kConv, op_spec_detail::kBinaryConvInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvAdd", OpKind::kConv, op_spec_detail::kBinaryConvAddInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvPRelu", OpKind::kConv, op_spec_detail::kBinaryConvPReluInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvAddPRelu", OpKind::kConv, op_spec_detail::kBinaryConvAddPReluInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvClip", OpKind::kConv, op_spec_detail::kBinaryConvClipInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvAddClip", OpKind::kConv, op_spec_detail::kBinaryConvAddClipInputs,
     op_spec_detail::kConvAttributes},
    {"CodebookConv", OpKind::kConv, op_spec_detail::kCodebookInputs,
     op_spec_detail::kConvAttributes},
    {"CodebookConv16", OpKind::kConv, op_spec_detail::kCodebookInputs,
     op_spec_detail::kConvAttributes},
    {"CodebookGemm", OpKind::kGemm, op_spec_detail::kCodebookInputs,
     op_spec_detail::kGemmAttributes},
    // Of chains, see core/sign_planes.h: the last ones, as no GPU has them.
    {"BinaryConvSign", OpKind::kConv, op_spec_detail::kBinaryConvSignInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvOfSigns", OpKind::kConv, op_spec_detail::kBinaryConvOfSignsInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvOfSignsClip", OpKind::kConv, op_spec_detail::kBinaryConvOfSignsClipInputs,
     op_spec_detail::kConvAttributes},
    {"BinaryConvOfSignsSign", OpKind::kConv, op_spec_detail::kBinaryConvOfSignsSignInputs,
     op_spec_detail::kConvAttributes},
};

// Index of an op_type in kOps; -1 where it has none. An index, because GCC does not compare the
// addresses of constexpr objects at compile time when it builds with UBSan.
constexpr int op_index(std::string_view op_type) {
  int index = 0;
  for (const OpSpec& op : kOps) {
    if (op_type == op.name) return index;
    ++index;
  }
  return -1;
}

// Index of the input called `name`; -1 where the op has none.
constexpr int input_index(const OpSpec& op, std::string_view name) {
  for (int i = 0; i < op.inputs.count; ++i) {
    if (name == op.inputs[i].name) return i;
  }
  return -1;
}

// Whether an op takes the signs that another one made, or makes some.
constexpr bool takes_signs(const OpSpec& op) { return input_index(op, "Signs") >= 0; }
constexpr bool makes_signs(const OpSpec& op) { return input_index(op, "Next") >= 0; }
constexpr bool is_chained(const OpSpec& op) { return takes_signs(op) || makes_signs(op); }

// Whether the activations of an op are bits: it takes signs, or compares X with a threshold.
constexpr bool has_binary_activations(const OpSpec& op) {
  return takes_signs(op) || input_index(op, "Th") >= 0;
}

constexpr Activation activation_of(const OpSpec& op) {
  if (input_index(op, "Slope") >= 0) return Activation::kPRelu;
  return input_index(op, "Lo") >= 0 ? Activation::kClip : Activation::kNone;
}

// ---- The indices and the table agree ------------------------------------------------------------

namespace op_spec_detail {

constexpr bool names_are_unique() {
  int index = 0;
  for (const OpSpec& op : kOps) {
    if (op_index(op.name) != index++) return false;
  }
  return true;
}

constexpr int count_before_chains() {
  int count = 0;
  while (!is_chained(kOps[count])) ++count;
  return count;
}

constexpr bool chains_come_last() {
  int index = 0;
  for (const OpSpec& op : kOps) {
    if (is_chained(op) != (index++ >= count_before_chains())) return false;
  }
  return true;
}

struct NamedIndex {
  const char* name;
  int index;
};

template <int kCount>
constexpr bool has_inputs(const char* op_type, const NamedIndex (&inputs)[kCount]) {
  const int index = op_index(op_type);
  if (index < 0 || kOps[index].inputs.count != kCount) return false;
  for (const NamedIndex& input : inputs) {
    if (input_index(kOps[index], input.name) != input.index) return false;
  }
  return true;
}

constexpr bool has_codebook_inputs(const char* op_type) {
  using In = CodebookInput;
  return has_inputs(
      op_type,
      {{"X", In::kX}, {"Codes", In::kCodes}, {"CB", In::kCB}, {"S", In::kS}, {"B", In::kB}});
}

constexpr bool indices_match_the_table() {
  using Sign = SignConvInput;
  using Binary = BinaryConvInput;
  using Add = BinaryConvAddInput;
  return has_inputs("SignConv",
                    {{"X", Sign::kX}, {"W", Sign::kW}, {"S", Sign::kS}, {"B", Sign::kB}}) &&
         has_inputs("BinaryConv", {{"X", Binary::kX},
                                   {"W", Binary::kW},
                                   {"Th", Binary::kTh},
                                   {"S", Binary::kS},
                                   {"B", Binary::kB}}) &&
         has_inputs("BinaryConvAdd", {{"X", Add::kX},
                                      {"W", Add::kW},
                                      {"Th", Add::kTh},
                                      {"S", Add::kS},
                                      {"B", Add::kB},
                                      {"R", Add::kR}}) &&
         has_codebook_inputs("CodebookConv") && has_codebook_inputs("CodebookConv16") &&
         has_codebook_inputs("CodebookGemm");
}

static_assert(names_are_unique(), "two ops of the table share a name");
static_assert(indices_match_the_table(), "an input index is not the input's place in the table");
static_assert(chains_come_last(), "an op that GPUs have follows one of chains");

}  // namespace op_spec_detail

// The ops that have kernels for a GPU; op_index counts in them, too.
inline constexpr Rows<OpSpec> kDeviceOps(kOps, op_spec_detail::count_before_chains());

}  // namespace bitexport

#endif  // BITEXPORT_CORE_OP_SPEC_H_
