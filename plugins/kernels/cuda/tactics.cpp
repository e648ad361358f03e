#include "kernels/cuda/tactics.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/host_device.h"
#include "kernels/cuda/prologue.h"

namespace bitexport {
namespace cuda {

namespace {

constexpr Family kFamilies[] = {Family::kXor,   Family::kAnd,   Family::kBytes, Family::kSigns,
                                Family::kCodes, Family::kDense, Family::kDirect};

bool has_codebook(const ConvProblem& problem) {
  return problem.kind == WeightKind::kCodebook8 || problem.kind == WeightKind::kCodebook16;
}

std::int64_t blocks_of(const ConvShape& shape, const TileSize& tile) {
  const std::int64_t pixels =
      std::int64_t{shape.batch} * shape.vertical.out_size() * shape.horizontal.out_size();
  return ceil_div<std::int64_t>(pixels, tile.rows) *
         ceil_div(shape.out_channels_per_group(), tile.columns) * shape.group;
}

// The bytes of shared memory of a tile, or -1 where the family has no such tile.
std::int64_t shared_bytes(Family family, DataType type, int tile) {
  std::int64_t bytes = -1;
  visit_block(family, type, tile, 16, [&bytes](auto tag) {
    bytes = static_cast<std::int64_t>(decltype(tag)::Type::kSharedBytes);
  });
  return bytes;
}

// A guess at the time, to order tactics by: rounds of blocks on a GPU of about a hundred
// multiprocessors, times what a block does in a round. A small tile reads its operands more often.
double guess(const ConvShape& shape, Family family, const TileSize& tile) {
  constexpr double kMultiprocessors = 100;
  const auto blocks = static_cast<double>(blocks_of(shape, tile));
  const double area = static_cast<double>(tile.rows) * tile.columns;
  const double reads = static_cast<double>(tile.rows + tile.columns) * 16;
  const double rounds = blocks <= kMultiprocessors ? 1.0 : blocks / kMultiprocessors;
  // Native MMA of bits does 32 bytes of K at once, int8 MMA an eighth of it; codes cost look-ups.
  const double factor = family == Family::kBytes ? 3.0 : family == Family::kCodes ? 1.3 : 1.0;
  return rounds * (area + reads) * factor;
}

}  // namespace

Tactic parse_tactic(int number) {
  if (number == kReferenceTactic) return {Family::kDirect, 0, true, true};
  for (const Family family : kFamilies) {
    const int tile = number - conv_tactic(family, 0);
    if (0 <= tile && tile < (family == Family::kDirect ? 1 : kTileCount)) {
      return {family, tile, false, true};
    }
  }
  return {Family::kDirect, 0, false, false};
}

bool family_takes(Family family, const ConvProblem& problem) {
  const ConvShape& shape = problem.shape;
  if (family == Family::kDirect) return true;
  const bool binary = problem.kind == WeightKind::kBinary;
  switch (family) {
    case Family::kXor:
    case Family::kAnd:
    case Family::kBytes:
      if (!binary) return false;
      break;
    case Family::kSigns:
      if (problem.kind != WeightKind::kSign) return false;
      break;
    default:
      if (!has_codebook(problem)) return false;
  }
  if (family == Family::kDense && problem.type != DataType::kFloat16) return false;
  // The epilogue writes eight channels of one group at once.
  if (problem.layout == Layout::kNhwc8 && shape.group > 1 &&
      shape.out_channels_per_group() % 8 != 0) {
    return false;
  }
  if (binary && std::max(shape.vertical.kernel, shape.horizontal.kernel) > kMostTapsOfAxis) {
    return false;
  }
  // K, counted in units of every plane, stays well within int32.
  const std::int64_t units =
      std::int64_t{shape.taps()} * shape.words_per_tap() * 4 * (kBfloatTerms + kBfloatTermsOfHalf);
  return units < std::int64_t{1} << 30;
}

bool device_has(Family family, DataType type, int compute_capability) {
  const bool real =
      family == Family::kSigns || family == Family::kCodes || family == Family::kDense;
  if (real && type == DataType::kFloat32) return compute_capability >= 80;  // bfloat16
  switch (family) {
    case Family::kXor:
      return 75 <= compute_capability && compute_capability < 90;
    case Family::kAnd:
      return 90 <= compute_capability && compute_capability < 100;
    default:
      return compute_capability >= 75;
  }
}

std::int64_t most_shared_bytes(int compute_capability) {
  // CUDA C++ Programming Guide, "Technical specifications per compute capability".
  switch (compute_capability) {
    case 75:
      return 64 << 10;
    case 80:
    case 87:
      return 163 << 10;
    case 90:
    case 100:
    case 103:
    case 110:
      return 227 << 10;
    default:
      return 99 << 10;
  }
}

bool is_consistent(const ConvProblem& problem) {
  const ConvShape& shape = problem.shape;
  if (problem.layout == Layout::kNhwc8 && problem.type != DataType::kFloat16) return false;
  if (!has_codebook(problem)) return problem.entries == 0 && problem.depth == 0;
  const std::int32_t most = problem.kind == WeightKind::kCodebook8 ? 1 << 8 : 1 << 16;
  const std::int32_t row = shape.in_channels_per_group() * shape.taps();
  return 1 <= problem.entries && problem.entries <= most && problem.depth >= 1 &&
         row % problem.depth == 0;
}

int list_conv_tactics(const ConvProblem& problem, int compute_capability, int* tactics,
                      int capacity) {
  if (!is_consistent(problem)) return 0;
  struct Ranked {
    int number;
    double time;
  };
  const ConvShape& shape = problem.shape;
  // A tensor core would multiply mostly by padding.
  const bool thin = shape.in_channels_per_group() < 8 || shape.out_channels_per_group() < 8;
  std::vector<Ranked> ranked;
  for (const Family family : kFamilies) {
    if (family == Family::kDirect || (thin && shape.group > 1)) continue;
    if (!family_takes(family, problem) || !device_has(family, problem.type, compute_capability)) {
      continue;
    }
    for (int tile = 0; tile < kTileCount; ++tile) {
      const std::int64_t bytes = shared_bytes(family, problem.type, tile);
      if (bytes < 0 || bytes > most_shared_bytes(compute_capability)) continue;
      ranked.push_back({conv_tactic(family, tile), guess(shape, family, kTiles[tile])});
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.time < b.time; });
  ranked.push_back({conv_tactic(Family::kDirect, 0), 0.0});
  for (int i = 0; i < capacity && i < static_cast<int>(ranked.size()); ++i) {
    tactics[i] = ranked[static_cast<std::size_t>(i)].number;
  }
  return static_cast<int>(ranked.size());
}

}  // namespace cuda
}  // namespace bitexport
