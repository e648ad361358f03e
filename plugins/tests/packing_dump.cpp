// Lets the Python tests ask the C++ core for packed words and for the op table.
//
//   packing_dump packing    requests from stdin, answers to stdout, until stdin ends
//   packing_dump op-table   the op table as JSON on stdout
//
// A request is five little-endian uint32, {direction, mode, rows, columns, bytes}, then that many
// bytes of data. direction: 0 packs, 1 unpacks. mode: 1 signs, 8 or 16 codes of so many bits.
// `columns` counts signs or codes, in either direction. Unpacked signs are uint8, unpacked codes
// uint16, words uint32, all little-endian.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/op_spec.h"
#include "core/packing.h"

namespace {

using bitexport::CodeBits;

struct Request {
  std::uint32_t direction;
  std::uint32_t mode;
  std::uint32_t rows;
  std::uint32_t columns;
  std::uint32_t bytes;
};

enum Direction : std::uint32_t { kPack = 0, kUnpack = 1 };
constexpr std::uint32_t kSigns = 1;

bool is_little_endian() {
  const std::uint32_t one = 1;
  unsigned char first = 0;
  std::memcpy(&first, &one, 1);
  return first == 1;
}

template <typename T>
std::vector<T> read_values(std::size_t count, std::uint32_t bytes) {
  if (count * sizeof(T) != bytes) {
    throw std::runtime_error("got " + std::to_string(bytes) + " bytes of data, expected " +
                             std::to_string(count * sizeof(T)));
  }
  std::vector<T> values(count);
  std::cin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(bytes));
  if (static_cast<std::uint32_t>(std::cin.gcount()) != bytes) {
    throw std::runtime_error("stdin ends within the data of a request");
  }
  return values;
}

template <typename T>
void write_values(const std::vector<T>& values) {
  std::cout.write(reinterpret_cast<const char*>(values.data()),
                  static_cast<std::streamsize>(values.size() * sizeof(T)));
}

// Turns rows of `from_columns` values into rows of `to_columns` values.
template <typename From, typename To, typename Convert>
void answer_rows(const Request& request, std::int64_t from_columns, std::int64_t to_columns,
                 Convert convert) {
  const auto from_size = static_cast<std::size_t>(request.rows * from_columns);
  const std::vector<From> from = read_values<From>(from_size, request.bytes);
  std::vector<To> to(static_cast<std::size_t>(request.rows * to_columns));
  for (std::int64_t row = 0; row < request.rows; ++row) {
    convert(from.data() + row * from_columns, to.data() + row * to_columns);
  }
  write_values(to);
}

void answer_signs(const Request& request) {
  const std::int64_t channels = request.columns;
  const std::int64_t words = bitexport::sign_words(channels);
  if (request.direction == kPack) {
    answer_rows<std::uint8_t, std::uint32_t>(
        request, channels, words,
        [channels](const auto* from, auto* to) { bitexport::pack_signs(from, channels, to); });
  } else {
    answer_rows<std::uint32_t, std::uint8_t>(
        request, words, channels,
        [channels](const auto* from, auto* to) { bitexport::unpack_signs(from, channels, to); });
  }
}

void answer_codes(const Request& request, CodeBits bits) {
  const std::int64_t count = request.columns;
  const std::int64_t words = bitexport::code_words(count, bits);
  if (request.direction == kPack) {
    answer_rows<std::uint16_t, std::uint32_t>(
        request, count, words, [count, bits](const auto* from, auto* to) {
          if (!bitexport::pack_codes(from, count, bits, to)) {
            throw std::runtime_error("a code does not fit in " +
                                     std::to_string(static_cast<int>(bits)) + " bits");
          }
        });
  } else {
    answer_rows<std::uint32_t, std::uint16_t>(request, words, count,
                                              [count, bits](const auto* from, auto* to) {
                                                bitexport::unpack_codes(from, count, bits, to);
                                              });
  }
}

void answer_packing() {
  if (!is_little_endian()) throw std::runtime_error("packing_dump needs a little-endian host");
  Request request;
  while (std::cin.read(reinterpret_cast<char*>(&request), sizeof(request))) {
    if (request.direction != kPack && request.direction != kUnpack) {
      throw std::runtime_error("direction must be 0 or 1, not " +
                               std::to_string(request.direction));
    }
    if (request.mode == kSigns) {
      answer_signs(request);
    } else if (request.mode == 8 || request.mode == 16) {
      answer_codes(request, static_cast<CodeBits>(request.mode));
    } else {
      throw std::runtime_error("mode must be 1, 8 or 16, not " + std::to_string(request.mode));
    }
    std::cout.flush();
  }
  if (std::cin.gcount() != 0) throw std::runtime_error("stdin ends within a request");
}

const char* dtype_name(bitexport::ElementType type) {
  switch (type) {
    case bitexport::ElementType::kActivation:
      return "T";
    case bitexport::ElementType::kFloat:
      return "float";
    case bitexport::ElementType::kFloat16:
      return "float16";
    case bitexport::ElementType::kInt32:
      return "int32";
  }
  return "unknown";
}

void print_op(const bitexport::OpSpec& op) {
  std::cout << "{\"name\": \"" << op.name << "\", \"kind\": \""
            << (op.kind == bitexport::OpKind::kConv ? "conv" : "gemm") << "\", \"inputs\": [";
  const char* comma = "";
  for (const bitexport::InputSpec& input : op.inputs) {
    std::cout << comma << "{\"name\": \"" << input.name << "\", \"dtype\": \""
              << dtype_name(input.type) << "\"}";
    comma = ", ";
  }
  std::cout << "], \"attributes\": [";
  comma = "";
  for (const bitexport::AttributeSpec& attribute : op.attributes) {
    std::cout << comma << "{\"name\": \"" << attribute.name << "\", \"count\": " << attribute.count
              << "}";
    comma = ", ";
  }
  std::cout << "]}";
}

// Names are ours and hold nothing that JSON would have to escape.
void print_op_table() {
  std::cout << "{\"domain\": \"" << bitexport::kDomain
            << "\", \"version\": " << bitexport::kOpVersion << ", \"plugin_attributes\": {";
  const char* comma = "";
  for (const bitexport::StringAttribute& attribute : bitexport::kPluginAttributes) {
    std::cout << comma << "\"" << attribute.name << "\": \"" << attribute.value << "\"";
    comma = ", ";
  }
  std::cout << "}, \"ops\": [";
  comma = "";
  for (const bitexport::OpSpec& op : bitexport::kOps) {
    std::cout << comma;
    print_op(op);
    comma = ", ";
  }
  std::cout << "]}\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string command = argc == 2 ? argv[1] : "";
    if (command == "packing") {
      answer_packing();
    } else if (command == "op-table") {
      print_op_table();
    } else {
      throw std::runtime_error("usage: packing_dump packing | op-table");
    }
  } catch (const std::exception& error) {
    std::cerr << "packing_dump: " << error.what() << "\n";
    return 2;
  }
  return 0;
}
