// Follows a plan of kernels/cuda/conv_plan.h on the host, kernel by kernel, as the launchers do.

#ifndef BITEXPORT_TESTS_EMULATED_CONV_H_
#define BITEXPORT_TESTS_EMULATED_CONV_H_

#include <cstdint>

#include "cuda_emulator.h"
#include "kernels/cuda/conv_main_loop.h"
#include "kernels/cuda/conv_plan.h"

namespace bitexport_test {

template <typename Block, typename Run>
void emulate_blocks(std::int64_t blocks, Run run) {
  // Backwards: the order of blocks must not matter.
  for (std::int64_t block = blocks - 1; block >= 0; --block) {
    HostExec<Block> exec;
    run(exec, block);
  }
}

template <typename Unit>
void emulate_transpose(const bitexport::cuda::PrologueArgs& args) {
  using namespace bitexport::cuda;
  emulate_blocks<TransposeBlock<Unit>>(args.blocks, [&](auto& exec, std::int64_t block) {
    transpose_tile<Unit>(args, exec, block);
  });
}

inline void emulate_prologue(const bitexport::cuda::ConvPlan& plan) {
  using namespace bitexport::cuda;
  const PrologueArgs& args = plan.prologue;
  switch (plan.prepare) {
    case Prepare::kNothing:
      break;
    case Prepare::kSignsOfFloats:
      emulate_transpose<SignUnit<float>>(args);
      break;
    case Prepare::kSignsOfHalves:
      emulate_transpose<SignUnit<std::uint16_t>>(args);
      break;
    case Prepare::kSignBytes:
      emulate_blocks<BytesBlock>(
          args.blocks, [&](auto& exec, std::int64_t block) { binarize_bytes(args, exec, block); });
      break;
    case Prepare::kHalves:
      emulate_transpose<HalfUnit>(args);
      break;
    case Prepare::kBfloats:
      emulate_transpose<BfloatUnit>(args);
      break;
  }
  emulate_blocks<CorrectionsBlock>(plan.correction_blocks, [&](auto& exec, std::int64_t block) {
    write_corrections(args, exec, block);
  });
}

// The direct kernel, or the reference.
template <bitexport::cuda::WeightKind kind, typename T>
void emulate_direct_kind(const bitexport::cuda::ConvPlan& plan) {
  using namespace bitexport::cuda;
  for (std::int64_t i = plan.direct.elements; i >= 0; --i) {
    if constexpr (kind == WeightKind::kBinary) {
      direct_element<kind, T, std::int32_t>(plan.direct, i);
    } else if (plan.tactic.reference) {
      direct_element<kind, T, double>(plan.direct, i);
    } else {
      direct_element<kind, T, float>(plan.direct, i);
    }
  }
}

template <bitexport::cuda::WeightKind kind>
void emulate_direct(const bitexport::cuda::ConvPlan& plan) {
  if (plan.type == bitexport::cuda::DataType::kFloat16) {
    emulate_direct_kind<kind, std::uint16_t>(plan);
  } else {
    emulate_direct_kind<kind, float>(plan);
  }
}

// Whether a block is emulated. Sanitized code takes long to compile; where BITEXPORT_TEST_PART is
// defined, a part of the blocks stands for all: with bits every pair of arithmetic, tile and copy
// size is among it, else every pair of tile and source.
constexpr bool is_emulated(bitexport::cuda::MmaOp op, bitexport::cuda::WeightSource source,
                           int tile, int chunk_bytes) {
#if defined(BITEXPORT_TEST_PART)
  const int chunk = chunk_bytes == 4 ? 0 : chunk_bytes == 8 ? 1 : 2;
  return source == bitexport::cuda::WeightSource::kBits
             ? (static_cast<int>(op) + tile + chunk) % 3 == 0
             : (static_cast<int>(op) + static_cast<int>(source) + tile) % 2 == 0;
#else
  static_cast<void>(op);
  static_cast<void>(source);
  static_cast<void>(chunk_bytes);
  return tile < bitexport::cuda::kTileCount;
#endif
}

template <typename Block>
constexpr int tile_of() {
  int tile = 0;
  while (bitexport::cuda::kTiles[tile].rows != Block::kRows ||
         bitexport::cuda::kTiles[tile].columns != Block::kColumns) {
    ++tile;
  }
  return tile;
}

// Whether the main kernel of a plan is emulated. `Visit` is as for emulate_plan.
template <typename Visit>
bool is_emulated(const bitexport::cuda::ConvPlan& plan, Visit visit) {
  if (plan.tactic.family == bitexport::cuda::Family::kDirect) return true;
  bool emulated = false;
  visit(plan, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    emulated = is_emulated(Block::kOp, Block::kSource, tile_of<Block>(), Block::kChunkBytes);
  });
  return emulated;
}

// The main kernel of the families that visit(plan, with_block) knows: a test instantiates only what
// it runs.
template <typename Visit>
void emulate_plan(const bitexport::cuda::ConvPlan& plan, Visit visit) {
  using namespace bitexport::cuda;
  emulate_prologue(plan);
  if (plan.expands) {
    for (std::int64_t i = plan.expand.vectors; i >= 0; --i) expand_codes(plan.expand, i);
  }
  bool known = false;
  visit(plan, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    if constexpr (is_emulated(Block::kOp, Block::kSource, tile_of<Block>(), Block::kChunkBytes)) {
      known = true;
      emulate_blocks<Block>(plan.conv_blocks, [&](auto& exec, std::int64_t block) {
        ConvMainLoop<Block, HostExec<Block>>(plan.conv, exec, block).run();
      });
    }
  });
  CHECK(known);
}

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_EMULATED_CONV_H_
